package inroot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func newRoot(t *testing.T) (*Root, string) {
	t.Helper()
	outside := t.TempDir()
	dir := filepath.Join(outside, "root")
	for _, d := range []string{"root", "root/etc"} {
		if err := os.Mkdir(filepath.Join(outside, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"secret": "outside", "root/etc/hosts": "inside"} {
		if err := os.WriteFile(filepath.Join(outside, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"up": "../../secret", "abs": "/etc/hosts", "host": filepath.Join(outside, "secret")} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r, outside
}

func TestSymlinksEndInsideTheRoot(t *testing.T) {
	r, _ := newRoot(t)
	f, err := r.OpenFile("abs", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 6)
	if _, err := f.Read(b); err != nil || string(b) != "inside" {
		t.Errorf("read through /abs = %q, %v", b, err)
	}
	for _, name := range []string{"up", "host", "../secret", "/../../secret", "etc/../../secret"} {
		if f, err := r.OpenFile(name, unix.O_RDONLY, 0); err == nil {
			t.Errorf("OpenFile(%q) left the root: %s", name, f.Name())
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("OpenFile(%q) = %v, want not exist", name, err)
		}
	}
}

func TestMkdirAllThroughASymlinkStaysInside(t *testing.T) {
	r, outside := newRoot(t)
	if err := os.Symlink("/etc", filepath.Join(outside, "root/link")); err != nil {
		t.Fatal(err)
	}
	d, err := r.MkdirAll("/link/a/b", 0o750)
	if err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	if fi, err := os.Stat(filepath.Join(outside, "root/etc/a/b")); err != nil || !fi.IsDir() {
		t.Errorf("directory inside the root: %v, %v", fi, err)
	}
}

func TestParentNeverNamesADotDot(t *testing.T) {
	r, _ := newRoot(t)
	for name, want := range map[string]string{"/": ".", "..": ".", "etc/..": ".", "/etc/hosts": "hosts", "etc/": "etc"} {
		d, base, err := r.Parent(name)
		if err != nil || base != want {
			t.Errorf("Parent(%q) = %q, %v; want %q", name, base, err, want)
			continue
		}
		_ = d.Close()
	}
}
