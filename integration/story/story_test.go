// Package story tells, with both command lines, the story of the first container: what a
// developer types on a first day, and what must survive when the daemons are killed.
package story

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strata/integration/harness"
)

// clients are the command lines that must see the same.
var clients = []string{"engine", "docker"}

func TestStory(t *testing.T) {
	s := harness.New(t)
	registry := s.Registry()
	image := registry + "/demo/nginx:1"
	s.OK("engine", "load", "-i", s.NginxArchive())
	s.OK("engine", "tag", "nginx:test", image)
	if out := s.OK("engine", "push", image); !strings.Contains(out, "digest: sha256:") {
		t.Errorf("push printed no digest:\n%s", out)
	}
	s.LoadBusybox()
	for i, client := range clients {
		t.Run(client, func(t *testing.T) {
			tell(t, s.For(t), client, image, 8080+i)
		})
	}
}

// tell plays the story with one client and one host port.
func tell(t *testing.T, s *harness.Stack, client, image string, port int) {
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	web, volume := "web-"+client, "data-"+client
	ok := func(args ...string) string { t.Helper(); return s.OK(client, args...) }

	ok("rmi", "-f", image)
	if out := ok("pull", image); !strings.Contains(out, "Status: Downloaded newer image for "+image) && !strings.Contains(out, "Image is up to date") {
		t.Errorf("pull printed:\n%s", out)
	}
	ok("run", "-d", "-p", fmt.Sprintf("%d:80", port), "--name", web, "-v", volume+":/usr/share/nginx/html", "-m", "256m", "--cpus", "0.5", image)
	answers(t, s, url, "Welcome to nginx")
	if out := ok("ps"); !strings.Contains(out, web) || !strings.Contains(out, fmt.Sprintf("0.0.0.0:%d->80/tcp", port)) {
		t.Errorf("ps printed:\n%s", out)
	}
	if out := ok("inspect", "--format", "{{.State.Status}}", web); out != "running" {
		t.Errorf("status = %q, want running", out)
	}
	if out := ok("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", web); !strings.Contains(out, "256MiB") {
		t.Errorf("stats printed %q, want the limit of 256MiB", out)
	}
	if out := ok("exec", web, "cat", "/usr/share/nginx/html/index.html"); !strings.Contains(out, "Welcome") {
		t.Errorf("the volume was not filled from the image: %q", out)
	}
	ok("exec", web, "sh", "-c", "echo changed > /usr/share/nginx/html/index.html")
	answers(t, s, url, "changed")
	terminal(t, s, client, web)
	daemonsDie(t, s, client, web, url)

	ok("restart", "-t", "5", web)
	answers(t, s, url, "changed")
	ok("stop", web)
	if _, failure := s.Curl(url); failure == "" {
		t.Error("a stopped container answers")
	}
	ok("start", web)
	answers(t, s, url, "changed")
	ok("rm", "-f", web)
	if out := ok("volume", "ls", "-q"); !strings.Contains(out, volume) {
		t.Errorf("volume ls printed %q, want %s to survive", out, volume)
	}
	if out := ok("run", "--rm", "-v", volume+":/v", "busybox:test", "cat", "/v/index.html"); out != "changed" {
		t.Errorf("the volume holds %q", out)
	}
	ok("volume", "rm", volume)
}

func answers(t *testing.T, s *harness.Stack, url, want string) {
	t.Helper()
	var body, failure string
	if !harness.Eventually(10*time.Second, func() bool { body, failure = s.Curl(url); return strings.Contains(body, want) }) {
		t.Fatalf("%s answers %q %s, want %q\n%s", url, body, failure, want, s.Logs())
	}
}

// terminal works in the container through `exec -it`: prompt, size, Ctrl-C, detach keys.
func terminal(t *testing.T, s *harness.Stack, client, web string) {
	t.Helper()
	term := harness.StartTerminal(t, s.Command(client, "exec", "-it", web, "sh"))
	term.Expect("# ")
	term.Type("stty size\r")
	term.Expect("24 80")
	term.Resize(30, 100)
	if !harness.Eventually(10*time.Second, func() bool {
		term.Type("stty size\r")
		return strings.Contains(term.Screen(), "30 100")
	}) {
		t.Errorf("the new size did not arrive:\n%s", term.Screen())
	}
	term.Type("sleep 1000\r")
	term.Expect("sleep 1000")
	term.Type("\x03")
	term.Expect("# ")
	term.Type("exit 3\r")
	if code := term.Wait(); code != 3 {
		t.Errorf("exec -it ended with %d, want 3", code)
	}
	term = harness.StartTerminal(t, s.Command(client, "exec", "-it", web, "sh"))
	term.Expect("# ")
	term.Type("\x10\x11")
	term.Wait()
	if !strings.Contains(term.Screen(), "escape sequence") {
		t.Errorf("detaching printed:\n%s", term.Screen())
	}
}

// daemonsDie kills both daemons while the container serves and a counter logs.
func daemonsDie(t *testing.T, s *harness.Stack, client, web, url string) {
	t.Helper()
	counter := "counter-" + client
	s.OK(client, "run", "-d", "--name", counter, "--network", "none", "busybox:test", "sh", "-c", "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.01; done")
	before := strings.Count(s.OK(client, "logs", counter), "\n")
	s.KillEngine()
	s.KillSupervisor()
	for range 20 {
		if body, failure := s.Curl(url); failure != "" {
			t.Errorf("with both daemons dead: %q %s", body, failure)
		}
	}
	s.StartSupervisor()
	s.StartEngine()
	s.WaitReady()
	if out := s.OK(client, "ps", "--format", "{{.Names}} {{.Status}}"); !strings.Contains(out, web+" Up") || !strings.Contains(out, counter+" Up") {
		t.Errorf("ps after the restart printed:\n%s", out)
	}
	if out := s.OK(client, "exec", web, "echo", "still here"); out != "still here" {
		t.Errorf("exec after the restart printed %q", out)
	}
	s.OK(client, "stop", "-t", "0", counter)
	lines := strings.Split(s.OK(client, "logs", counter), "\n")
	for i, line := range lines {
		if line != fmt.Sprintf("line %d", i) {
			t.Fatalf("log line %d of %d = %q: a line is missing", i, len(lines), line)
		}
	}
	if len(lines) <= before {
		t.Errorf("%d log lines, of which %d are from before the kill", len(lines), before)
	}
	s.OK(client, "rm", counter)
}

func TestRunPassesStreamsAndExitCodes(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	for _, client := range clients {
		t.Run(client, func(t *testing.T) {
			s.For(t)
			run := func(stdin string, args ...string) harness.Result {
				t.Helper()
				cmd := s.Command(client, append([]string{"run", "--rm"}, args...)...)
				if stdin != "" {
					cmd.Stdin = strings.NewReader(stdin)
				}
				return s.Run(cmd)
			}
			if r := run("", "busybox:test", "echo", "hello"); r.Stdout != "hello\n" || r.Code != 0 {
				t.Errorf("echo: %+v", r)
			}
			if r := run("x\n", "-i", "busybox:test", "cat"); r.Stdout != "x\n" || r.Code != 0 {
				t.Errorf("cat: %+v", r)
			}
			if r := run("", "busybox:test", "sh", "-c", "echo out; echo err >&2; exit 7"); r.Stdout != "out\n" || r.Stderr != "err\n" || r.Code != 7 {
				t.Errorf("exit 7: %+v", r)
			}
			if r := run("", "busybox:test", "no-such-command"); r.Code != 127 || !strings.Contains(r.Stderr, "no-such-command") {
				t.Errorf("missing command: %+v", r)
			}
			if r := run("", "busybox:test", "/etc/not-executable"); r.Code != 126 {
				t.Errorf("command that is not executable: %+v", r)
			}
			if r := run("", "no-such-image:1"); r.Code != 125 {
				t.Errorf("missing image: %+v", r)
			}
			if r := run("", "--network", "none", "--init", "busybox:test", "sh", "-c", "kill -9 $$"); r.Code != 137 {
				t.Errorf("killed by itself: %+v", r)
			}
			term := harness.StartTerminal(t, s.Command(client, "run", "--rm", "-it", "busybox:test", "sh"))
			term.Expect("# ")
			term.Type("tty; exit 5\r")
			term.Expect("/dev/")
			if code := term.Wait(); code != 5 {
				t.Errorf("run -it ended with %d, want 5", code)
			}
			if out := s.OK(client, "ps", "-aq"); out != "" {
				t.Errorf("--rm left %q", out)
			}
		})
	}
}

func TestLimitsAndModesReachTheKernel(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	if err := os.WriteFile(filepath.Join(s.Root, "env"), []byte("FROM_FILE=1\n# comment\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		cmd  string
		want string
	}{
		{"user and groups", []string{"--user", "nobody"}, "id -u; id -g", "65534\n65534"},
		{"working directory is made", []string{"--workdir", "/new/dir"}, "pwd", "/new/dir"},
		{"environment", []string{"-e", "A=1,2", "--env-file", filepath.Join(s.Root, "env")}, "echo $A $FROM_FILE", "1,2 1"},
		{"entrypoint", []string{"--entrypoint", "/bin/echo"}, "", "-c"},
		{"hostname", []string{"--hostname", "box"}, "hostname", "box"},
		{"read-only root", []string{"--read-only"}, "touch /x 2>/dev/null || echo refused", "refused"},
		{"tmpfs with size and mode", []string{"--tmpfs", "/scratch:size=1m,mode=0750"}, "df -k /scratch | tail -1 | grep -o 1024 | head -1; stat -c %a /scratch", "1024\n750"},
		{"bind mount read-only", []string{"-v", s.Root + "/config:/c:ro"}, "touch /c/x 2>/dev/null || echo refused", "refused"},
		{"mount flag", []string{"--mount", "type=tmpfs,dst=/m"}, "mount | grep -c ' /m '", "1"},
		{"no new privileges", []string{"--security-opt", "no-new-privileges"}, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"},
		{"seccomp by default", nil, "grep Seccomp: /proc/self/status", "Seccomp:\t2"},
		{"docker's capabilities", nil, "grep CapEff /proc/self/status", "CapEff:\t00000000a80425fb"},
		{"capabilities dropped and added", []string{"--cap-drop", "ALL", "--cap-add", "NET_RAW"}, "grep CapEff /proc/self/status", "CapEff:\t0000000000002000"},
		{"ulimit", []string{"--ulimit", "nofile=100:200"}, "ulimit -n; ulimit -Hn", "100\n200"},
		{"extra hosts", []string{"--add-host", "other:10.1.2.3"}, "grep other /etc/hosts", "10.1.2.3\tother"},
		{"init is process 1", []string{"--init"}, "cat /proc/1/comm", "docker-init"},
		{"masked paths", nil, "cat /proc/kcore | wc -c", "0"},
		{"image volume path is a directory", []string{"-v", "/anon"}, "mount | grep -c ' /anon '", "1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.For(t)
			args := append([]string{"run", "--rm", "--network", "none"}, tt.args...)
			args = append(args, "busybox:test")
			if tt.cmd == "" {
				args = append(args, "-c")
			} else {
				args = append(args, "sh", "-c", tt.cmd)
			}
			if got := s.OK("engine", args...); got != tt.want {
				t.Errorf("%s: got %q, want %q", tt.cmd, got, tt.want)
			}
		})
	}
}

func TestLifeOfAContainer(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	for _, client := range clients {
		t.Run(client, func(t *testing.T) {
			s.For(t)
			ok := func(args ...string) string { t.Helper(); return s.OK(client, args...) }
			status := func() string { return ok("inspect", "--format", "{{.State.Status}}", "box") }
			ok("create", "--name", "box", "--network", "none", "busybox:test", "sh", "-c", "trap 'exit 4' TERM; echo started; while true; do sleep 0.05; done")
			if got := status(); got != "created" {
				t.Errorf("status = %q, want created", got)
			}
			ok("start", "box")
			ok("pause", "box")
			if got := status(); got != "paused" {
				t.Errorf("status = %q, want paused", got)
			}
			ok("unpause", "box")
			ok("rename", "box", "other")
			ok("rename", "other", "box")
			if out := ok("top", "box"); !strings.Contains(out, "sleep 0.05") && !strings.Contains(out, "while true") {
				t.Errorf("top printed:\n%s", out)
			}
			ok("stop", "box")
			if got := ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "box"); got != "exited 4" {
				t.Errorf("after stop: %q, want exited 4", got)
			}
			if got := ok("wait", "box"); got != "4" {
				t.Errorf("wait printed %q, want 4", got)
			}
			if out := ok("logs", "--timestamps", "box"); !strings.HasSuffix(out, "Z started") {
				t.Errorf("logs printed %q", out)
			}
			if r := s.Run(s.Command(client, "rm", "missing")); r.Code != 1 || !strings.Contains(r.Stderr, "No such container: missing") {
				t.Errorf("rm of a missing container: %+v", r)
			}
			ok("rm", "box")
		})
	}
}

func TestCopyInBothDirections(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	src := filepath.Join(s.Root, "src")
	if err := os.MkdirAll(filepath.Join(src, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "sub/f"), []byte("copied"), 0o640); err != nil {
		t.Fatal(err)
	}
	for _, client := range clients {
		t.Run(client, func(t *testing.T) {
			s.For(t)
			s.OK(client, "create", "--name", "box", "--network", "none", "busybox:test", "sleep", "1000")
			defer s.OK(client, "rm", "-f", "box")
			for _, running := range []string{"stopped", "running"} {
				if running == "running" {
					s.OK(client, "start", "box")
				}
				s.OK(client, "cp", src, "box:/"+running)
				out := filepath.Join(s.Root, client+running)
				s.OK(client, "cp", "box:/"+running+"/sub/f", out)
				if b, err := os.ReadFile(out); err != nil || string(b) != "copied" {
					t.Errorf("%s: %q, %v", running, b, err)
				}
			}
			if out := s.OK(client, "diff", "box"); !strings.Contains(out, "A /stopped/sub/f") {
				t.Errorf("diff printed:\n%s", out)
			}
		})
	}
}

// TestCopyBeforeTheFirstStart copies into a container whose mount points nobody has made yet,
// and onto a volume that the image is to fill.
func TestCopyBeforeTheFirstStart(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	src := filepath.Join(s.Root, "f")
	if err := os.WriteFile(src, []byte("copied"), 0o640); err != nil {
		t.Fatal(err)
	}
	s.OK("docker", "create", "--name", "box", "--network", "none", "-v", "/absent/deep", "-v", "/absent/deep/inside", "-v", src+":/file/f:ro", "-v", "/data", "busybox:test", "sleep", "1000")
	for _, to := range []string{"/g", "/absent/deep/", "/absent/deep/inside/", "/data/"} {
		s.OK("docker", "cp", src, "box:"+to)
	}
	s.OK("docker", "start", "box")
	want := strings.Repeat("copied", 5) + "copied up"
	if out := s.OK("docker", "exec", "box", "cat", "/g", "/absent/deep/f", "/absent/deep/inside/f", "/file/f", "/data/f", "/data/from-image"); out != want {
		t.Errorf("the container has %q, want %q", out, want)
	}
	s.OK("docker", "rm", "-fv", "box")
}

// TestExportHoldsWhatIsTheContainersOwn exports while it runs, when /proc and volumes are
// mounted in it, and after.
func TestExportHoldsWhatIsTheContainersOwn(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	s.OK("engine", "run", "-d", "--name", "box", "--network", "none", "-v", "/volume", "busybox:test", "sleep", "1000")
	s.OK("engine", "exec", "box", "sh", "-c", "echo made >/tmp/made; touch /volume/hidden; rm /data/from-image")
	for _, client := range clients {
		for _, state := range []string{"running", "stopped"} {
			file := filepath.Join(s.Root, client+state+".tar")
			s.OK(client, "export", "-o", file, "box")
			out, err := exec.Command("tar", "tf", file).CombinedOutput()
			if err != nil {
				t.Fatalf("tar of %s %s: %v\n%s", client, state, err, out)
			}
			names := strings.Split(string(out), "\n")
			for name, want := range map[string]bool{"tmp/made": true, "proc/": true, "proc/1/": false, "proc/meminfo": false, "volume/": true, "volume/hidden": false, "data/from-image": false, "bin/busybox": true} {
				if slices.Contains(names, name) != want {
					t.Errorf("%s, %s: %s in the archive: %v, want %v", client, state, name, !want, want)
				}
			}
			if state == "running" {
				s.OK(client, "stop", "-t", "0", "box")
			} else {
				s.OK(client, "start", "box")
			}
		}
	}
	s.OK("engine", "rm", "-fv", "box")
}

func TestRestartPolicyActsWithTheEngineDown(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	s.OK("engine", "run", "-d", "--name", "again", "--restart", "always", "--network", "none", "busybox:test", "sh", "-c", "echo up; sleep 0.3; exit 1")
	s.KillEngine()
	log := func() string {
		files, _ := filepath.Glob(filepath.Join(s.Root, "lib/engine/containers/*/*-json.log"))
		if len(files) != 1 {
			return ""
		}
		b, _ := os.ReadFile(files[0])
		return string(b)
	}
	before := strings.Count(log(), "up")
	if !harness.Eventually(15*time.Second, func() bool { return strings.Count(log(), "up") >= before+2 }) {
		t.Errorf("with the engine dead the container was not restarted twice:\n%s\n%s", log(), s.Logs())
	}
	s.StartEngine()
	s.WaitReady()
	if out := s.OK("engine", "inspect", "--format", "{{.RestartCount}}", "again"); out == "0" {
		t.Error("RestartCount = 0 after restarts")
	}
	s.OK("engine", "stop", "again")
	after := strings.Count(log(), "up")
	if harness.Eventually(1500*time.Millisecond, func() bool { return strings.Count(log(), "up") > after }) {
		t.Error("a stopped container was restarted")
	}
}

func TestHealthIsWatched(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	s.OK("engine", "run", "-d", "--name", "patient", "--network", "none", "--health-cmd", "test -e /tmp/ok", "--health-interval", "200ms", "--health-retries", "2", "busybox:test", "sleep", "1000")
	health := func(want string) {
		t.Helper()
		if !harness.Eventually(10*time.Second, func() bool {
			return s.OK("engine", "inspect", "--format", "{{.State.Health.Status}}", "patient") == want
		}) {
			t.Errorf("health is not %s: %s", want, s.OK("engine", "inspect", "--format", "{{json .State.Health}}", "patient"))
		}
	}
	health("unhealthy")
	s.OK("engine", "exec", "patient", "touch", "/tmp/ok")
	health("healthy")
}

func TestStockCtrSeesTheSameContainers(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	id := s.OK("engine", "run", "-d", "--network", "none", "busybox:test", "sleep", "1000")
	ctr := func(args ...string) string {
		t.Helper()
		r := s.Run(s.Host("ctr", append([]string{"-a", s.SupervisorSocket(), "-n", "moby"}, args...)...))
		if r.Code != 0 {
			t.Fatalf("ctr %s: %+v", strings.Join(args, " "), r)
		}
		return r.Stdout
	}
	if out := ctr("containers", "ls"); !strings.Contains(out, id) {
		t.Errorf("ctr containers ls:\n%s", out)
	}
	if out := ctr("tasks", "ls"); !strings.Contains(out, id) || !strings.Contains(out, "RUNNING") {
		t.Errorf("ctr tasks ls:\n%s", out)
	}
	if out := ctr("namespaces", "ls"); !strings.Contains(out, "moby") {
		t.Errorf("ctr namespaces ls:\n%s", out)
	}
}

func TestExplainNamesEveryLayer(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	s.OK("engine", "run", "-d", "--name", "box", "busybox:test", "sleep", "1000")
	out := s.OK("engine", "explain", "box")
	for _, want := range []string{"engined", "supervisord", "shim", "ocirun", "namespace", "cgroup", "veth"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain does not mention %s:\n%s", want, out)
		}
	}
	if out := s.OK("engine", "doctor"); strings.Contains(out, "leaked") {
		t.Errorf("doctor finds leaks:\n%s", out)
	}
}

func TestEventsTellTheLifeInOrder(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	since := time.Now().Unix()
	s.OK("engine", "run", "--rm", "--name", "ev", "busybox:test", "true")
	out := s.OK("docker", "events", "--since", fmt.Sprint(since), "--until", fmt.Sprint(time.Now().Unix()+1), "--format", "{{json .}}")
	var actions []string
	for line := range strings.Lines(out) {
		var e struct{ Type, Action string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("event %q: %v", line, err)
		}
		if e.Type == "container" || e.Type == "network" {
			actions = append(actions, e.Type[:1]+":"+e.Action)
		}
	}
	got := strings.Join(actions, " ")
	for _, pair := range [][2]string{{"c:create", "c:attach"}, {"c:attach", "n:connect"}, {"n:connect", "c:start"}, {"c:start", "c:die"}, {"c:die", "n:disconnect"}, {"n:disconnect", "c:destroy"}} {
		if a, b := strings.Index(got, pair[0]), strings.Index(got, pair[1]); a < 0 || b < 0 || a > b {
			t.Errorf("events %s: want %s before %s", got, pair[0], pair[1])
		}
	}
}
