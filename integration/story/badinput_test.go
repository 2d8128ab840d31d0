package story

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strata/integration/harness"
)

// Bad input gets a clear error, the right exit code, and nothing is left behind (the
// harness looks at the end).
func TestBadInputAtTheCommandLine(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	s.OK("engine", "run", "-d", "--name", "taken", "-p", "9000:80", "busybox:test", "sleep", "1000")
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string // in standard error
	}{
		{"unknown image", []string{"run", "--pull", "never", "nothing:1"}, 125, "No such image: nothing:1"},
		{"unknown flag", []string{"run", "--frobnicate", "busybox:test"}, 125, "unknown flag: --frobnicate"},
		{"bad port", []string{"run", "-p", "99999:80", "busybox:test"}, 125, "99999"},
		{"port in use", []string{"run", "--rm", "-p", "9000:80", "busybox:test", "true"}, 125, "9000"},
		{"name in use", []string{"run", "--name", "taken", "busybox:test", "true"}, 125, `The container name "/taken" is already in use`},
		{"bad name", []string{"run", "--name", "-x", "busybox:test", "true"}, 125, "Invalid container name"},
		{"missing bind source", []string{"run", "--rm", "--mount", "type=bind,src=/does/not/exist,dst=/x", "busybox:test", "true"}, 125, "/does/not/exist"},
		{"bad memory", []string{"run", "-m", "lots", "busybox:test"}, 125, "lots"},
		{"unknown network", []string{"run", "--rm", "--network", "nowhere", "busybox:test", "true"}, 125, "nowhere"},
		{"unknown log driver", []string{"run", "--rm", "--log-driver", "carrier-pigeon", "busybox:test", "true"}, 125, "carrier-pigeon"},
		{"signal 0", []string{"kill", "-s", "0", "taken"}, 1, "invalid signal: 0"},
		{"no such signal", []string{"kill", "-s", "999", "taken"}, 1, "does not support signal 999"},
		{"rm of a running container", []string{"rm", "taken"}, 1, "stop the container before removing or force remove"},
		{"unknown command", []string{"frob"}, 1, "frob"},
		{"exec in nothing", []string{"exec", "nobody-here", "true"}, 1, "No such container: nobody-here"},
		{"exec of nothing", []string{"exec", "taken", "no-such-command"}, 127, "no-such-command"},
		{"image in use", []string{"rmi", "busybox:test"}, 1, "taken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.For(t)
			r := s.Engine(tt.args...)
			if tt.name == "image in use" {
				// dockerd names the container by its id; ours may name it either way.
				if r.Code != 1 || !strings.Contains(r.Stderr, "conflict") {
					t.Errorf("%+v", r)
				}
				return
			}
			if r.Code != tt.code || !strings.Contains(r.Stderr, tt.want) {
				t.Errorf("exit code %d, stderr %q; want %d and %q", r.Code, r.Stderr, tt.code, tt.want)
			}
		})
	}
	for _, id := range strings.Fields(s.OK("engine", "ps", "-aq", "--filter", "status=created")) {
		s.OK("engine", "rm", id) // docker keeps what was created but could not start
	}
}

func TestBadRequests(t *testing.T) {
	s := harness.New(t)
	for _, tt := range []struct {
		name   string
		args   []string // of curl
		status string
		want   string
	}{
		{"malformed JSON", []string{"-X", "POST", "-H", "Content-Type: application/json", "-d", "{", "http://x/v1.43/containers/create"}, "400", "message"},
		{"wrong content type", []string{"-X", "POST", "-H", "Content-Type: text/plain", "-d", "{}", "http://x/v1.43/containers/create"}, "400", "Content-Type"},
		{"null body", []string{"-X", "POST", "-H", "Content-Type: application/json", "-d", "null", "http://x/v1.43/containers/create"}, "400", "config cannot be empty"},
		{"empty configuration", []string{"-X", "POST", "-H", "Content-Type: application/json", "-d", `{"HostConfig":{}}`, "http://x/v1.43/containers/create"}, "400", "config cannot be empty"},
		{"wrong method", []string{"-X", "PATCH", "http://x/v1.43/containers/json"}, "405", "PATCH"},
		{"unknown route", []string{"http://x/v1.43/nothing/here"}, "404", "page not found"},
		{"too new", []string{"http://x/v9.99/info"}, "400", "too new"},
		{"too old", []string{"http://x/v1.1/info"}, "400", "too old"},
		{"bad filter", []string{"http://x/v1.43/containers/json?filters=%7B%22bogus%22%3A%5B%22x%22%5D%7D"}, "400", "invalid filter 'bogus'"},
		{"missing container", []string{"http://x/v1.43/containers/nothing/json"}, "404", "No such container: nothing"},
		{"swarm", []string{"http://x/v1.43/services"}, "503", "not a swarm manager"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.For(t)
			r := s.Run(s.Host("curl", append([]string{"-sS", "--unix-socket", s.EngineSocket(), "-w", "\n%{http_code}"}, tt.args...)...))
			body, status, _ := strings.Cut(strings.TrimSpace(r.Stdout), "\n")
			if i := strings.LastIndex(r.Stdout, "\n"); i >= 0 {
				body, status = r.Stdout[:i], r.Stdout[i+1:]
			}
			if status != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("%s %s; want %s and %q", status, body, tt.status, tt.want)
			}
		})
	}
	big := filepath.Join(s.Root, "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte(" "), 9<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r := s.Run(s.Host("curl", "-sS", "--unix-socket", s.EngineSocket(), "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "-H", "Content-Type: application/json", "--data-binary", "@"+big, "http://x/v1.43/containers/create"))
	if r.Stdout != "413" {
		t.Errorf("body of 9 MiB: %+v, want status 413", r)
	}
}

func TestMalformedArchivesAreRefused(t *testing.T) {
	s := harness.New(t)
	archives := map[string][]byte{
		"no tar":  []byte("this is not an archive, and longer than one block would have to be to look like one"),
		"nothing": {},
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	_ = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Mode: 0o644, Size: 9})
	_, _ = tw.Write([]byte("[{broken}"))
	_ = tw.Close()
	archives["broken manifest"] = b.Bytes()
	for name, data := range archives {
		t.Run(name, func(t *testing.T) {
			s.For(t)
			path := filepath.Join(s.Root, "bad.tar")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if r := s.Engine("load", "-i", path); r.Code != 1 || r.Stderr == "" {
				t.Errorf("%+v", r)
			}
			if out := s.OK("engine", "images", "-q"); out != "" {
				t.Errorf("images after the refusal: %q", out)
			}
		})
	}
}

func TestASecondDaemonOnTheSameRootIsRefused(t *testing.T) {
	s := harness.New(t)
	r := s.Run(s.Host(harness.Bin(t, "engined"), "--host", "unix://"+s.Root+"/second.sock", "--containerd", s.SupervisorSocket(),
		"--data-root", s.Root+"/lib/engine", "--exec-root", s.Root+"/run/second", "--pidfile", s.Root+"/second.pid"))
	if r.Code == 0 || !strings.Contains(r.Stderr+r.Stdout, "another process") {
		t.Errorf("second engined: %+v", r)
	}
	r = s.Run(s.Host(harness.Bin(t, "supervisord"), "--address", s.Root+"/second.sock", "--root", s.Root+"/lib/supervisor", "--state", s.Root+"/run/second"))
	if r.Code == 0 || !strings.Contains(r.Stderr+r.Stdout, "another process") {
		t.Errorf("second supervisord: %+v", r)
	}
}

func TestTheEngineSaysThatItsSupervisorIsNotThere(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	s.StopSupervisor()
	r := s.Engine("run", "--rm", "--network", "none", "busybox:test", "true")
	if r.Code != 125 || !strings.Contains(r.Stderr, "supervisor") {
		t.Errorf("run without a supervisor: %+v", r)
	}
	s.StartSupervisor()
	if !harness.Eventually(10e9, func() bool { return s.Engine("run", "--rm", "--network", "none", "busybox:test", "true").Code == 0 }) {
		t.Error("run does not work after the supervisor's return")
	}
}
