package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// StockDocker starts containerd and dockerd of the distribution in a network namespace of
// their own and returns what makes commands of the stock client for them.
func (s *Stack) StockDocker() func(args ...string) *exec.Cmd {
	t := s.t
	t.Helper()
	root := t.TempDir()
	netns := s.Netns + "-stock"
	in := func(name string, args ...string) *exec.Cmd {
		return exec.Command("nsenter", append([]string{"--net=/run/netns/" + netns, name}, args...)...)
	}
	s.must("ip", "netns", "add", netns)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", netns).Run() })
	s.must("ip", "-n", netns, "link", "set", "lo", "up")
	config := filepath.Join(root, "containerd.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(root, "cd"), filepath.Join(root, "cd-run"), filepath.Join(root, "cd.sock"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	host := "unix://" + filepath.Join(root, "d.sock")
	start := func(cmd *exec.Cmd) {
		if _, err := exec.LookPath(cmd.Args[2]); err != nil {
			t.Fatalf("%v: .ci/deps installs it", err)
		}
		log, err := os.Create(filepath.Join(root, filepath.Base(cmd.Args[2])+".log"))
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
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
		cmd := in("docker", args...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+host, "DOCKER_CONFIG="+filepath.Join(s.Root, "config"), "DOCKER_CONTEXT=")
		return cmd
	}
	if !Eventually(30*time.Second, func() bool { return docker("info").Run() == nil }) {
		t.Fatal("the stock dockerd does not answer")
	}
	return docker
}

// Plugin gives the stock client a plugin that .ci/plugin builds from its module; the first
// build of a version takes minutes.
func (s *Stack) Plugin(name string) {
	s.t.Helper()
	dir := filepath.Join(s.Root, "config/cli-plugins")
	link := filepath.Join(dir, "docker-"+name)
	if _, err := os.Lstat(link); err == nil {
		return
	}
	out, err := exec.Command("../../.ci/plugin", name).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil {
		s.t.Fatalf("build plugin %s: %v\n%s", name, err, out)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Symlink(lines[len(lines)-1], link); err != nil {
		s.t.Fatal(err)
	}
}
