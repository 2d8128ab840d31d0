package layer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxLinks bounds the symlinks in a path, as the kernel does (path_resolution(7)).
const maxLinks = 40

// dir is an open directory below the root.
type dir struct {
	path string // as it was asked for
	file *os.File
	ino  uint64
	rel  []string // from the root, without symlinks; nil if it is not known
}

func newDir(f *os.File, path string) (*dir, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return nil, fail("fstat", path, err)
	}
	return &dir{path: path, file: f, ino: st.Ino}, nil
}

func (d *dir) fd() int { return int(d.file.Fd()) }
func (d *dir) close()  { _ = d.file.Close() }

// open opens an entry of d, which is no symlink.
func (d *dir) open(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fail("openat", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// sub opens a directory in d.
func (d *dir) sub(name string) (*dir, error) {
	f, err := d.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return newDir(f, path.Join(d.path, name))
}

// names lists d from the beginning.
func (d *dir) names() ([]string, error) {
	f, err := d.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return f.Readdirnames(-1)
}

func fail(op, name string, err error) error { return &os.PathError{Op: op, Path: name, Err: err} }

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// openInRoot opens a path below root as if root were "/".
func openInRoot(root *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
		Flags:   uint64(flags) | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fail("openat2", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// parents says what to do about directories that are missing.
type parents bool

const (
	makeParents parents = true
	keepParents parents = false
)

// forget closes the parent of the last entry: it may not be what its path names any
// more.
func (a *applier) forget() {
	if a.last != nil {
		a.last.close()
		a.last = nil
	}
}

// parent returns the directory at name, which stays open until the next call. Missing
// directories are made, like the layers below have them if they do.
func (a *applier) parent(name string, how parents) (*dir, error) {
	if a.last != nil && a.last.path == name {
		return a.last, nil
	}
	d, err := a.find(name, how)
	if err != nil {
		return nil, err
	}
	a.forget()
	a.last = d
	return d, nil
}

// lookup returns the directory at name. A directory that only the layers below have is
// made, because something in it is about to be copied up.
func (a *applier) lookup(name string) (*dir, error) {
	if a.lower != nil {
		return a.find(name, makeParents)
	}
	return a.find(name, keepParents)
}

func (a *applier) find(name string, how parents) (*dir, error) {
	at := name
	if at == "" {
		at = "."
	}
	f, err := openInRoot(a.root, at, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return a.walk(name, how) // missing, or Linux < 5.6
	}
	return newDir(f, name)
}

// walk is find component by component, with a look at the layers below.
func (a *applier) walk(name string, how parents) (_ *dir, err error) {
	w := walker{a: a, how: how, todo: split(name)}
	defer func() {
		for _, f := range w.stack {
			if err != nil || f != w.stack[len(w.stack)-1] {
				_ = f.Close()
			}
		}
	}()
	for len(w.todo) > 0 {
		c := w.todo[len(w.todo)-1]
		w.todo = w.todo[:len(w.todo)-1]
		if err := w.step(c); err != nil {
			return nil, fmt.Errorf("parent %q: %w", name, err)
		}
		if len(w.stack) > maxDepth {
			return nil, fmt.Errorf("parent %.64q: more than %d levels: %w", name, maxDepth, errdefs.ErrInvalidArgument)
		}
	}
	var d *dir
	if len(w.stack) == 0 {
		f, err := (&dir{file: a.root}).open(".", unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		w.stack = append(w.stack, f)
	}
	if d, err = newDir(w.stack[len(w.stack)-1], name); err != nil {
		return nil, err
	}
	d.rel = w.names
	return d, nil
}

// split returns the components of a path, the first one last.
func split(name string) []string {
	parts := strings.Split(name, "/")
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return parts
}

type walker struct {
	a     *applier
	how   parents
	todo  []string
	stack []*os.File // from below the root
	names []string
	links int
}

func (w *walker) top() *dir {
	if len(w.stack) == 0 {
		return &dir{file: w.a.root}
	}
	return &dir{file: w.stack[len(w.stack)-1]}
}

func (w *walker) step(c string) error {
	switch c {
	case "", ".":
		return nil
	case "..":
		if n := len(w.stack); n > 0 {
			_ = w.stack[n-1].Close()
			w.stack, w.names = w.stack[:n-1], w.names[:n-1]
		}
		return nil
	}
	f, err := w.top().open(c, unix.O_RDONLY|unix.O_DIRECTORY)
	switch {
	case err == nil:
		w.push(f, c)
		return nil
	case errors.Is(err, unix.ENOENT):
		return w.below(c)
	case !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP):
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(w.top().fd(), c, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail("fstatat", c, err)
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return w.follow(w.top().file, c)
	case isWhiteout(&st) && w.how == makeParents && w.a.target.Overlay:
		return w.overWhiteout(c)
	}
	return fail("openat", c, unix.ENOTDIR)
}

func (w *walker) push(f *os.File, name string) {
	w.stack, w.names = append(w.stack, f), append(w.names, name)
}

// follow puts the target of a symlink in front of what is left.
func (w *walker) follow(d *os.File, name string) error {
	if w.links++; w.links > maxLinks {
		return fail("readlinkat", name, unix.ELOOP)
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(d.Fd()), name, buf)
	if err != nil {
		return fail("readlinkat", name, err)
	}
	target := string(buf[:n])
	if strings.HasPrefix(target, "/") {
		for _, f := range w.stack {
			_ = f.Close()
		}
		w.stack, w.names = nil, nil
	}
	w.todo = append(w.todo, split(target)...)
	return nil
}

// overWhiteout makes a directory where this layer hid what lies below.
func (w *walker) overWhiteout(c string) error {
	d := w.top()
	if err := unix.Unlinkat(d.fd(), c, 0); err != nil {
		return fail("unlinkat", c, err)
	}
	f, err := w.make(c, 0o755)
	if err != nil {
		return err
	}
	return w.a.markOpaque(f)
}

func (w *walker) make(c string, mode uint32) (*os.File, error) {
	d := w.top()
	if err := unix.Mkdirat(d.fd(), c, mode); err != nil {
		return nil, fail("mkdirat", c, err)
	}
	f, err := d.open(c, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	w.push(f, c)
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil {
		return nil, fail("fchmod", c, err)
	}
	return f, nil
}

// below deals with a component that the target lacks.
func (w *walker) below(c string) error {
	if w.how == keepParents {
		return fail("openat", c, unix.ENOENT)
	}
	low, st, err := w.a.below(append(append([]string(nil), w.names...), c))
	switch {
	case err != nil:
		return err
	case low == nil:
		_, err := w.make(c, 0o755)
		return err
	}
	defer func() { _ = low.Close() }()
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return w.followLower(c)
	case unix.S_IFDIR:
	default:
		return fail("openat", c, unix.ENOTDIR)
	}
	f, err := w.make(c, 0o700)
	if err != nil {
		return err
	}
	w.a.dirs = append(w.a.dirs, dirTime{path.Join(w.names...), st.Atim, st.Mtim})
	return copyAttributes(f, low, st)
}

// followLower follows a symlink that only the layers below have.
func (w *walker) followLower(c string) error {
	parent, _, err := w.a.below(append([]string(nil), w.names...))
	if err != nil {
		return err
	}
	if parent == nil {
		return fail("readlinkat", c, unix.ENOENT)
	}
	defer func() { _ = parent.Close() }()
	return w.follow(parent, c)
}

// below opens a path in the layers below with O_PATH; nil if they do not have it, or an
// opaque directory of this layer hides it. No symlink is followed: where the target has a
// directory, a symlink below it is hidden.
func (a *applier) below(names []string) (*os.File, *unix.Stat_t, error) {
	if a.lower == nil {
		return nil, nil, nil
	}
	if hidden, err := a.hidden(names); err != nil || hidden {
		return nil, nil, err
	}
	name := path.Join(append([]string{"."}, names...)...)
	fd, err := unix.Openat2(int(a.lower.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return nil, nil, nil
	default:
		return nil, nil, fail("openat2", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = f.Close()
		return nil, nil, fail("fstat", name, err)
	}
	return f, &st, nil
}

// hidden reports whether a directory above names is opaque, or stands where the layers
// below have none.
func (a *applier) hidden(names []string) (bool, error) {
	value := make([]byte, 8)
	up, low := &dir{file: a.root}, &dir{file: a.lower}
	var open []*os.File
	defer func() {
		for _, f := range open {
			_ = f.Close()
		}
	}()
	for i := 0; ; i++ {
		n, err := unix.Fgetxattr(up.fd(), a.target.opaque(), value)
		if err == nil && n == 1 && value[0] == 'y' {
			return true, nil
		}
		if i >= len(names)-1 {
			return false, nil
		}
		f, err := up.open(names[i], unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return false, err
		}
		open = append(open, f)
		up = &dir{file: f}
		l, err := low.open(names[i], unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return true, nil // not a directory there
		}
		open = append(open, l)
		low = &dir{file: l}
	}
}

// copyUp copies a file of the layers below into d, so that it can be linked.
func (a *applier) copyUp(d *dir, name string) error {
	if d.rel == nil && d.path != "" {
		full, err := a.walk(d.path, keepParents)
		if err != nil {
			return err
		}
		d.rel = full.rel
		full.close()
	}
	low, st, err := a.below(append(append([]string(nil), d.rel...), name))
	if err != nil {
		return err
	}
	if low == nil {
		return unix.ENOENT
	}
	defer func() { _ = low.Close() }()
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("hard link to a special file of a layer below: %w", errdefs.ErrNotImplemented)
	}
	src, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", low.Fd()))
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	dst, err := d.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err == nil {
		err = copyAttributes(dst, low, st)
	}
	return errors.Join(err, dst.Close())
}

// remove removes the entry name of d and all below it.
func (a *applier) remove(d *dir, name string) error {
	err := unix.Unlinkat(d.fd(), name, 0)
	if err != unix.EISDIR {
		if err != nil {
			return fail("unlinkat", name, err)
		}
		return nil
	}
	if a.last != nil {
		a.last.path = "\x00" // open for those who use it, but looked up again
	}
	return removeTree(d, name)
}

func removeTree(d *dir, name string) error {
	sub, err := d.sub(name)
	if err != nil {
		return err
	}
	names, err := sub.names()
	for _, n := range names {
		if err != nil {
			break
		}
		if err = unix.Unlinkat(sub.fd(), n, 0); errors.Is(err, unix.EISDIR) {
			err = removeTree(sub, n)
		}
	}
	sub.close()
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR); err != nil {
		return fail("unlinkat", name, err)
	}
	return nil
}
