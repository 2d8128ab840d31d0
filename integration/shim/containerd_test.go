package shim

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"strata/integration/harness"
)

const (
	runtimeName = "io.containerd.strata.v2"
	patience    = 20 * time.Second
)

// stock is a private containerd.
type stock struct {
	t    *testing.T
	root string
	proc *exec.Cmd
}

func newStock(t *testing.T) *stock {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, name := range []string{"containerd", "ctr", "busybox"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs the stock %s (packages containerd, busybox-static)", name)
		}
	}
	root, err := os.MkdirTemp("/run", "stk") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	s := &stock{t: t, root: root}
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		root+"/root", root+"/state", root+"/c.sock")
	if err := os.WriteFile(root+"/config.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(root, "rootfs", "bin")
	for _, dir := range []string{bin, root + "/rootfs/proc", root + "/rootfs/dev", root + "/rootfs/sys"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, _ := exec.LookPath("busybox")
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "sleep", "echo", "tty"} {
		if err := os.WriteFile(filepath.Join(bin, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.up()
	t.Cleanup(s.cleanUp)
	return s
}

// up starts containerd and waits until it answers.
func (s *stock) up() {
	s.t.Helper()
	shim := harness.Bin(s.t, "containerd-shim-strata-v2")
	log, err := os.OpenFile(s.root+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.proc = exec.Command("containerd", "-c", s.root+"/config.toml")
	s.proc.Env = append(os.Environ(), "PATH="+filepath.Dir(shim)+":"+os.Getenv("PATH"))
	s.proc.Stdout, s.proc.Stderr = log, log
	if err := s.proc.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.waitFor("containerd", func() bool { _, code := s.ctr("version"); return code == 0 })
}

// die kills containerd without a word.
func (s *stock) die() {
	_ = s.proc.Process.Kill()
	_ = s.proc.Wait()
}

func (s *stock) cleanUp() {
	out, _ := s.ctr("tasks", "ls", "-q")
	for id := range strings.FieldsSeq(out) {
		s.ctr("tasks", "kill", "-s", "KILL", id)
		s.ctr("tasks", "rm", "-f", id)
	}
	s.die()
	if s.t.Failed() {
		log, _ := os.ReadFile(s.root + "/log")
		s.t.Logf("containerd's log:\n%s", log[max(0, len(log)-4000):])
	}
}

func (s *stock) waitFor(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// ctr runs a command and returns its output and exit code.
func (s *stock) ctr(args ...string) (string, int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ctr", append([]string{"-a", s.root + "/c.sock"}, args...)...)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

func (s *stock) run(args ...string) (string, int) {
	return s.ctr(append([]string{"run", "--runtime", runtimeName, "--rootfs"}, args...)...)
}

func (s *stock) rootfs() string { return s.root + "/rootfs" }

// pids returns the pid of a task and of its shim.
func (s *stock) pids(id string) (taskPID, shimPID int) {
	s.t.Helper()
	out, _ := s.ctr("tasks", "ls")
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			taskPID, _ = strconv.Atoi(f[1])
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", taskPID))
	if err != nil {
		s.t.Fatalf("task %s: %v\n%s", id, err, out)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	shimPID, _ = strconv.Atoi(strings.Fields(rest)[1])
	return taskPID, shimPID
}

func TestStockContainerdRunsTasksInOurShim(t *testing.T) {
	s := newStock(t)
	if out, code := s.run("--rm", s.rootfs(), "one", "/bin/sh", "-c", "echo out; echo err >&2; exit 7"); code != 7 || !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") {
		t.Errorf("run = %q, %d; want both streams and 7", out, code)
	}
	if out, code := s.run("-d", s.rootfs(), "two", "/bin/sleep", "1000"); code != 0 {
		t.Fatalf("run -d = %q, %d", out, code)
	}
	if out, code := s.ctr("tasks", "exec", "--exec-id", "e", "two", "/bin/sh", "-c", "echo hi; exit 3"); code != 3 || !strings.HasPrefix(out, "hi\n") {
		t.Errorf("exec = %q, %d; want hi, 3", out, code)
	}
	for _, verb := range []string{"pause", "resume", "metrics", "ps"} {
		if out, code := s.ctr("tasks", verb, "two"); code != 0 {
			t.Errorf("%s = %q, %d", verb, out, code)
		}
	}
	s.ctr("tasks", "kill", "-s", "KILL", "two")
	s.waitFor("the end of the task", func() bool { out, _ := s.ctr("tasks", "ls"); return strings.Contains(out, "STOPPED") })
	s.ctr("tasks", "rm", "two")
	if out, _ := s.ctr("tasks", "ls", "-q"); out != "" {
		t.Errorf("tasks left: %q", out)
	}
}

func TestTasksSurviveTheDeathOfStockContainerd(t *testing.T) {
	s := newStock(t)
	if out, code := s.run("-d", s.rootfs(), "alive", "/bin/sleep", "1000"); code != 0 {
		t.Fatalf("run -d = %q, %d", out, code)
	}
	before, _ := s.pids("alive")
	s.die()
	s.up()
	if after, _ := s.pids("alive"); after != before {
		t.Errorf("pid = %d after the restart, want %d", after, before)
	}
	if out, code := s.ctr("tasks", "exec", "--exec-id", "e", "alive", "/bin/echo", "again"); code != 0 || out != "again\n" {
		t.Errorf("exec = %q, %d", out, code)
	}
	// An exit while nobody listens is there when somebody asks.
	s.die()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.up()
	s.waitFor("the exit", func() bool { out, _ := s.ctr("tasks", "ls"); return strings.Contains(out, "STOPPED") })
}

func TestStockContainerdCleansUpAfterADeadShim(t *testing.T) {
	s := newStock(t)
	if out, code := s.run("-d", s.rootfs(), "victim", "/bin/sleep", "1000"); code != 0 {
		t.Fatalf("run -d = %q, %d", out, code)
	}
	task, shim := s.pids("victim")
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.waitFor("the container's end", func() bool { return syscall.Kill(task, 0) != nil })
	s.waitFor("the task to go", func() bool { out, _ := s.ctr("tasks", "ls", "-q"); return out == "" })
	if out, code := s.ctr("containers", "rm", "victim"); code != 0 {
		t.Errorf("containers rm = %q, %d", out, code)
	}
}
