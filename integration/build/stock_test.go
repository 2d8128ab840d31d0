package build

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"strata/integration/harness"
)

// stockClient is Debian's docker, which speaks BuildKit's protocol without a plugin.
const stockClient = "/usr/bin/docker"

// stockDocker starts containerd and dockerd of the distribution in a network namespace of
// their own, and returns what makes commands for them.
func stockDocker(t *testing.T, s *harness.Stack) func(args ...string) *exec.Cmd {
	t.Helper()
	root, err := os.MkdirTemp("", "sd") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	netns := s.Netns + "-sd"
	in := func(name string, args ...string) *exec.Cmd {
		return exec.Command("nsenter", append([]string{"--net=/run/netns/" + netns, name}, args...)...)
	}
	for _, args := range [][]string{{"netns", "add", netns}, {"-n", netns, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", netns).Run() })
	config := filepath.Join(root, "containerd.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(root, "cd"), filepath.Join(root, "cd-run"), filepath.Join(root, "cd.sock"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	host := "unix://" + filepath.Join(root, "d.sock")
	start := func(cmd *exec.Cmd) {
		log, err := os.Create(filepath.Join(root, filepath.Base(cmd.Args[2])+".log"))
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatalf("%v: .ci/deps installs it", err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait() // told to end: the status says nothing
			_ = log.Close()
			if t.Failed() {
				text, _ := os.ReadFile(log.Name())
				t.Logf("--- %s\n%s", filepath.Base(log.Name()), text[max(0, len(text)-2000):])
			}
		})
	}
	start(in("containerd", "-c", config))
	start(in("dockerd", "-H", host, "--containerd", filepath.Join(root, "cd.sock"), "--data-root", filepath.Join(root, "d"),
		"--exec-root", filepath.Join(root, "d-run"), "--pidfile", filepath.Join(root, "d.pid")))
	docker := func(args ...string) *exec.Cmd {
		cmd := in(stockClient, args...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+host, "DOCKER_CONFIG="+root, "DOCKER_CONTEXT=", "DOCKER_BUILDKIT=1", "BUILDKIT_PROGRESS=plain")
		return cmd
	}
	if !harness.Eventually(30*time.Second, func() bool { return docker("info").Run() == nil }) {
		t.Fatal("the stock dockerd does not answer")
	}
	return docker
}
