package xattr

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAttributesAreReadByEveryWay(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"user.small": "x", "user.empty": "", "user.large": strings.Repeat("y", 2*enough)}
	for k, v := range want {
		if err := unix.Setxattr(name, k, []byte(v), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Setxattr(name, "user.overlay.opaque", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	for way, read := range map[string]func() (map[string]string, error){
		"an open file": func() (map[string]string, error) { return Of(f, Portable) },
		"a path":       func() (map[string]string, error) { return OfPath(link, Portable) },
		"a name":       func() (map[string]string, error) { return OfName(name, Portable) },
		"a descriptor": func() (map[string]string, error) { return OfPath(fmt.Sprintf("/proc/self/fd/%d", fd), Portable) },
	} {
		if got, err := read(); err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: %v, %v", way, got, err)
		}
	}
	if got, err := OfName(link, Portable); err != nil || got != nil {
		t.Errorf("a symlink: %v, %v", got, err)
	}
	if _, err := OfName(filepath.Join(dir, "absent"), Portable); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if got, err := OfPath("/proc/self/status", Portable); err != nil || got != nil {
		t.Errorf("a filesystem without attributes: %v, %v", got, err)
	}
}
