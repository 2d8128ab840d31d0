package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/pkg/linux/inroot"
	"strata/pkg/linux/xattr"
)

// PathStat describes one file of a container, as HEAD /containers/{id}/archive answers.
type PathStat struct {
	Name       string // last component of the path asked for
	Size       int64  // bytes
	Mode       os.FileMode
	ModTime    time.Time
	LinkTarget string // of a symlink, resolved inside the root
}

// Stat describes name below root without following a final symlink. The error is of class
// ErrNotFound if there is no such file.
func Stat(root, name string) (PathStat, error) {
	r, err := inroot.Open(root)
	if err != nil {
		return PathStat{}, fmt.Errorf("open root: %w", err)
	}
	defer func() { _ = r.Close() }()
	return stat(r, name)
}

func stat(r *inroot.Root, name string) (PathStat, error) {
	clean := path.Clean("/" + name)
	f, err := r.OpenFile(clean, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return PathStat{}, classify(name, err)
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return PathStat{}, fmt.Errorf("stat %q: %w", name, err)
	}
	if fi.Mode()&fs.ModeSymlink == 0 && strings.HasSuffix(name, "/") && !fi.IsDir() {
		return PathStat{}, fmt.Errorf("%q is not a directory: %w", name, errdefs.ErrInvalidArgument)
	}
	st := PathStat{Name: path.Base(clean), Size: fi.Size(), Mode: fi.Mode(), ModTime: fi.ModTime()}
	if fi.Mode()&fs.ModeSymlink != 0 {
		target, err := readlink(f)
		if err != nil {
			return PathStat{}, err
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(clean), target)
		}
		st.LinkTarget = path.Clean("/" + target)
	}
	return st, nil
}

func classify(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%q: %w", name, errdefs.ErrNotFound)
	}
	return fmt.Errorf("open %q: %w", name, err)
}

func readlink(f *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return "", &os.PathError{Op: "readlinkat", Path: f.Name(), Err: err}
	}
	return string(buf[:n]), nil
}

// Read writes a tar of name below root to w: one entry for a file, the whole tree for a
// directory, each entry named from the last component of name on. A final symlink is
// archived as a symlink; with a trailing "/" or "/." it is followed. Errors are of class
// ErrNotFound before anything was written.
func Read(ctx context.Context, root, name string, w io.Writer) error {
	r, err := inroot.Open(root)
	if err != nil {
		return fmt.Errorf("open root: %w", err)
	}
	defer func() { _ = r.Close() }()
	if strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.") {
		dir, err := r.OpenFile(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return classify(name, err)
		}
		defer func() { _ = dir.Close() }()
		t := newTreeWriter(ctx, w)
		base := path.Base(path.Clean("/" + name))
		if strings.HasSuffix(name, "/.") || base == "/" {
			base = "."
		}
		return t.finish(t.openDir(dir, base))
	}
	parent, base, err := r.Parent(name)
	if err != nil {
		return classify(name, err)
	}
	defer func() { _ = parent.Close() }()
	if _, err := stat(r, name); err != nil {
		return err
	}
	t := newTreeWriter(ctx, w)
	return t.finish(t.entry(parent, base, base))
}

// Export writes the whole tree below root as a tar whose names are relative to it.
func Export(ctx context.Context, root string, w io.Writer) error {
	dir, err := os.Open(root)
	if err != nil {
		return fmt.Errorf("open root: %w", err)
	}
	defer func() { _ = dir.Close() }()
	t := newTreeWriter(ctx, w)
	return t.finish(t.children(dir, ""))
}

// treeWriter writes files found through directory descriptors to a tar.
type treeWriter struct {
	ctx   context.Context //nolint:containedctx // lives for one call of Read or Export
	tw    *tar.Writer
	links map[[2]uint64]string // device and inode → first name, for hard links
}

func newTreeWriter(ctx context.Context, w io.Writer) *treeWriter {
	return &treeWriter{ctx: ctx, tw: tar.NewWriter(w), links: map[[2]uint64]string{}}
}

func (t *treeWriter) finish(err error) error {
	if err != nil {
		return err
	}
	return t.tw.Close()
}

// entry writes dir's child base under name, with all below it. A file that vanishes
// meanwhile is left out.
func (t *treeWriter) entry(dir *os.File, base, name string) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return &os.PathError{Op: "fstatat", Path: name, Err: err}
	}
	flags := unix.O_PATH
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		flags = unix.O_RDONLY
	case unix.S_IFSOCK:
		return nil // a socket means nothing elsewhere
	}
	fd, err := unix.Openat(int(dir.Fd()), base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return &os.PathError{Op: "openat", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "fstat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return t.openDir(f, name)
	}
	return t.file(f, name, &st)
}

func (t *treeWriter) openDir(f *os.File, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "fstat", Path: name, Err: err}
	}
	h := header(name+"/", &st)
	h.Typeflag = tar.TypeDir
	addXattrs(h, f)
	if err := t.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("write entry %q: %w", name, err)
	}
	return t.children(f, name)
}

func (t *treeWriter) children(dir *os.File, name string) error {
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("read directory %q: %w", name, err)
	}
	below := name + "/" // "./x" stays that: clients replace the first component
	if name == "" {
		below = ""
	}
	for _, e := range entries {
		if err := t.entry(dir, e.Name(), below+e.Name()); err != nil {
			return err
		}
	}
	return nil
}

func (t *treeWriter) file(f *os.File, name string, st *unix.Stat_t) error {
	h := header(name, st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := readlink(f)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
		addXattrs(h, f)
	}
	if st.Nlink > 1 {
		key := [2]uint64{st.Dev, st.Ino}
		if first, seen := t.links[key]; seen {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			t.links[key] = name
		}
	}
	if err := t.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("write entry %q: %w", name, err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	// A file that grows or shrinks while it is read must not break the archive.
	n, err := io.Copy(t.tw, io.LimitReader(f, h.Size))
	if err == nil && n < h.Size {
		_, err = io.CopyN(t.tw, zeros{}, h.Size-n)
	}
	if err != nil {
		return fmt.Errorf("write content of %q: %w", name, err)
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func header(name string, st *unix.Stat_t) *tar.Header {
	return &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
}

const paxXattr = "SCHILY.xattr."

// addXattrs carries over what belongs to the file rather than to the host: capabilities
// and user attributes. A filesystem without attributes has none to carry.
func addXattrs(h *tar.Header, f *os.File) {
	found, _ := xattr.Of(f, xattr.Portable) // what cannot be read is not there for us
	for key, value := range found {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+key] = value
	}
}
