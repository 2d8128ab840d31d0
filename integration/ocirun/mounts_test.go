package ocirun_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestMountOptions(t *testing.T) {
	b := newBundle(t, `cat /proc/self/mountinfo | cut -d' ' -f5,6 ; cat /data/sub/f; cat /file; echo x > /data/f || echo ro`)
	_ = os.Symlink("busybox", b.rootfs("bin/cut"))
	b.spec.Root.Readonly = false
	src := filepath.Join(b.dir, "src")
	if err := os.MkdirAll(filepath.Join(src, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(src, "sub"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(src, "sub"), unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(src, "sub", "f"), []byte("below\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "file"), []byte("file\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/data", Source: src, Type: "bind", Options: []string{"rbind", "rro", "nosuid"}},
		specs.Mount{Destination: "/deep/er/dir", Source: src, Type: "bind", Options: []string{"bind", "ro", "noexec", "noatime"}},
		specs.Mount{Destination: "/file", Source: "src/file", Type: "bind", Options: []string{"bind"}},
		specs.Mount{Destination: "/t", Source: "tmpfs", Type: "tmpfs", Options: []string{"nosuid", "size=1m", "nodev", "nosymfollow"}},
	)
	out, _ := b.run()
	for _, want := range []string{
		"/data ro,nosuid,relatime", "/data/sub ro,relatime", "/deep/er/dir ro,noexec,noatime", "/file rw,relatime",
		"/t rw,nosuid,nodev,relatime,nosymfollow", "below", "file", "ro",
	} {
		wantLine(t, out, want)
	}
}

func TestCopyUp(t *testing.T) {
	b := newBundle(t, `cat /etc/passwd | grep -c root; echo x > /etc/new; cat /etc/new; mount | grep -c 'on /etc '`)
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/etc", Source: "tmpfs", Type: "tmpfs", Options: []string{"tmpcopyup"}})
	if out, status := b.run(); out != "1\nx\n1\n" || status != 0 {
		t.Errorf("status %d, output %q", status, out)
	}
	if _, err := os.Stat(b.rootfs("etc/new")); err == nil {
		t.Error("the copy wrote through to the rootfs")
	}
}

func TestIDMappedMount(t *testing.T) {
	b := newBundle(t, `stat -c '%u:%g' /data/f`)
	src := filepath.Join(b.dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(src, "f"), 0, 1); err != nil {
		t.Fatal(err)
	}
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 5000, Size: 100}}
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/data", Source: src, Type: "bind", Options: []string{"bind"}, UIDMappings: m, GIDMappings: m})
	out, _ := b.run()
	if strings.Contains(out, "invalid argument") {
		var st unix.Statfs_t
		_ = unix.Statfs(src, &st)
		t.Skipf("needs a filesystem with id-mapped mounts below the temporary directory (type %#x has none)", st.Type)
	}
	if out != "5000:5001\n" {
		t.Errorf("owner through the mount = %q", out)
	}
}

func TestRootPropagationAndReadOnlyRoot(t *testing.T) {
	for prop, want := range map[string]string{"": "", "private": "", "rslave": "", "shared": "shared:", "unbindable": "unbindable"} {
		b := newBundle(t, `grep ' / / \| / rw\| / ro' /proc/self/mountinfo; touch /x || echo read-only`)
		b.spec.Linux.RootfsPropagation = prop
		b.spec.Mounts = b.spec.Mounts[:1]
		out, status := b.run()
		if status != 0 || !strings.Contains(out, "read-only") {
			t.Errorf("%q: status %d, root is not read-only: %s", prop, status, out)
		}
		if want != "" && !strings.Contains(out, want) {
			t.Errorf("%q: no %q in %s", prop, want, out)
		}
	}
}

func TestMaskedAndReadOnlyPaths(t *testing.T) {
	b := newBundle(t, `cat /secret; ls /hidden | grep -c .; echo x > /fixed/f || echo fixed; ls /sys/firmware | grep -c .`)
	b.spec.Root.Readonly = false
	b.write("secret", "secret\n", 0o644)
	for _, d := range []string{"hidden", "fixed"} {
		if err := os.Mkdir(b.rootfs(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.write("hidden/f", "x", 0o644)
	b.spec.Linux.MaskedPaths = append(b.spec.Linux.MaskedPaths, "/secret", "/hidden", "/not/there")
	b.spec.Linux.ReadonlyPaths = append(b.spec.Linux.ReadonlyPaths, "/fixed", "/not/there")
	out, _ := b.run()
	if strings.Contains(out, "secret") || !strings.HasPrefix(out, "0\n") || !strings.Contains(out, "fixed\n0\n") {
		t.Errorf("output %q", out)
	}
}

func TestMemoryLimitOfOneMebibyteStartsTrue(t *testing.T) {
	b := newBundle(t, "")
	b.spec.Process.Args = []string{"/bin/true"}
	limit := int64(1 << 20)
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	if out, status := b.run(); status != 0 {
		t.Errorf("status %d: %s", status, out)
	}
}

func TestUpdateChangesLimits(t *testing.T) {
	b := newBundle(t, "sleep 100")
	limit := int64(64 << 20)
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	b.save()
	b.create()
	files := []string{
		"/sys/fs/cgroup/memory/ocirun-test/" + b.id + "/memory.limit_in_bytes",
		"/sys/fs/cgroup/ocirun-test/" + b.id + "/memory.max",
	}
	read := func() string {
		for _, f := range files {
			if data, err := os.ReadFile(f); err == nil {
				return strings.TrimSpace(string(data))
			}
		}
		t.Skip("needs the memory controller")
		return ""
	}
	if got := read(); got != "67108864" {
		t.Errorf("limit after create = %s", got)
	}
	b.must("update", "--memory", "32M", b.id)
	if got := read(); got != "33554432" {
		t.Errorf("limit after update --memory = %s", got)
	}
	cmd := b.command("update", "--resources", "-", b.id)
	cmd.Stdin = strings.NewReader(`{"memory":{"limit":50331648}}`)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("update: %v, %s", err, out)
	}
	if got := read(); got != "50331648" {
		t.Errorf("limit after update --resources = %s", got)
	}
	if out := b.must("events", "--stats", b.id); !strings.Contains(out, `"type":"stats"`) || !strings.Contains(out, `"limit":50331648`) {
		t.Errorf("events --stats = %s", out)
	}
}
