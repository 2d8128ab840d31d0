package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount(2)")
	}
}

func mkdirs(t *testing.T, names ...string) string {
	t.Helper()
	root := t.TempDir()
	t.Cleanup(func() {
		if err := UnmountRecursive(root); err != nil {
			t.Error(err)
		}
	})
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// layers makes n lower directories below root with a file each, and one that all have.
func layers(t *testing.T, root, prefix string, n int) (dirs []string) {
	t.Helper()
	for i := range n {
		dir := filepath.Join(root, prefix, fmt.Sprint(i), "fs")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, fmt.Sprint("f", i)), fmt.Sprint(i))
		write(t, filepath.Join(dir, "common"), fmt.Sprint(i))
		dirs = append(dirs, dir)
	}
	return dirs
}

func TestOverlayTakesMoreLayersThanAPageHolds(t *testing.T) {
	requireRoot(t)
	const n = 300
	root := mkdirs(t, "up", "work", "target")
	lower := layers(t, root, strings.Repeat("long-", 30), n)
	m := Mount{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "workdir=" + filepath.Join(root, "work"), "upperdir=" + filepath.Join(root, "up"), "lowerdir=" + strings.Join(lower, ":"),
	}}
	target := filepath.Join(root, "target")
	for name, mount := range map[string]func() error{
		"mount API": func() error { return All([]Mount{m}, target) },
		"mount(2)":  func() error { return m.classic(target) },
	} {
		if err := mount(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := read(t, filepath.Join(target, "common")); got != "0" {
			t.Errorf("%s: the top layer is %s, want 0", name, got)
		}
		for _, i := range []int{0, n / 2, n - 1} {
			if got := read(t, filepath.Join(target, fmt.Sprint("f", i))); got != fmt.Sprint(i) {
				t.Errorf("%s: layer %d says %q", name, i, got)
			}
		}
		if err := Unmount(target); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOverlayTakesPathsWithColonsAndPathsLongerThanAValue(t *testing.T) {
	requireRoot(t)
	root := mkdirs(t, "a:b", "target")
	write(t, filepath.Join(root, "a:b", "colon"), "x")
	long := layers(t, root, strings.Repeat(strings.Repeat("d", 100)+"/", 3), 1)[0]
	m := Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + root + "/a\\:b:" + long}}
	target := filepath.Join(root, "target")
	if err := All([]Mount{m}, target); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(target, "colon")) + read(t, filepath.Join(target, "f0")); got != "x0" {
		t.Errorf("read %q, want x0", got)
	}
	if want := []string{root + "/a:b", long}; !reflect.DeepEqual(m.LowerDirs(), want) {
		t.Errorf("LowerDirs = %q, want %q", m.LowerDirs(), want)
	}
}

func TestReadOnlyBindRefusesWrites(t *testing.T) {
	requireRoot(t)
	root := mkdirs(t, "src", "target")
	write(t, filepath.Join(root, "src", "f"), "x")
	m := Mount{Type: "bind", Source: filepath.Join(root, "src"), Options: []string{"rbind", "ro", "nosuid", "noatime"}}
	target := filepath.Join(root, "target")
	for name, mount := range map[string]func() error{
		"mount API": func() error { return All([]Mount{m}, target) },
		"mount(2)":  func() error { return m.classic(target) },
	} {
		if err := mount(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := os.WriteFile(filepath.Join(target, "f"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: write through a read-only bind = %v, want EROFS", name, err)
		}
		infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(target))
		if err != nil || len(infos) != 1 || !strings.Contains(infos[0].Options, "nosuid") || !strings.Contains(infos[0].Options, "noatime") {
			t.Errorf("%s: mountinfo = %+v, %v; want nosuid,noatime", name, infos, err)
		}
		if err := Unmount(target); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "src", "f"), []byte("x"), 0o644); err != nil {
			t.Errorf("%s: the source became read-only: %v", name, err)
		}
	}
}

func TestTargetNeverLeavesItsRoot(t *testing.T) {
	requireRoot(t)
	root := mkdirs(t, "rootfs", "outside", "rootfs/outside")
	if err := os.Symlink("/outside", filepath.Join(root, "rootfs", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(root, "outside"), filepath.Join(root, "rootfs", "abs")); err != nil {
		t.Fatal(err)
	}
	m := Mount{Type: "tmpfs", Source: "tmpfs", Target: "link", Options: []string{"size=4096"}}
	if err := All([]Mount{m}, filepath.Join(root, "rootfs")); err != nil {
		t.Fatal(err)
	}
	if ok, err := mountinfo.Mounted(filepath.Join(root, "rootfs", "outside")); err != nil || !ok {
		t.Errorf("rootfs/outside mounted = %v, %v; want the link resolved inside the root", ok, err)
	}
	m.Target = "abs"
	if err := All([]Mount{m}, filepath.Join(root, "rootfs")); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("mount through an absolute link = %v, want class ErrNotFound", err)
	}
	m.Target = "../outside"
	if err := All([]Mount{m}, filepath.Join(root, "rootfs")); err != nil {
		t.Error(err)
	}
	if ok, _ := mountinfo.Mounted(filepath.Join(root, "outside")); ok {
		t.Error("a mount left its root")
	}
}

func TestAllUndoesWhatItMadeWhenOneMountFails(t *testing.T) {
	requireRoot(t)
	root := mkdirs(t, "target")
	target := filepath.Join(root, "target")
	err := All([]Mount{
		{Type: "tmpfs", Source: "tmpfs"},
		{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + filepath.Join(root, "missing")}},
	}, target)
	if !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("All = %v, want class ErrNotFound", err)
	}
	if ok, _ := mountinfo.Mounted(target); ok {
		t.Error("the first mount is still there")
	}
	err = All([]Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + target, "nonsense=1"}}}, target)
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("unknown option = %v, want class ErrInvalidArgument naming it", err)
	}
	if err := All([]Mount{{Type: "ext4", Source: "x", Options: []string{"loop"}}}, target); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("loop = %v, want class ErrNotImplemented", err)
	}
}

func TestWithTempLeavesNothingAndIsSeenByNobody(t *testing.T) {
	requireRoot(t)
	root := mkdirs(t, "lower", "up", "work")
	write(t, filepath.Join(root, "lower", "f"), "lower")
	m := Mount{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + filepath.Join(root, "lower"), "upperdir=" + filepath.Join(root, "up"), "workdir=" + filepath.Join(root, "work"),
	}}
	// Other tests mount, too: only what names root counts.
	visible := func() (n int) {
		list, err := mountinfo.GetMounts(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			if strings.Contains(m.VFSOptions, root) || m.Source == root {
				n++
			}
		}
		return n
	}
	err := WithTemp(t.Context(), []Mount{m}, func(dir string) error {
		if got := read(t, dir+"/f"); got != "lower" {
			t.Errorf("read %q", got)
		}
		if n := visible(); n != 0 {
			t.Errorf("%d mounts can be seen meanwhile", n)
		}
		return os.WriteFile(dir+"/g", []byte("new"), 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(root, "up", "g")); got != "new" {
		t.Errorf("upper has %q", got)
	}
	err = WithTemp(t.Context(), []Mount{{Type: "tmpfs", Source: root}}, func(dir string) error { write(t, dir+"/x", "x"); return os.ErrClosed })
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("WithTemp = %v, want fn's error", err)
	}
	if n := visible(); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}

func TestUpperDirIsWhereWritesGo(t *testing.T) {
	for _, tt := range []struct {
		name string
		m    Mount
		want string
		ok   bool
	}{
		{"bind", Mount{Type: "bind", Source: "/a", Options: []string{"rbind", "rw"}}, "/a", true},
		{"read-only bind", Mount{Type: "bind", Source: "/a", Options: []string{"rbind", "ro"}}, "", false},
		{"overlay", Mount{Type: "overlay", Options: []string{"lowerdir=/l", "upperdir=/u", "workdir=/w"}}, "/u", true},
		{"overlay without upper", Mount{Type: "overlay", Options: []string{"lowerdir=/l:/m"}}, "", false},
		{"tmpfs", Mount{Type: "tmpfs"}, "", false},
	} {
		if got, ok := tt.m.UpperDir(); got != tt.want || ok != tt.ok {
			t.Errorf("%s: UpperDir = %q, %v; want %q, %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}
