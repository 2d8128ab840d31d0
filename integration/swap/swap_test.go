// Package swap puts our layers under and over the stock ones: every contract holds in both
// directions.
package swap

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strata/integration/harness"
)

const image = "docker.io/library/busybox:test"

// stock starts a stock daemon in the stack's namespace and ends it with the test.
func stock(t *testing.T, s *harness.Stack, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%v: .ci/deps installs it", err)
	}
	log, err := os.Create(filepath.Join(s.Root, name+".stock.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.Host(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(harness.Bin(t, "ocirun"))+":"+os.Getenv("PATH"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // interrupted: the status says nothing
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("--- %s\n%s", name, text)
		}
	})
}

// containerd starts a stock containerd and returns a function that runs ctr against it.
func containerd(t *testing.T, s *harness.Stack) func(args ...string) harness.Result {
	t.Helper()
	socket := filepath.Join(s.Root, "run/cd.sock")
	config := filepath.Join(s.Root, "containerd.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(s.Root, "lib/cd"), filepath.Join(s.Root, "run/cd"), socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	stock(t, s, "containerd", "-c", config)
	return ctr(t, s, socket)
}

func ctr(t *testing.T, s *harness.Stack, socket string) func(args ...string) harness.Result {
	t.Helper()
	run := func(args ...string) harness.Result {
		return s.Run(s.Host("ctr", append([]string{"-a", socket}, args...)...))
	}
	if !harness.Eventually(15*time.Second, func() bool { return run("version").Code == 0 }) {
		t.Fatalf("ctr version: %+v", run("version"))
	}
	if r := run("images", "import", s.BusyboxArchive()); r.Code != 0 {
		t.Fatalf("ctr images import: %+v", r)
	}
	return run
}

// lifeUnderCtr runs, executes in, and kills containers through ctr.
func lifeUnderCtr(t *testing.T, run func(args ...string) harness.Result, flags ...string) {
	t.Helper()
	must := func(args ...string) string {
		t.Helper()
		r := run(args...)
		if r.Code != 0 {
			t.Fatalf("ctr %s: %+v", strings.Join(args, " "), r)
		}
		return r.Stdout
	}
	with := func(verb []string, rest ...string) []string {
		return append(append(verb, flags...), rest...)
	}
	if out := must(with([]string{"run", "--rm"}, image, "one", "echo", "hello")...); out != "hello\n" {
		t.Errorf("ctr run printed %q", out)
	}
	if r := run(with([]string{"run", "--rm"}, image, "two", "sh", "-c", "exit 7")...); r.Code != 7 {
		t.Errorf("ctr run of exit 7: %+v", r)
	}
	must(with([]string{"run", "-d"}, image, "three", "sleep", "1000")...)
	if out := must("tasks", "exec", "--exec-id", "x", "three", "echo", "inside"); out != "inside\n" {
		t.Errorf("ctr tasks exec printed %q", out)
	}
	if out := must("tasks", "ls"); !strings.Contains(out, "three") || !strings.Contains(out, "RUNNING") {
		t.Errorf("ctr tasks ls printed:\n%s", out)
	}
	must("tasks", "pause", "three")
	must("tasks", "resume", "three")
	must("tasks", "kill", "-s", "SIGKILL", "three")
	if !harness.Eventually(10*time.Second, func() bool { return strings.Contains(run("tasks", "ls").Stdout, "STOPPED") }) {
		t.Errorf("the killed task does not stop: %+v", run("tasks", "ls"))
	}
	must("tasks", "rm", "three")
	must("containers", "rm", "three")
}

func TestOurShimUnderStockContainerd(t *testing.T) {
	s := harness.New(t)
	lifeUnderCtr(t, containerd(t, s), "--runtime", "io.containerd.strata.v2")
}

func TestOurRuntimeUnderTheStockShim(t *testing.T) {
	s := harness.New(t)
	lifeUnderCtr(t, containerd(t, s), "--runtime", "io.containerd.runc.v2", "--runc-binary", harness.Bin(t, "ocirun"))
}

func TestStockCtrOverOurSupervisor(t *testing.T) {
	s := harness.New(t)
	lifeUnderCtr(t, ctr(t, s, s.SupervisorSocket()), "--runtime", "io.containerd.strata.v2")
}

func TestStockShimAndRuntimeUnderOurSupervisor(t *testing.T) {
	s := harness.New(t)
	lifeUnderCtr(t, ctr(t, s, s.SupervisorSocket()), "--runtime", "io.containerd.runc.v2", "--runc-binary", "runc")
}

func TestStockDockerdOverOurSupervisor(t *testing.T) {
	s := harness.New(t)
	socket := filepath.Join(s.Root, "run/dockerd.sock")
	stock(t, s, "dockerd", "-H", "unix://"+socket, "--containerd", s.SupervisorSocket(), "--data-root", filepath.Join(s.Root, "lib/dockerd"),
		"--exec-root", filepath.Join(s.Root, "run/dockerd"), "--pidfile", filepath.Join(s.Root, "run/dockerd.pid"), "--bridge", "none", "--iptables=false",
		"--containerd-namespace", "stock", "--add-runtime", "ocirun="+harness.Bin(t, "ocirun"))
	docker := func(args ...string) harness.Result {
		return s.Run(s.Host("docker", append([]string{"-H", "unix://" + socket}, args...)...))
	}
	if !harness.Eventually(20*time.Second, func() bool { return docker("info").Code == 0 }) {
		t.Fatalf("dockerd does not answer: %+v", docker("info"))
	}
	if r := docker("load", "-i", s.BusyboxArchive()); r.Code != 0 {
		t.Fatalf("docker load: %+v", r)
	}
	for _, runtime := range []string{"runc", "ocirun"} {
		t.Run(runtime, func(t *testing.T) {
			s.For(t)
			if r := docker("run", "--rm", "--runtime", runtime, "--network", "none", "-m", "32m", "busybox:test", "echo", "hello"); r.Stdout != "hello\n" {
				t.Errorf("docker run: %+v", r)
			}
			if r := docker("run", "--rm", "--runtime", runtime, "--network", "none", "busybox:test", "no-such-command"); r.Code != 127 {
				t.Errorf("docker run of a missing command: %+v", r)
			}
			if r := docker("run", "-d", "--name", "stays", "--runtime", runtime, "--network", "none", "busybox:test", "sleep", "1000"); r.Code != 0 {
				t.Fatalf("docker run -d: %+v", r)
			}
			if r := docker("exec", "stays", "echo", "inside"); r.Stdout != "inside\n" {
				t.Errorf("docker exec: %+v", r)
			}
			if r := docker("rm", "-f", "stays"); r.Code != 0 {
				t.Errorf("docker rm: %+v", r)
			}
		})
	}
}

func TestOurEngineWithAStockShimAndRuntime(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	run := func(args ...string) harness.Result {
		return s.Engine(append([]string{"run", "--rm", "--runtime", "io.containerd.runc.v2", "--network", "none"}, args...)...)
	}
	if r := run("busybox:test", "echo", "hello"); r.Stdout != "hello\n" || r.Code != 0 {
		t.Errorf("run: %+v", r)
	}
	term := harness.StartTerminal(t, s.Command("engine", "run", "--rm", "-it", "--runtime", "io.containerd.runc.v2", "--network", "none", "busybox:test", "sh"))
	term.Expect("# ")
	term.Type("exit 5\r")
	if code := term.Wait(); code != 5 {
		t.Errorf("run -it ended with %d, want 5", code)
	}
	// The stock shim has no stdin beside a logger: that is said, not lost.
	if r := run("-i", "busybox:test", "cat"); r.Code != 125 || !strings.Contains(r.Stderr, "cannot pass on stdin") {
		t.Errorf("run -i: %+v", r)
	}
}
