package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"strata/pkg/stdcopy"
)

// fakeDaemon is the other side of run: it answers the calls of one container and records their order.
type fakeDaemon struct {
	t *testing.T

	mu       sync.Mutex
	calls    []string
	images   bool   // whether the image is there
	startErr string // message of a start that fails
	started  chan struct{}
	input    chan []byte // what came through attach
	status   int
}

func startFake(t *testing.T) (*fakeDaemon, string) {
	t.Helper()
	d := &fakeDaemon{t: t, images: true, started: make(chan struct{}), input: make(chan []byte, 1)}
	socket := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(d)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	return d, "unix://" + socket
}

func (d *fakeDaemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.51")
	w.Header().Set("Content-Type", "application/json")
	path := strings.TrimPrefix(r.URL.Path, "/v1.51")
	if path == "/_ping" {
		return
	}
	call := r.Method + " " + path
	d.mu.Lock()
	d.calls = append(d.calls, call)
	haveImage := d.images
	d.mu.Unlock()
	switch call {
	case "POST /containers/create":
		if !haveImage {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message":"No such image: img:latest"}`)
			return
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"Id":"c1","Warnings":["mind the gap"]}`)
	case "POST /images/create":
		d.mu.Lock()
		d.images = true
		d.mu.Unlock()
		fmt.Fprint(w, `{"status":"Status: Downloaded newer image for img:latest"}`)
	case "POST /containers/c1/attach":
		d.attach(w)
	case "POST /containers/c1/wait":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-d.started:
		case <-r.Context().Done():
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]int{"StatusCode": d.status})
	case "POST /containers/c1/start":
		if d.startErr != "" {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"message": d.startErr})
			return
		}
		w.WriteHeader(http.StatusNoContent)
		close(d.started)
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"message":"page not found"}`)
	}
}

func (d *fakeDaemon) attach(w http.ResponseWriter) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		d.t.Error(err)
		return
	}
	defer conn.Close()
	fmt.Fprint(buf, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	_ = buf.Flush()
	go func() {
		in, _ := io.ReadAll(conn)
		d.input <- in
	}()
	if d.startErr != "" {
		<-d.input // until the client hangs up
		return
	}
	<-d.started
	var out bytes.Buffer
	stdout, stderr := stdcopy.NewWriters(&out)
	fmt.Fprint(stdout, "to stdout\n")
	fmt.Fprint(stderr, "to stderr\n")
	_, _ = conn.Write(out.Bytes())
}

// engine runs the command line against a daemon.
func engine(t *testing.T, host string, argv ...string) (status int, stdout, stderr string) {
	t.Helper()
	s, out, errOut := testSession(t)
	status = newApp(s).Run(t.Context(), append([]string{"-H", host}, argv...))
	return status, out.String(), errOut.String()
}

func TestRunAttachesAndWaitsBeforeItStarts(t *testing.T) {
	d, host := startFake(t)
	d.status = 7
	status, stdout, stderr := engine(t, host, "run", "--rm", "img", "cmd", "-x")
	if status != 7 || stdout != "to stdout\n" || stderr != "WARNING: mind the gap\nto stderr\n" {
		t.Errorf("run = %d, %q, %q, want the container's status and streams", status, stdout, stderr)
	}
	want := []string{"POST /containers/create", "POST /containers/c1/attach", "POST /containers/c1/wait", "POST /containers/c1/start"}
	if !slices.Equal(d.calls, want) {
		t.Errorf("calls = %q, want %q", d.calls, want)
	}
}

func TestRunDetachedPrintsTheIDAndAttachesNothing(t *testing.T) {
	d, host := startFake(t)
	status, stdout, _ := engine(t, host, "run", "-d", "img")
	if status != 0 || stdout != "c1\n" || slices.Contains(d.calls, "POST /containers/c1/attach") {
		t.Errorf("run -d = %d, %q with calls %q", status, stdout, d.calls)
	}
}

func TestRunPullsAMissingImageOnce(t *testing.T) {
	d, host := startFake(t)
	d.images = false
	status, stdout, stderr := engine(t, host, "run", "img")
	if status != 0 || stdout != "to stdout\n" || !strings.HasPrefix(stderr, "Unable to find image 'img:latest' locally\nStatus: Downloaded newer image for img:latest\n") {
		t.Errorf("run = %d, %q, %q", status, stdout, stderr)
	}
	if want := []string{"POST /containers/create", "POST /images/create", "POST /containers/create"}; !slices.Equal(d.calls[:3], want) {
		t.Errorf("calls = %q, want %q first", d.calls, want)
	}
	d, host = startFake(t)
	d.images = false
	if status, _, _ := engine(t, host, "run", "--pull", "never", "img"); status != 125 || slices.Contains(d.calls, "POST /images/create") {
		t.Errorf("run --pull never = %d with calls %q, want 125 and no pull", status, d.calls)
	}
}

func TestRunMapsAFailedStartToDockersStatus(t *testing.T) {
	for msg, want := range map[string]int{
		`exec: "x": executable file not found in $PATH`:  127,
		`exec: "/x": stat /x: no such file or directory`: 127,
		`exec: "/etc/passwd": permission denied`:         126,
		`exec: "/etc": is a directory`:                   126,
		`port is already allocated`:                      125,
	} {
		d, host := startFake(t)
		d.startErr = msg
		status, _, stderr := engine(t, host, "run", "img")
		if status != want || !strings.Contains(stderr, msg) {
			t.Errorf("run after %q = %d, %q, want %d", msg, status, stderr, want)
		}
	}
}

func TestRunWithoutDaemonIs125(t *testing.T) {
	status, _, stderr := engine(t, "unix:///nonexistent/x.sock", "run", "img")
	if status != 125 || !strings.Contains(stderr, "cannot connect to the engine at unix:///nonexistent/x.sock") {
		t.Errorf("run = %d, %q, want 125 and the address", status, stderr)
	}
}

func TestIDFileIsWrittenOnceAndNotLeftBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cid")
	_, host := startFake(t)
	if status, _, stderr := engine(t, host, "run", "-d", "--cidfile", path, "img"); status != 0 {
		t.Fatalf("run = %d, %s", status, stderr)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "c1" {
		t.Errorf("ID file = %q, %v, want c1", data, err)
	}
	if status, _, stderr := engine(t, host, "run", "-d", "--cidfile", path, "img"); status != 125 || !strings.Contains(stderr, "container ID file found") {
		t.Errorf("second run = %d, %q, want a refusal", status, stderr)
	}
	d, host := startFake(t)
	d.images = false
	other := path + "2"
	if status, _, _ := engine(t, host, "run", "-d", "--pull", "never", "--cidfile", other, "img"); status != 125 {
		t.Errorf("run of a missing image = %d, want 125", status)
	}
	if _, err := os.Stat(other); !os.IsNotExist(err) {
		t.Errorf("ID file of a failed run: %v, want none", err)
	}
}

func TestExplainNamesADaemonThatIsNotOurs(t *testing.T) {
	_, host := startFake(t)
	status, _, stderr := engine(t, host, "explain", "web")
	if status != 1 || !strings.Contains(stderr, "not engined") {
		t.Errorf("explain = %d, %q, want 1 and the reason", status, stderr)
	}
}

func TestLaterCommandsSaySo(t *testing.T) {
	for _, verb := range []string{"compose", "search"} {
		status, _, stderr := engine(t, "unix:///nonexistent/x.sock", verb, "--foo", ".")
		if status != 125 || !strings.Contains(stderr, "not implemented") || strings.Count(stderr, "\n") < 2 {
			t.Errorf("%s = %d, %q, want 125, that it is not implemented, and a remedy", verb, status, stderr)
		}
	}
}
