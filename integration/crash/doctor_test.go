package crash

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"strata/integration/harness"
)

// ghost is the id of a container that does not exist.
const ghost = "dead00000000000000000000000000000000000000000000000000000000dead"

func TestDoctorFindsAndMendsLeaks(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	s.OK("engine", "run", "-d", "--name", "innocent", "-p", "18080:80", "busybox:test", "sleep", "1000")
	if r := s.Engine("doctor"); r.Code != 0 {
		t.Fatalf("before the leaks: %+v", r)
	}
	bundles := filepath.Join(s.Root, "run/supervisor/io.containerd.runtime.v2.task/moby")
	run := func(t *testing.T, cmd *exec.Cmd) {
		t.Helper()
		if r := s.Run(cmd); r.Code != 0 {
			t.Fatalf("%v: %+v", cmd.Args, r)
		}
	}
	mkdir := func(t *testing.T, path string) {
		t.Helper()
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	old := func(t *testing.T, path string) {
		t.Helper()
		long := time.Now().Add(-time.Minute)
		if err := os.Chtimes(path, long, long); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, code string
		plant      func(t *testing.T)
	}{
		{"a bundle", "leaked-bundle", func(t *testing.T) { mkdir(t, filepath.Join(bundles, ghost, "rootfs")) }},
		{"a mount in a bundle", "leaked-mount", func(t *testing.T) {
			rootfs := filepath.Join(bundles, ghost, "rootfs")
			mkdir(t, rootfs)
			if err := syscall.Mount("tmpfs", rootfs, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
		}},
		{"a shim", "leaked-shim", func(t *testing.T) {
			bundle := t.TempDir()
			if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := s.Host(harness.Bin(t, "containerd-shim-strata-v2"), "-namespace", "moby", "-id", ghost, "-address", s.SupervisorSocket(), "start")
			cmd.Dir = bundle
			run(t, cmd)
		}},
		{"state of the runtime", "leaked-runtime-state", func(t *testing.T) { mkdir(t, filepath.Join(s.Root, "run/supervisor/oci/moby", ghost)) }},
		{"a network namespace", "leaked-netns", func(t *testing.T) {
			file := filepath.Join(s.Root, "run/engine/netns", ghost)
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, s.Host("mount", "--bind", "/proc/self/ns/net", file))
		}},
		{"an interface on a bridge", "leaked-veth", func(t *testing.T) {
			bridges := strings.Fields(s.Run(s.Host("ip", "-br", "link", "show", "type", "bridge")).Stdout)
			if len(bridges) == 0 {
				t.Fatal("there is no bridge")
			}
			run(t, s.Host("ip", "link", "add", "vethghost", "type", "veth", "peer", "name", "vghost1"))
			run(t, s.Host("ip", "link", "set", "vethghost", "master", bridges[0]))
		}},
		{"a published port", "leaked-port", func(t *testing.T) {
			run(t, s.Host("nft", "add element inet strata pub4 { tcp . 4444 : 172.31.0.9 . 80 }"))
		}},
		{"an attach socket", "stale-socket", func(t *testing.T) {
			path := filepath.Join(s.Root, "run/engine/attach", ghost[:16]+".sock")
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			old(t, path)
		}},
		{"a record in the supervisor", "orphan-record", func(t *testing.T) {
			run(t, s.Host("ctr", "-a", s.SupervisorSocket(), "-n", "moby", "containers", "create", "--label", "strata.engine=true", "docker.io/library/busybox:test", ghost))
			run(t, s.Host("ctr", "-a", s.SupervisorSocket(), "-n", "moby", "snapshots", "label", ghost, "strata.engine.rootfs=true"))
		}},
		{"files of a container", "orphan-directory", func(t *testing.T) { mkdir(t, filepath.Join(s.Root, "lib/engine/containers", ghost)) }},
		{"a lease", "stale-lease", func(t *testing.T) {
			run(t, s.Host("ctr", "-a", s.SupervisorSocket(), "-n", "moby", "leases", "create", "--id", "engine-ghost"))
		}},
		{"a cgroup", "orphan-cgroup", func(t *testing.T) {
			parents := s.CgroupParents()
			if len(parents) == 0 {
				t.Fatal("no cgroup of the engine's was found")
			}
			path := filepath.Join(parents[0], ghost)
			mkdir(t, path)
			old(t, path)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.For(t)
			tt.plant(t)
			if r := s.Engine("doctor"); r.Code != 1 || !strings.Contains(r.Stdout, ": "+tt.code+": ") {
				t.Errorf("doctor does not find it: %+v", r)
			}
			if r := s.Engine("doctor", "--repair"); r.Code != 0 {
				t.Errorf("doctor --repair: %+v", r)
			}
			if r := s.Engine("doctor"); r.Code != 0 {
				t.Errorf("doctor after the repair: %+v", r)
			}
		})
	}
	if out := s.OK("engine", "exec", "innocent", "echo", "alive"); out != "alive" {
		t.Errorf("exec in the container beside the leaks prints %q", out)
	}
	s.OK("engine", "rm", "-f", "innocent")
	clean(t, s)
}
