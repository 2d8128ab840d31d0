package ocirun_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CVE-2024-21626: a working directory by way of a descriptor that the runtime leaked.
func TestWorkingDirectoryCannotBeALeakedDescriptor(t *testing.T) {
	b := newBundle(t, "pwd; ls")
	running := newBundle(t, "sleep 100").save()
	running.create()
	running.must("start", running.id)
	for fd := range 20 {
		cwd := fmt.Sprintf("/proc/self/fd/%d", fd)
		b.spec.Process.Cwd = cwd
		if out, status := b.run(); status == 0 {
			t.Errorf("run with cwd %s worked: %s", cwd, out)
		}
		if out, err := running.try("exec", "--cwd", cwd, running.id, "pwd"); err == nil {
			t.Errorf("exec with cwd %s worked: %s", cwd, out)
		}
	}
	// By a symlink of the image.
	if err := os.Symlink("/proc/self/fd/7/../../..", b.rootfs("way")); err != nil {
		t.Fatal(err)
	}
	b.spec.Process.Cwd = "/way"
	if out, status := b.run(); status == 0 {
		t.Errorf("run with cwd by a symlink worked: %s", out)
	}
}

func TestNoDescriptorIsLeaked(t *testing.T) {
	b := newBundle(t, "ls /proc/self/fd; echo end; sleep 100")
	out, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := b.save().command("create", b.id)
	file, err := os.Create(filepath.Join(b.dir, "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	cmd.ExtraFiles = []*os.File{out} // a careless caller
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	b.must("start", b.id)
	waitFor(t, "the listing", func() bool { return strings.HasSuffix(b.output(), "end\n") })
	// 3 is the directory that ls itself has open.
	if got := b.output(); got != "0\n1\n2\n3\nend\n" {
		t.Errorf("descriptors in the container: %q", got)
	}
	exec := b.command("exec", b.id, "ls", "/proc/self/fd")
	exec.ExtraFiles = []*os.File{out}
	if got, err := exec.CombinedOutput(); err != nil || string(got) != "0\n1\n2\n3\n" {
		t.Errorf("descriptors in an exec: %q, %v", got, err)
	}
}

// CVE-2026-41579: /dev of the image is a symlink out of it.
func TestSymlinkedDevStaysInside(t *testing.T) {
	b := newBundle(t, "ls /inside/null")
	outside := filepath.Join(b.dir, "outside")
	if err := os.Mkdir(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(b.rootfs("dev")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../../../.."+outside, b.rootfs("dev")); err != nil {
		t.Fatal(err)
	}
	b.spec.Root.Readonly = false
	var kept []specs.Mount
	for _, m := range b.spec.Mounts {
		if !strings.HasPrefix(m.Destination, "/dev") {
			kept = append(kept, m)
		}
	}
	b.spec.Mounts = kept
	_, _ = b.run()
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("devices were made outside of the rootfs: %v", entries)
	}
}

// CVE-2019-19921, CVE-2023-27561: /proc or /sys of the image is a symlink.
func TestProcMustBeADirectory(t *testing.T) {
	for _, dir := range []string{"proc", "sys"} {
		b := newBundle(t, "true")
		if err := os.Remove(b.rootfs(dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/tmp", b.rootfs(dir)); err != nil {
			t.Fatal(err)
		}
		if out, status := b.run(); status == 0 || !strings.Contains(out, "must be mounted on ordinary directory") {
			t.Errorf("/%s as a symlink: status %d, %s", dir, status, out)
		}
	}
}

// CVE-2025-31133: the container's /dev/null is a symlink, and what it names would be
// bound over the masked path.
func TestMaskUsesTheHostsNullDevice(t *testing.T) {
	b := newBundle(t, "cat /secret; cat /dev/null; stat -c '%t:%T' /secret")
	b.spec.Root.Readonly = false
	b.write("secret", "secret\n", 0o644)
	b.write("other", "other\n", 0o644)
	if err := os.Symlink("/other", b.rootfs("dev/null")); err != nil {
		t.Fatal(err)
	}
	var kept []specs.Mount
	for _, m := range b.spec.Mounts {
		if !strings.HasPrefix(m.Destination, "/dev") {
			kept = append(kept, m)
		}
	}
	b.spec.Mounts = kept
	b.spec.Linux.MaskedPaths = []string{"/secret"}
	if out, _ := b.run(); !strings.HasSuffix(out, "1:3\n") || strings.Contains(out, "secret") {
		t.Errorf("masked file: %q", out)
	}
}

// CVE-2021-30465, CVE-2024-45310: a mount point that is swapped for a symlink while the
// container is created.
func TestSwappedMountPointStaysInside(t *testing.T) {
	b := newBundle(t, "true")
	b.spec.Root.Readonly = false
	outside := filepath.Join(b.dir, "outside")
	for _, d := range []string{outside, b.rootfs("vol"), b.rootfs("vol/a")} {
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	up := strings.Repeat("../", 20)
	if err := os.Symlink(up+outside, b.rootfs("vol/b")); err != nil {
		t.Fatal(err)
	}
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/vol/a/made", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/vol/a/file", Type: "bind", Source: "/etc/hostname", Options: []string{"bind"}})
	b.save()
	done := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, b.rootfs("vol/a"), unix.AT_FDCWD, b.rootfs("vol/b"), unix.RENAME_EXCHANGE)
			}
		}
	})
	for i := range 60 {
		_, _ = b.try("run", fmt.Sprintf("%s-%d", b.id, i)) // may fail; must not get out
	}
	close(done)
	swapper.Wait()
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("made outside of the rootfs: %v", entries)
	}
}

// CVE-2019-5736: the entrypoint is the runtime itself, which is then overwritten.
func TestRuntimesBinaryCannotBeReached(t *testing.T) {
	before, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	b := newBundle(t, "")
	b.spec.Root.Readonly = false
	b.write("entry", "#!/proc/self/exe\n", 0o755)
	b.spec.Process.Args = []string{"/entry"}
	all := []string{"CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"}
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	out, status := b.run()
	if status == 0 || strings.Contains(out, "ocirun runs containers") {
		t.Errorf("the runtime ran inside the container: %d, %s", status, out)
	}
	// A container that may look at its neighbours watches for an exec.
	w := newBundle(t, `while true; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) ;; *) (echo x >> $p/exe) 2>/dev/null && echo "wrote $p" ;; esac; done; done`)
	w.spec.Process.Capabilities = b.spec.Process.Capabilities
	w.save()
	w.create()
	w.must("start", w.id)
	for range 20 {
		w.must("exec", w.id, "/bin/true")
	}
	if out := w.output(); strings.Contains(out, "wrote") && !sameFile(t, before) {
		t.Errorf("the container wrote to the runtime: %s", out)
	}
	if !sameFile(t, before) {
		t.Error("the runtime's binary has changed")
	}
}

func sameFile(t *testing.T, before []byte) bool {
	t.Helper()
	after, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	return string(after) == string(before)
}

// CVE-2022-29162: capabilities given to an exec are not inheritable.
func TestExecHasNoInheritableCapabilities(t *testing.T) {
	b := newBundle(t, "sleep 100").save()
	b.create()
	b.must("start", b.id)
	out := b.must("exec", "--cap", "CAP_NET_RAW", b.id, "grep", "CapInh", "/proc/self/status")
	wantLine(t, out, "CapInh:\t0000000000000000")
}

func TestStateIsPrivate(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	b := newBundle(t, "true").save()
	b.create()
	for path, want := range map[string]os.FileMode{
		b.root: 0o711, filepath.Join(b.root, b.id): 0o700, filepath.Join(b.root, b.id, "state.json"): 0o600,
	} {
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v (%v)", path, st.Mode().Perm(), want, err)
		}
	}
}

// An image's passwd may be anything: a fifo, a device, a gigabyte.
func TestHostilePasswdFile(t *testing.T) {
	b := newBundle(t, "echo $HOME")
	if err := os.Remove(b.rootfs("etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(b.rootfs("etc/passwd"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, status := b.run(); status != 0 || out != "/\n" {
		t.Errorf("with a fifo: %d, %q", status, out)
	}
	if err := os.Remove(b.rootfs("etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.rootfs("etc/passwd"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(b.rootfs("etc/passwd"), 1<<30); err != nil {
		t.Fatal(err)
	}
	if out, status := b.run(); status != 0 || out != "/\n" {
		t.Errorf("with a gigabyte: %d, %q", status, out)
	}
}
