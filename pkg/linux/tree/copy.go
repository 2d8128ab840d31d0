package tree

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"strata/pkg/linux/xattr"

	"golang.org/x/sys/unix"
)

// Copy copies what is below src into the existing directory dst, and src's own
// attributes to it: types, modes, owners, times, hard links, holes, extended
// attributes but overlay's. Blocks are shared where the filesystem can (FICLONE).
func Copy(ctx context.Context, dst, src string) error {
	s, err := os.OpenFile(src, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	d, err := os.OpenFile(dst, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	c := copier{root: d, links: map[link]string{}}
	return c.directory(ctx, d, s, "")
}

type link struct{ dev, ino uint64 }

type copier struct {
	root  *os.File
	links map[link]string // first name of a file with several, relative to root
}

func (c *copier) directory(ctx context.Context, dst, src *os.File, rel string) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, err := src.Readdirnames(1024)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := c.entry(ctx, dst, src, name, rel+name); err != nil {
				return err
			}
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil {
		return &os.PathError{Op: "fstat", Path: src.Name(), Err: err}
	}
	return attributes(dst, src, &st)
}

func (c *copier) entry(ctx context.Context, dst, src *os.File, name, rel string) error {
	sfd, dfd := int(src.Fd()), int(dst.Fd())
	fail := func(op string, err error) error {
		return &os.PathError{Op: op, Path: src.Name() + "/" + name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstatat(sfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail("fstatat", err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		id := link{st.Dev, st.Ino}
		if first, ok := c.links[id]; ok {
			if err := unix.Linkat(int(c.root.Fd()), first, dfd, name, 0); err != nil {
				return fail("linkat", err)
			}
			return nil
		}
		c.links[id] = rel
	}
	switch kind {
	case unix.S_IFREG:
		return c.file(dst, src, name, &st)
	case unix.S_IFDIR:
		if err := unix.Mkdirat(dfd, name, 0o700); err != nil {
			return fail("mkdirat", err)
		}
		s, err := openat(src, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }()
		d, err := openat(dst, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer func() { _ = d.Close() }()
		return c.directory(ctx, d, s, rel+"/")
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(sfd, name, buf)
		if err != nil {
			return fail("readlinkat", err)
		}
		if err := unix.Symlinkat(string(buf[:n]), dfd, name); err != nil {
			return fail("symlinkat", err)
		}
	default:
		if err := unix.Mknodat(dfd, name, st.Mode&^0o7777|0o600, int(st.Rdev)); err != nil {
			return fail("mknodat", err)
		}
	}
	return special(dst, name, &st)
}

// special sets what a symlink, device, FIFO or socket has of owner, mode and times.
func special(dst *os.File, name string, st *unix.Stat_t) error {
	fail := func(op string, err error) error {
		return &os.PathError{Op: op, Path: dst.Name() + "/" + name, Err: err}
	}
	fd := int(dst.Fd())
	if err := unix.Fchownat(fd, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail("fchownat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(fd, name, st.Mode&0o7777, 0); err != nil {
			return fail("fchmodat", err)
		}
	}
	if err := unix.UtimesNanoAt(fd, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail("utimensat", err)
	}
	return nil
}

func openat(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "openat", Path: dir.Name() + "/" + name, Err: err}
	}
	return os.NewFile(uintptr(fd), dir.Name()+"/"+name), nil
}

func (c *copier) file(dst, src *os.File, name string, st *unix.Stat_t) error {
	s, err := openat(src, name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	d, err := openat(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	if err := errors.Join(content(d, s, st.Size), attributes(d, s, st)); err != nil {
		_ = d.Close()
		return err
	}
	return d.Close()
}

// content shares the blocks of s with d, or copies them without filling holes.
func content(d, s *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	if unix.IoctlFileClone(int(d.Fd()), int(s.Fd())) == nil {
		return nil
	}
	for pos := int64(0); pos < size; {
		start, err := unix.Seek(int(s.Fd()), pos, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // a hole up to the end
		}
		end := size
		if err == nil {
			if end, err = unix.Seek(int(s.Fd()), start, unix.SEEK_HOLE); err != nil {
				return &os.PathError{Op: "seek", Path: s.Name(), Err: err}
			}
		} else {
			start = pos // the filesystem knows no holes
		}
		if _, err := s.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := d.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(d, s, end-start); err != nil {
			return err
		}
		pos = end
	}
	return d.Truncate(size)
}

// attributes sets owner, mode, extended attributes and times of d, in an order in
// which none undoes another.
func attributes(d, s *os.File, st *unix.Stat_t) error {
	fail := func(op string, err error) error { return &os.PathError{Op: op, Path: d.Name(), Err: err} }
	fd := int(d.Fd())
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return fail("fchown", err)
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
		return fail("fchmod", err)
	}
	found, err := xattr.Of(s, func(key string) bool {
		// Overlay's own marks mean something where they are only.
		return !strings.HasPrefix(key, "trusted.overlay.") && !strings.HasPrefix(key, "user.overlay.")
	})
	if err != nil {
		return err
	}
	for key, value := range found {
		if err := unix.Fsetxattr(fd, key, []byte(value), 0); err != nil && err != unix.ENOTSUP {
			return fail("fsetxattr "+key, err)
		}
	}
	if err := unix.UtimesNanoAt(fd, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH); err != nil {
		return fail("utimensat", err)
	}
	return nil
}

// CopyAttributes gives dst, an existing directory, what src has of owner, mode, extended
// attributes and times.
func CopyAttributes(dst, src string) error {
	s, err := os.OpenFile(src, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	d, err := os.OpenFile(dst, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(s.Fd()), &st); err != nil {
		return &os.PathError{Op: "fstat", Path: src, Err: err}
	}
	return attributes(d, s, &st)
}
