// Package inroot reaches files below a root directory that somebody else controls. Every
// path is resolved by the kernel with openat2(2) and RESOLVE_IN_ROOT: "..", absolute
// symlinks and races end inside the root, and magic links are refused. Nothing here takes
// a path without the root's descriptor.
package inroot

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// retries bounds how often a lookup that raced with a rename is repeated; openat2(2)
// answers EAGAIN for those.
const retries = 64

// Root is an open root directory. Its methods are safe for concurrent use and return
// *os.PathError.
type Root struct {
	dir *os.File
}

// Open opens the root directory dir. Close it.
func Open(dir string) (*Root, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Root{f}, nil
}

// Close closes the root.
func (r *Root) Close() error { return r.dir.Close() }

// File returns the root's own descriptor, which stays owned by the root.
func (r *Root) File() *os.File { return r.dir }

// OpenFile opens name with flags of open(2); symlinks are followed inside the root unless
// flags say O_NOFOLLOW.
func (r *Root) OpenFile(name string, flags int, perm os.FileMode) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: resolve}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(perm.Perm())
	}
	rel := strings.TrimLeft(name, "/")
	if rel == "" {
		rel = "."
	}
	for range retries {
		fd, err := unix.Openat2(int(r.dir.Fd()), rel, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		default:
			return nil, &os.PathError{Op: "openat2", Path: name, Err: err}
		}
	}
	return nil, &os.PathError{Op: "openat2", Path: name, Err: unix.EAGAIN}
}

// Parent opens the directory of name and returns it with the last component, so that the
// entry itself can be worked on with the …at calls without following it. The last
// component is never "..", and "." only for the root.
func (r *Root) Parent(name string) (dir *os.File, base string, err error) {
	clean := path.Clean("/" + name)
	if clean == "/" {
		dir, err = r.OpenFile("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		return dir, ".", err
	}
	dir, err = r.OpenFile(path.Dir(clean), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	return dir, path.Base(clean), err
}

// MkdirAll makes directory name and its missing parents with mode perm, owned by the
// caller, and returns it open.
func (r *Root) MkdirAll(name string, perm os.FileMode) (*os.File, error) {
	done := "/"
	for part := range strings.SplitSeq(strings.Trim(path.Clean("/"+name), "/"), "/") {
		if part == "" {
			continue
		}
		dir, err := r.OpenFile(done, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, err
		}
		err = unix.Mkdirat(int(dir.Fd()), part, uint32(perm.Perm()))
		_ = dir.Close() // only a descriptor
		done = path.Join(done, part)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, &os.PathError{Op: "mkdirat", Path: done, Err: err}
		}
	}
	return r.OpenFile(done, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}
