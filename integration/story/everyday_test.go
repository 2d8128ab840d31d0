package story

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"strata/integration/harness"
)

// What a comparison with dockerd, command by command, showed to be otherwise.
func TestEverydayCommandsDoWhatDockersDo(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	for i, client := range clients {
		t.Run(client, func(t *testing.T) {
			s.For(t)
			ok := func(args ...string) string { t.Helper(); return s.OK(client, args...) }
			port := strconv.Itoa(8090 + i)
			ok("run", "-d", "--name", "box", "-p", port+":80", "busybox:test", "sleep", "1000")
			defer s.OK(client, "rm", "-f", "box")
			for filter, want := range map[string]string{"publish=" + port: "box", "publish=" + port + "/udp": "", "publish=80": "", "expose=80": "box", "publish=8000-9000": "box"} {
				if got := ok("ps", "--filter", filter, "--format", "{{.Names}}"); got != want {
					t.Errorf("ps --filter %s printed %q, want %q", filter, got, want)
				}
			}
			for network, want := range map[string]string{"none": "[] {}", "host": "[] {}", "bridge": `[80/tcp] {"80/tcp":null}`} {
				ok("run", "-d", "--name", "exposed", "--network", network, "--expose", "80", "busybox:test", "sleep", "1000")
				got := ok("ps", "--filter", "name=exposed", "--format", "[{{.Ports}}]") + " " + ok("inspect", "-f", "{{json .NetworkSettings.Ports}}", "exposed")
				if got != want {
					t.Errorf("an exposed port on network %s is shown as %s, want %s", network, got, want)
				}
				ok("rm", "-f", "exposed")
			}
			ok("exec", "box", "test", "-e", "/.dockerenv")
			resized := s.Run(s.Host("curl", "-sS", "--unix-socket", s.EngineSocket(), "-X", "POST", "-w", "%{http_code}", "http://x/v1.43/containers/box/resize?h=10&w=20"))
			if resized.Stdout != "200" {
				t.Errorf("resize of a container without a terminal: %+v", resized)
			}
			if out := ok("diff", "box"); out != "" {
				t.Errorf("diff of a container that did nothing printed:\n%s", out)
			}
			content := filepath.Join(s.Root, "content-"+client)
			ok("cp", "box:/data/.", content)
			if b, err := os.ReadFile(filepath.Join(content, "from-image")); err != nil || string(b) != "copied up\n" {
				t.Errorf("cp of a directory's content to a new name: %q, %v", b, err)
			}
			if out := ok("events", "--since", "0", "--until", "1"); out != "" {
				t.Errorf("events of 1970: %q", out)
			}
			r := s.Run(s.Command(client, "run", "--rm", "--network", "container:nobody-here", "busybox:test", "true"))
			if r.Code != 125 || !strings.Contains(r.Stderr, "No such container: nobody-here") || strings.Contains(r.Stderr, "Unable to find image") {
				t.Errorf("network of nobody: %+v", r)
			}
			r = s.Run(s.Command(client, "run", "--rm", "--volumes-from", "nobody-here", "busybox:test", "true"))
			if r.Code != 125 || !strings.Contains(r.Stderr, "No such container: nobody-here") || strings.Contains(r.Stderr, "Unable to find image") {
				t.Errorf("volumes of nobody: %+v", r)
			}
			r = s.Run(s.Command(client, "exec", "box", "no-such-command"))
			if want := `unable to start container process: exec: "no-such-command": executable file not found in $PATH`; r.Code != 127 || !strings.HasSuffix(strings.TrimSpace(r.Stdout+r.Stderr), want) || strings.Count(r.Stdout+r.Stderr, "start exec") > 1 {
				t.Errorf("exec of nothing: %+v", r)
			}
			r = s.Run(s.Command(client, "exec", "-w", "/nowhere", "box", "true"))
			if !strings.Contains(r.Stdout+r.Stderr, `chdir to cwd ("/nowhere")`) {
				t.Errorf("exec in a directory that is not there: %+v", r)
			}
			if out := ok("system", "df", "-v", "--format", "{{range .Containers}}{{.Names}} {{end}}"); out != "box " && out != "box" {
				t.Errorf("df -v with a template printed %q", out)
			}
			cmd := s.Command(client, "import", "-", "garbage:1")
			cmd.Stdin = strings.NewReader("this is no archive")
			if r := s.Run(cmd); r.Code != 1 || !strings.Contains(r.Stderr, "archive") {
				t.Errorf("import of garbage: %+v", r)
			}
			if out := ok("images", "-q", "garbage"); out != "" {
				t.Errorf("import of garbage left %q", out)
			}
		})
	}
}

func TestAStartBeginsToCountRestartsAnew(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	state := func() string {
		return s.OK("engine", "inspect", "-f", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "box")
	}
	s.OK("engine", "run", "-d", "--name", "box", "--network", "none", "--restart", "on-failure:2", "busybox:test", "sh", "-c", "echo run; exit 3")
	for starts := 1; starts <= 2; starts++ {
		if !harness.Eventually(20*time.Second, func() bool { return state() == "2 exited 3" }) {
			t.Fatalf("after start %d: %s, want 2 restarts and the end", starts, state())
		}
		if got := strings.Count(s.OK("engine", "logs", "box"), "run"); got != 3*starts {
			t.Errorf("after start %d it has run %d times, want %d", starts, got, 3*starts)
		}
		if starts == 1 {
			s.OK("engine", "start", "box")
		}
	}
	s.OK("engine", "rm", "box")
}

// A pipe in the place of the log file, which nobody reads at first, stands for a disk that
// takes nothing.
func TestNonBlockingLogsDoNotHoldTheContainerUp(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	const lines = 100000
	id := s.OK("docker", "create", "--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=256k", "--network", "none", "busybox:test", "seq", strconv.Itoa(lines))
	path := filepath.Join(s.Root, "lib/engine/containers", id, id+"-json.log")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	s.OK("docker", "start", id)
	if !harness.Eventually(20*time.Second, func() bool { return s.OK("docker", "ps", "-q", "--filter", "id="+id) == "" }) {
		t.Error("the container waits for the disk")
	}
	disk, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := disk.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	whole, said := 0, 0
	for sc := bufio.NewScanner(disk); whole+said < lines && sc.Scan(); {
		line := sc.Text()
		if _, rest, ok := strings.Cut(line, "[strata: "); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil || !strings.Contains(rest, "mode=non-blocking") {
				t.Fatalf("the log says %q", line)
			}
			said += n
			continue
		}
		if whole++; !strings.Contains(line, `"log":"`+strconv.Itoa(whole+said)+`\n"`) {
			t.Fatalf("line %d of the log is %q", whole+said, line)
		}
	}
	if whole+said != lines || said == 0 {
		t.Errorf("%d lines and %d said to be dropped, want %d together and some dropped", whole, said, lines)
	}
	if out := s.OK("docker", "wait", id); out != "0" {
		t.Errorf("seq ended with %s", out)
	}
	s.OK("docker", "rm", id)
	r := s.Docker("run", "--rm", "--log-opt", "max-buffer-size=1m", "busybox:test", "true")
	if r.Code != 125 || !strings.Contains(r.Stderr, "only supported with 'mode=non-blocking'") {
		t.Errorf("a buffer without the mode: %+v", r)
	}
}

// A fact that the supervisor tells late must not undo what a client has done since.
func TestWhatWasResumedIsNotPausedAgain(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	s.OK("engine", "run", "-d", "--name", "box", "--network", "none", "busybox:test", "sleep", "1000")
	defer s.OK("engine", "rm", "-f", "box")
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", s.EngineSocket())
	}}}
	ask := func(method, path string) []byte {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://x/v1.43/containers/box/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s, %s, %v", method, path, resp.Status, body, err)
		}
		return body
	}
	const times = 200
	since := time.Now()
	for range times {
		ask(http.MethodPost, "pause")
		ask(http.MethodPost, "unpause")
		for range 3 {
			var c struct{ State struct{ Status string } }
			if err := json.Unmarshal(ask(http.MethodGet, "json"), &c); err != nil || c.State.Status != "running" {
				t.Fatalf("resumed, it is %q, %v", c.State.Status, err)
			}
		}
	}
	told := s.OK("engine", "events", "--since", since.Format(time.RFC3339Nano), "--until", time.Now().Format(time.RFC3339Nano), "--filter", "container=box", "--format", "{{.Action}}")
	if n := strings.Count("\n"+told, "\npause"); n != times {
		t.Errorf("%d times paused, %d events of it", times, n)
	}
}
