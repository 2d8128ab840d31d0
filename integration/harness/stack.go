package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// commandTimeout bounds one command of a test.
const commandTimeout = 60 * time.Second

// Stack is one private Strata.
type Stack struct {
	Root  string // below it everything lives
	Netns string // name of the network namespace that the daemons and Host run in

	t          *testing.T
	bin        string
	engineArgs []string
	cgroup     string // parent of the containers' cgroups; "" under systemd
	disk       int64  // bytes of a filesystem for the daemons' data; zero for none of its own
	engine     *exec.Cmd
	supervisor *exec.Cmd
}

// Result is what a command said and how it ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Option changes how New starts a Stack.
type Option func(*Stack)

// EngineArgs adds flags to engined's command line.
func EngineArgs(args ...string) Option {
	return func(s *Stack) { s.engineArgs = append(s.engineArgs, args...) }
}

// SmallDisk gives the daemons' data a filesystem of so many bytes.
func SmallDisk(size int64) Option {
	return func(s *Stack) { s.disk = size }
}

// Bin returns the path of one of our binaries.
func Bin(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("STRATA_BIN")
	if dir == "" {
		dir = "../../bin"
	}
	p, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%v; run make build, or set STRATA_BIN", err)
	}
	return p
}

// New starts both daemons and waits until the engine answers. The test's cleanup ends them
// and fails the test if anything is left behind.
func New(t *testing.T, opts ...Option) *Stack {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root, err := os.MkdirTemp("", "st") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	s := &Stack{Root: root, Netns: filepath.Base(root), t: t, bin: filepath.Dir(Bin(t, "engine"))}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		// A parent of the stack's own, so that Residue can tell what is left. Under systemd the
		// parent is a slice, and stays the default.
		s.cgroup = "strata-" + s.Netns
		s.engineArgs = append(s.engineArgs, "--cgroup-parent", "/"+s.cgroup)
	}
	for _, o := range opts {
		o(s)
	}
	for _, dir := range []string{"run", "lib", "config"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if s.disk > 0 {
		lib := filepath.Join(root, "lib")
		s.must("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", s.disk), "small", lib)
	}
	s.must("ip", "netns", "add", s.Netns)
	s.must("ip", "-n", s.Netns, "link", "set", "lo", "up")
	t.Cleanup(s.close)
	s.StartSupervisor()
	s.StartEngine()
	s.WaitReady()
	return s
}

// For makes t, a subtest, the test that failures of the stack's methods belong to until it
// ends.
func (s *Stack) For(t *testing.T) *Stack {
	t.Helper()
	parent := s.t
	s.t = t
	t.Cleanup(func() { s.t = parent })
	return s
}

func (s *Stack) must(name string, args ...string) {
	s.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// EngineSocket and SupervisorSocket are the daemons' addresses.
func (s *Stack) EngineSocket() string     { return filepath.Join(s.Root, "run/engine.sock") }
func (s *Stack) SupervisorSocket() string { return filepath.Join(s.Root, "run/supervisor.sock") }

func (s *Stack) daemon(name string, env []string, args ...string) *exec.Cmd {
	s.t.Helper()
	logFile, err := os.OpenFile(filepath.Join(s.Root, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = logFile.Close() }()
	cmd := exec.Command("nsenter", append([]string{"--net=/run/netns/" + s.Netns, filepath.Join(s.bin, name)}, args...)...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return cmd
}

// StartSupervisor starts supervisord on the stack's root, with more environment variables
// (KEY=VALUE), which shims inherit.
func (s *Stack) StartSupervisor(env ...string) {
	s.t.Helper()
	s.supervisor = s.daemon("supervisord", env, "--address", s.SupervisorSocket(), "--root", filepath.Join(s.Root, "lib/supervisor"),
		"--state", filepath.Join(s.Root, "run/supervisor"), "--log-level", "debug")
}

// StartEngine starts engined on the stack's root, with more environment variables.
func (s *Stack) StartEngine(env ...string) {
	s.t.Helper()
	args := []string{
		"--host", "unix://" + s.EngineSocket(), "--containerd", s.SupervisorSocket(), "--data-root", filepath.Join(s.Root, "lib/engine"),
		"--exec-root", filepath.Join(s.Root, "run/engine"), "--pidfile", filepath.Join(s.Root, "run/engined.pid"), "--debug",
	}
	s.engine = s.daemon("engined", env, append(args, s.engineArgs...)...)
}

// KillEngine and KillSupervisor send SIGKILL and wait for the end; StopEngine and
// StopSupervisor ask politely.
func (s *Stack) KillEngine()     { s.end(&s.engine, syscall.SIGKILL) }
func (s *Stack) KillSupervisor() { s.end(&s.supervisor, syscall.SIGKILL) }
func (s *Stack) StopEngine()     { s.end(&s.engine, syscall.SIGTERM) }
func (s *Stack) StopSupervisor() { s.end(&s.supervisor, syscall.SIGTERM) }

func (s *Stack) end(cmd **exec.Cmd, sig syscall.Signal) {
	if *cmd == nil {
		return
	}
	_ = (*cmd).Process.Signal(sig) // it may have ended by itself
	ended := make(chan struct{})
	go func() {
		_ = (*cmd).Wait() // killed: the status says nothing
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		s.t.Errorf("%s did not end 20 s after %v", (*cmd).Path, sig)
		_ = (*cmd).Process.Kill()
		<-ended
	}
	*cmd = nil
}

// Ended reports whether a daemon that was started has ended by itself.
func (s *Stack) Ended(daemon string) bool {
	cmd := s.engine
	if daemon == "supervisord" {
		cmd = s.supervisor
	}
	if cmd == nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

// WaitReady waits until the engine answers and has its supervisor.
func (s *Stack) WaitReady() {
	s.t.Helper()
	var last Result
	if !Eventually(20*time.Second, func() bool {
		last = s.Engine("info")
		return last.Code == 0
	}) {
		s.t.Fatalf("the engine does not answer: %+v\n%s", last, s.Logs())
	}
}

// Logs returns the last lines of both daemons' logs.
func (s *Stack) Logs() string {
	var b strings.Builder
	for _, name := range []string{"supervisord", "engined"} {
		data, err := os.ReadFile(filepath.Join(s.Root, name+".log"))
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		fmt.Fprintf(&b, "--- %s (%v)\n%s\n", name, err, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
	return b.String()
}

// Engine runs our CLI against the stack, Docker the stock one.
func (s *Stack) Engine(args ...string) Result { return s.Run(s.Command("engine", args...)) }
func (s *Stack) Docker(args ...string) Result { return s.Run(s.Command("docker", args...)) }

// Command returns a command of client "engine" or "docker", ready to be run against the
// stack.
func (s *Stack) Command(client string, args ...string) *exec.Cmd {
	if client == "engine" {
		client = filepath.Join(s.bin, "engine")
	}
	cmd := s.Host(client, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+s.EngineSocket(), "STRATA_HOST=", "DOCKER_CONFIG="+filepath.Join(s.Root, "config"), "DOCKER_CONTEXT=")
	return cmd
}

// Host returns a command that runs in the stack's network namespace.
func (s *Stack) Host(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + s.Netns, name}, args...)...)
}

// Run runs cmd, at most a minute.
func (s *Stack) Run(cmd *exec.Cmd) Result {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("%v: %v", cmd.Args, err)
	}
	timer := time.AfterFunc(commandTimeout, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !timer.Stop() {
		s.t.Errorf("%v took longer than %v", cmd.Args[2:], commandTimeout)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%v: %v", cmd.Args, err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// OK runs a command of client and returns its standard output without the last newline; a
// failure ends the test.
func (s *Stack) OK(client string, args ...string) string {
	s.t.Helper()
	r := s.Run(s.Command(client, args...))
	if r.Code != 0 {
		s.t.Fatalf("%s %s: exit code %d\n%s%s\n%s", client, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr, s.Logs())
	}
	return strings.TrimRight(r.Stdout, "\n")
}

// Curl fetches url from the stack's host, or returns "" and the error's text.
func (s *Stack) Curl(url string) (body, failure string) {
	r := s.Run(s.Host("curl", "-sS", "--max-time", "5", url))
	if r.Code != 0 {
		return "", r.Stderr
	}
	return r.Stdout, ""
}

// Eventually calls ok until it is true, at most for d.
func Eventually(d time.Duration, ok func() bool) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ok()
		case <-tick.C:
		}
	}
	return true
}
