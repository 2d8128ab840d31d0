// Package supervisortest runs real supervisors for tests: ours, built from this tree, and
// the stock containerd where it is installed. Each has private directories and is stopped
// with the test.
package supervisortest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"strata/engined/internal/supervisor"
)

// Supervisor is a running supervisor.
type Supervisor struct {
	*supervisor.Client
	Address string

	cmd *exec.Cmd
}

// startTime bounds the start of a supervisor.
const startTime = 20 * time.Second

// dir is where the binary of this test process goes; Main removes it.
var dir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "supervisortest-") })

// Main runs the tests of a package and removes what Start has built. A package that uses
// Start calls it from TestMain: func TestMain(m *testing.M) { os.Exit(supervisortest.Main(m)) }.
func Main(m *testing.M) int {
	code := m.Run()
	if d, err := dir(); err == nil {
		_ = os.RemoveAll(d)
	}
	return code
}

// build makes supervisord once for all tests of a package.
var build = sync.OnceValues(func() (string, error) {
	dir, err := dir()
	if err != nil {
		return "", err
	}
	_, file, _, _ := runtime.Caller(0)
	bin := filepath.Join(dir, "supervisord")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/supervisord")
	cmd.Dir = filepath.Join(filepath.Dir(file), "../../../..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build supervisord: %w\n%s", err, out)
	}
	return bin, nil
})

// Start runs our supervisor with root (a new one if empty) and a client in namespace
// "moby".
func Start(t testing.TB, root string) *Supervisor {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: a supervisor mounts")
	}
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	if root == "" {
		root = t.TempDir()
	}
	state, err := os.MkdirTemp("", "sup-") // short: a socket's path is at most 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(state) })
	address := filepath.Join(state, "s.sock")
	return run(t, address, exec.Command(bin, "--root", root, "--state", filepath.Join(state, "state"), "--address", address))
}

// StartStock runs the stock containerd, without CRI.
func StartStock(t testing.TB) *Supervisor {
	t.Helper()
	bin, err := exec.LookPath("containerd")
	if err != nil || os.Getuid() != 0 {
		t.Skip("needs root and containerd (Debian package containerd)")
	}
	dir, err := os.MkdirTemp("", "sup-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	address := filepath.Join(dir, "s.sock")
	conf := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = %q\n[ttrpc]\n  address = %q\n", filepath.Join(dir, "root"), filepath.Join(dir, "state"), address, address+".ttrpc")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return run(t, address, exec.Command(bin, "--config", conf))
}

func run(t testing.TB, address string, cmd *exec.Cmd) *Supervisor {
	t.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client, err := supervisor.Dial(address, "moby")
	if err != nil {
		t.Fatal(err)
	}
	s := &Supervisor{Client: client, Address: address, cmd: cmd}
	t.Cleanup(func() {
		_ = client.Close()
		s.Stop(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("supervisor's log:\n%s", log.String())
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	for {
		if _, err = client.Version(ctx); err == nil {
			return s
		}
		if ctx.Err() != nil {
			t.Fatalf("supervisor did not start: %v", err)
		}
		time.Sleep(10 * time.Millisecond) // polls another process
	}
}

// Stop ends the supervisor with a signal and waits for it. It may be called twice.
func (s *Supervisor) Stop(sig os.Signal) {
	if s.cmd.ProcessState != nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	_ = s.cmd.Wait()
}
