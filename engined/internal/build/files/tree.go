package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/linux/inroot"
)

// Node is a file of a tree.
type Node struct {
	Mode     fs.FileMode // type, permissions, setuid, setgid, sticky
	UID, GID int
	Size     int64 // bytes
	ModTime  time.Time
	Link     string // target of a symlink
	Rdev     uint64
	Digest   [32]byte // SHA-256 of a regular file's content; zero if it has not been read
}

// Tree is a tree of files. Names are clean, absolute and free of symlinks but for the
// last component, which is not followed. It is safe for concurrent use. Errors for a
// missing file are fs.ErrNotExist.
type Tree interface {
	Lstat(name string) (Node, error)
	// ReadDir returns the names in a directory, sorted.
	ReadDir(name string) ([]string, error)
	Open(name string) (io.ReadCloser, error)
}

// attributed is a Tree whose files have extended attributes.
type attributed interface {
	Xattrs(name string) (map[string]string, error)
}

// maxLinks bounds the symlinks in one path, as the kernel does (path_resolution(7)).
const maxLinks = 40

// Resolve follows every symlink in name inside the tree and returns the clean path and
// what is there.
func Resolve(t Tree, name string) (string, Node, error) {
	at, err := follow(t, name, false)
	if err != nil {
		return "", Node{}, err
	}
	n, err := t.Lstat(at)
	return at, n, err
}

// follow returns name without symlinks. With missing, what is not there is taken for what
// it says.
func follow(t Tree, name string, missing bool) (string, error) {
	left := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	at, links := "/", 0
	for len(left) > 0 {
		part := left[0]
		left = left[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		n, err := t.Lstat(next)
		if err != nil && (!missing || !errors.Is(err, fs.ErrNotExist)) {
			return "", err
		}
		if err != nil || n.Mode&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "stat", Path: name, Err: syscall.ELOOP}
		}
		if path.IsAbs(n.Link) {
			at = "/"
		}
		left = append(strings.Split(n.Link, "/"), left...)
	}
	return at, nil
}

// ReadFile returns a file of at most limit bytes; symlinks are followed in the tree.
func ReadFile(t Tree, name string, limit int64) ([]byte, error) {
	at, n, err := Resolve(t, name)
	if err != nil {
		return nil, err
	}
	if !n.Mode.IsRegular() {
		return nil, fmt.Errorf("%s is no file: %w", name, errdefs.ErrInvalidArgument)
	}
	if n.Size > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes: %w", name, limit, errdefs.ErrInvalidArgument)
	}
	f, err := t.Open(at)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return io.ReadAll(io.LimitReader(f, limit))
}

// Root is a mounted root filesystem.
type Root struct{ root *inroot.Root }

// OpenRoot opens the root at dir. Close it.
func OpenRoot(dir string) (*Root, error) {
	r, err := inroot.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open root: %w", err)
	}
	return &Root{r}, nil
}

// Close closes the root.
func (r *Root) Close() error { return r.root.Close() }

// Lstat implements Tree.
func (r *Root) Lstat(name string) (Node, error) {
	f, err := r.root.OpenFile(name, oPath|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return Node{}, missing(err)
	}
	defer func() { _ = f.Close() }() // only a descriptor
	fi, err := f.Stat()
	if err != nil {
		return Node{}, err
	}
	n := Node{Mode: fi.Mode(), Size: fi.Size(), ModTime: fi.ModTime()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		n.UID, n.GID, n.Rdev = int(st.Uid), int(st.Gid), st.Rdev
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		n.Link, err = readlink(f)
	}
	return n, err
}

// oPath is O_PATH of open(2): a descriptor that names a file and opens nothing.
const oPath = 0x200000

// readlink reads the symlink that f names.
func readlink(f *os.File) (string, error) {
	buf := make([]byte, 4096) // PATH_MAX
	n, err := readlinkat(int(f.Fd()), buf)
	if err != nil {
		return "", &os.PathError{Op: "readlinkat", Path: f.Name(), Err: err}
	}
	return string(buf[:n]), nil
}

// missing makes "a component is no directory" the same as "not there".
func missing(err error) error {
	if errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// ReadDir implements Tree.
func (r *Root) ReadDir(name string) ([]string, error) {
	f, err := r.root.OpenFile(name, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, missing(err)
	}
	defer func() { _ = f.Close() }() // only read
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// Open implements Tree.
func (r *Root) Open(name string) (io.ReadCloser, error) {
	return r.root.OpenFile(name, syscall.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}

// Below returns what is in directory dir of t, as a tree. No symlink leads out of it.
func Below(t Tree, dir string) Tree { return below{t, path.Clean("/" + dir)} }

type below struct {
	tree Tree
	dir  string
}

func (b below) Lstat(name string) (Node, error) { return b.tree.Lstat(path.Join(b.dir, name)) }

func (b below) ReadDir(name string) ([]string, error) { return b.tree.ReadDir(path.Join(b.dir, name)) }

func (b below) Open(name string) (io.ReadCloser, error) { return b.tree.Open(path.Join(b.dir, name)) }
