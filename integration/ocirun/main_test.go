package ocirun_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var binary string // the built runtime

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ocirun-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // other users run the binary too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary = filepath.Join(dir, "ocirun")
	cmd := exec.Command("go", "build", "-trimpath", "-o", binary, "./cmd/ocirun")
	cmd.Dir = "../.." // the product's module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build ocirun: %v\n%s", err, out)
		return 1
	}
	// Containers whose create has exited are reaped here, as a shim would.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// bundle is a bundle and the runtime's root for it.
type bundle struct {
	t      *testing.T
	dir    string
	root   string
	id     string
	spec   *specs.Spec
	global []string
}

// newBundle makes a bundle whose process is sh -c script.
func newBundle(t *testing.T, script string) *bundle {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs /bin/busybox")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b := &bundle{t: t, dir: dir, root: filepath.Join(dir, "state"), id: "t" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	rootfs := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	b.write("bin/busybox", string(data), 0o755)
	for _, name := range []string{"sh", "id", "cat", "ls", "sleep", "echo", "pwd", "stat", "true", "test", "grep", "mount", "hostname", "kill", "readlink", "touch", "stty", "tty", "dd", "printenv", "ip", "touch"} {
		_ = os.Symlink("busybox", filepath.Join(rootfs, "bin", name))
	}
	b.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n", 0o644)
	if out, err := b.try("spec", "--bundle", dir); err != nil {
		t.Fatalf("spec: %v\n%s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	b.spec = &specs.Spec{}
	if err := json.Unmarshal(raw, b.spec); err != nil {
		t.Fatal(err)
	}
	b.spec.Process.Terminal = false
	b.spec.Process.Args = []string{"sh", "-c", script}
	b.spec.Linux.CgroupsPath = "/ocirun-test/" + b.id
	t.Cleanup(func() {
		_, _ = b.try("delete", "--force", b.id)
		removeCgroups("/ocirun-test")
	})
	return b
}

func removeCgroups(path string) {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	for _, d := range append(dirs, "/sys/fs/cgroup"+path) {
		_ = os.Remove(d) // only when it is empty
	}
}

func (b *bundle) rootfs(path string) string { return filepath.Join(b.dir, "rootfs", path) }

func (b *bundle) write(path, data string, mode os.FileMode) {
	b.t.Helper()
	if err := os.WriteFile(b.rootfs(path), []byte(data), mode); err != nil {
		b.t.Fatal(err)
	}
}

// save writes config.json.
func (b *bundle) save() *bundle {
	b.t.Helper()
	data, err := json.Marshal(b.spec)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "config.json"), data, 0o644); err != nil {
		b.t.Fatal(err)
	}
	return b
}

func (b *bundle) command(args ...string) *exec.Cmd {
	all := append([]string{"--root", b.root}, b.global...)
	cmd := exec.CommandContext(b.t.Context(), binary, append(all, args...)...)
	cmd.Dir = b.dir
	return cmd
}

// try runs a verb and returns what it said.
func (b *bundle) try(args ...string) (string, error) {
	cmd := b.command(args...)
	if b.t.Context().Err() != nil { // in a cleanup
		cmd = exec.Command(binary, cmd.Args[1:]...)
		cmd.Dir = b.dir
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// must runs a verb that has to work.
func (b *bundle) must(args ...string) string {
	b.t.Helper()
	out, err := b.try(args...)
	if err != nil {
		b.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

// create makes the container. Its standard streams are files: a pipe would be kept
// open by the container.
func (b *bundle) create(args ...string) (pid int) {
	b.t.Helper()
	pid, out, err := b.tryCreate(args...)
	if err != nil {
		b.t.Fatalf("create: %v\n%s", err, out)
	}
	return pid
}

func (b *bundle) tryCreate(args ...string) (pid int, out string, err error) {
	b.t.Helper()
	f, err := os.Create(filepath.Join(b.dir, "output"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	cmd := b.command(append(append([]string{"create", "--pid-file", filepath.Join(b.dir, "pid")}, args...), b.id)...)
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	out = b.output()
	if err != nil {
		return 0, out, err
	}
	data, err := os.ReadFile(filepath.Join(b.dir, "pid"))
	if err != nil {
		b.t.Fatal(err)
	}
	pid, err = strconv.Atoi(string(data))
	return pid, out, err
}

// output is what the container has written so far.
func (b *bundle) output() string {
	data, err := os.ReadFile(filepath.Join(b.dir, "output"))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

// run runs the container in the foreground.
func (b *bundle) run(args ...string) (out string, status int) {
	b.t.Helper()
	out, err := b.save().try(append(append([]string{"run"}, args...), b.id)...)
	return out, statusOf(b.t, err)
}

func statusOf(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	var e *exec.ExitError
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	return e.ExitCode()
}

// status is what the state verb says.
func (b *bundle) status() string {
	b.t.Helper()
	var s specs.State
	if err := json.Unmarshal([]byte(b.must("state", b.id)), &s); err != nil {
		b.t.Fatal(err)
	}
	return string(s.Status)
}

// reap waits for a container's init, whose parent this process is.
func reap(t *testing.T, pid int) syscall.WaitStatus {
	t.Helper()
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			t.Fatalf("wait for container init %d: %v", pid, err)
		}
		return ws
	}
}

// wantLine fails unless out has the line.
func wantLine(t *testing.T, out, line string) {
	t.Helper()
	for l := range strings.Lines(out) {
		if strings.TrimSpace(l) == line {
			return
		}
	}
	t.Errorf("no line %q in:\n%s", line, out)
}

func itoa(n int) string { return strconv.Itoa(n) }
