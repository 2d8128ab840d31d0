package tree

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sample makes a tree with everything that a copy may lose.
func sample(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mknod(2), chown(2)")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	old := time.Unix(1600000000, 123)
	f, err := os.Create(at("sparse"))
	if err == nil {
		_, err = f.WriteAt([]byte("end"), 64<<20)
	}
	err = errors.Join(err, f.Close(),
		os.MkdirAll(at("d/e"), 0o750), os.WriteFile(at("d/file"), []byte("content"), 0o600), os.Link(at("d/file"), at("d/e/hard")),
		os.Symlink("/etc/passwd", at("link")), os.Chown(at("d/file"), 7, 8), os.Lchown(at("link"), 9, 9), os.Chmod(at("d/file"), 0o755|os.ModeSetuid),
		unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Mkfifo(at("fifo"), 0o620),
		unix.Setxattr(at("d"), "user.k", []byte("v"), 0), unix.Setxattr(at("d"), "trusted.overlay.opaque", []byte("y"), 0),
		os.Chtimes(at("d/file"), old, old), os.Chtimes(at("d"), old, old))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func lstat(t *testing.T, name string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func TestCopyKeepsEverythingButOverlaysMarks(t *testing.T) {
	src, dst := sample(t), t.TempDir()
	if err := Copy(t.Context(), dst, src); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sparse", "d", "d/e", "d/file", "d/e/hard", "link", "null", "fifo"} {
		a, b := lstat(t, filepath.Join(src, name)), lstat(t, filepath.Join(dst, name))
		if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev || a.Nlink != b.Nlink || a.Mtim != b.Mtim || a.Mode&unix.S_IFMT == unix.S_IFREG && a.Size != b.Size {
			t.Errorf("%s: copy %+v of %+v", name, b, a)
		}
	}
	if lstat(t, filepath.Join(dst, "d/file")).Ino != lstat(t, filepath.Join(dst, "d/e/hard")).Ino {
		t.Error("a hard link became a second file")
	}
	if st := lstat(t, filepath.Join(dst, "sparse")); st.Blocks*512 > 1<<20 {
		t.Errorf("the hole was filled: %d bytes on disk", st.Blocks*512)
	}
	if data, err := os.ReadFile(filepath.Join(dst, "sparse")); err != nil || !bytes.HasSuffix(data, []byte("\x00end")) {
		t.Errorf("sparse file: %d bytes, %v", len(data), err)
	}
	value := make([]byte, 8)
	if n, err := unix.Getxattr(filepath.Join(dst, "d"), "user.k", value); err != nil || string(value[:n]) != "v" {
		t.Errorf("user.k = %q, %v", value[:max(n, 0)], err)
	}
	if _, err := unix.Getxattr(filepath.Join(dst, "d"), "trusted.overlay.opaque", value); err == nil {
		t.Error("overlay's mark was copied to where it means something else")
	}
}

func TestUsageCountsBlocksAndLinksOnce(t *testing.T) {
	dir := sample(t)
	inodes, size, err := Usage(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	// ., sparse, d, d/e, d/file (twice), link, null, fifo
	if inodes != 8 || size > 1<<20 || size == 0 {
		t.Errorf("Usage = %d inodes, %d bytes; want 8, and no bytes for holes", inodes, size)
	}
	if _, _, err := Usage(t.Context(), filepath.Join(dir, "link")); err == nil {
		t.Error("Usage followed a symlink")
	}
}
