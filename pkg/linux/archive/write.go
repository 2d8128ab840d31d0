package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/pkg/compression"
	"strata/pkg/linux/inroot"
)

// Owner is who gets the files that Write makes.
type Owner struct{ UID, GID int }

// WriteOptions says how Write treats what it finds.
type WriteOptions struct {
	// NoOverwriteDirNonDir refuses to replace a directory by something else or the
	// other way round.
	NoOverwriteDirNonDir bool
	// Owner, if set, replaces the owners that the archive names.
	Owner *Owner
}

// Write extracts the tar stream r (plain, gzip, bzip2 or zstd) into directory name below
// root. Errors: ErrNotFound without the directory; ErrInvalidArgument if it is none, or for
// an archive that is malformed or would replace a directory against the options;
// ErrPermissionDenied on a read-only filesystem; ErrResourceExhausted on a full one.
// What was extracted before an error stays.
func Write(root, name string, r io.Reader, opts WriteOptions) error {
	rt, err := inroot.Open(root)
	if err != nil {
		return fmt.Errorf("open root: %w", err)
	}
	defer func() { _ = rt.Close() }()
	dir, err := rt.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("extraction point %q is not a directory: %w", name, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return classify(name, err)
	}
	defer func() { _ = dir.Close() }()
	// Entries are resolved below the container's root, not below dir: a symlink in dir may
	// point elsewhere inside the container, as it does for the container itself.
	base, err := resolved(rt, dir)
	if err != nil {
		return err
	}
	plain, err := compression.NewReader(r)
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }()
	x := extractor{root: rt, base: base, opts: opts}
	tr := tar.NewReader(plain)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return x.setDirTimes()
		}
		if err != nil {
			return fmt.Errorf("read archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err := x.entry(h, tr); err != nil {
			return fmt.Errorf("extract %q: %w", h.Name, err)
		}
	}
}

// resolved returns the path of dir inside the root, without symlinks.
func resolved(rt *inroot.Root, dir *os.File) (string, error) {
	rootPath, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", rt.File().Fd()))
	if err != nil {
		return "", fmt.Errorf("resolve root: %w", err)
	}
	full, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return "", fmt.Errorf("resolve directory: %w", err)
	}
	return "/" + strings.TrimPrefix(strings.TrimPrefix(full, rootPath), "/"), nil
}

type extractor struct {
	root *inroot.Root
	base string
	opts WriteOptions
	dirs []*tar.Header // their times are set last, when nothing is made in them any more
}

func (x *extractor) path(name string) string { return path.Join(x.base, path.Clean("/"+name)) }

func (x *extractor) entry(h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return fmt.Errorf("entry of unknown type %q: %w", h.Typeflag, errdefs.ErrInvalidArgument)
	}
	dir, base, err := x.root.Parent(x.path(h.Name))
	if errors.Is(err, fs.ErrNotExist) {
		if dir, err = x.root.MkdirAll(path.Dir(x.path(h.Name)), 0o755); err != nil {
			return classifyWrite(err)
		}
		base = path.Base(x.path(h.Name))
	}
	if err != nil {
		return classifyWrite(err)
	}
	defer func() { _ = dir.Close() }()
	if h.Typeflag == tar.TypeDir && (base == "." || x.path(h.Name) == x.base) {
		return nil // the extraction point itself keeps its attributes
	}
	if err := x.clear(dir, base, h); err != nil {
		return err
	}
	if err := x.create(dir, base, h, content); err != nil {
		return classifyWrite(err)
	}
	return classifyWrite(x.attributes(dir, base, h))
}

// clear removes what is in the way of h.
func (x *extractor) clear(dir *os.File, base string, h *tar.Header) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "fstatat", Path: base, Err: err}
	}
	oldIsDir, newIsDir := st.Mode&unix.S_IFMT == unix.S_IFDIR, h.Typeflag == tar.TypeDir
	switch {
	case oldIsDir && newIsDir:
		return nil
	case oldIsDir && x.opts.NoOverwriteDirNonDir:
		return fmt.Errorf("cannot overwrite directory %q with non-directory: %w", h.Name, errdefs.ErrInvalidArgument)
	case newIsDir && x.opts.NoOverwriteDirNonDir:
		return fmt.Errorf("cannot overwrite non-directory %q with directory: %w", h.Name, errdefs.ErrInvalidArgument)
	}
	return classifyWrite(removeAt(dir, base, oldIsDir))
}

// removeAt removes an entry, and all below it if it is a directory.
func removeAt(dir *os.File, base string, isDir bool) error {
	if !isDir {
		if err := unix.Unlinkat(int(dir.Fd()), base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "unlinkat", Path: base, Err: err}
		}
		return nil
	}
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "openat", Path: base, Err: err}
	}
	sub := os.NewFile(uintptr(fd), base)
	defer func() { _ = sub.Close() }()
	entries, err := sub.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := removeAt(sub, e.Name(), e.IsDir()); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(int(dir.Fd()), base, unix.AT_REMOVEDIR); err != nil {
		return &os.PathError{Op: "unlinkat", Path: base, Err: err}
	}
	return nil
}

func (x *extractor) create(dir *os.File, base string, h *tar.Header, content io.Reader) error {
	fd, mode := int(dir.Fd()), uint32(h.Mode&0o7777)
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		if err = unix.Mkdirat(fd, base, mode); errors.Is(err, unix.EEXIST) {
			err = nil
		}
		x.dirs = append(x.dirs, h)
	case tar.TypeReg:
		return writeFile(fd, base, h, content)
	case tar.TypeSymlink:
		err = unix.Symlinkat(h.Linkname, fd, base)
	case tar.TypeLink:
		return x.link(fd, base, h)
	case tar.TypeFifo:
		err = unix.Mknodat(fd, base, unix.S_IFIFO|mode, 0)
	case tar.TypeChar:
		err = unix.Mknodat(fd, base, unix.S_IFCHR|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeBlock:
		err = unix.Mknodat(fd, base, unix.S_IFBLK|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	}
	if err != nil {
		return &os.PathError{Op: "create", Path: h.Name, Err: err}
	}
	return nil
}

func writeFile(dirfd int, base string, h *tar.Header, content io.Reader) error {
	fd, err := unix.Openat(dirfd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(h.Mode&0o777))
	if err != nil {
		return &os.PathError{Op: "openat", Path: h.Name, Err: err}
	}
	f := os.NewFile(uintptr(fd), h.Name)
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

func (x *extractor) link(dirfd int, base string, h *tar.Header) error {
	target, err := x.root.OpenFile(x.path(h.Linkname), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = target.Close() }()
	if err := unix.Linkat(int(target.Fd()), "", dirfd, base, unix.AT_EMPTY_PATH); err != nil {
		return &os.LinkError{Op: "linkat", Old: h.Linkname, New: h.Name, Err: err}
	}
	return nil
}

// attributes sets owner, mode, attributes and times, in this order: chown clears setuid.
func (x *extractor) attributes(dir *os.File, base string, h *tar.Header) error {
	if h.Typeflag == tar.TypeLink {
		return nil
	}
	fd, uid, gid := int(dir.Fd()), h.Uid, h.Gid
	if x.opts.Owner != nil {
		uid, gid = x.opts.Owner.UID, x.opts.Owner.GID
	}
	if err := unix.Fchownat(fd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "fchownat", Path: h.Name, Err: err}
	}
	if h.Typeflag == tar.TypeSymlink {
		return setTimes(fd, base, h)
	}
	of, err := unix.Openat(fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "openat", Path: h.Name, Err: err}
	}
	defer func() { _ = unix.Close(of) }()
	self := fmt.Sprintf("/proc/self/fd/%d", of) // the entry itself, whatever its name is by now
	if err := unix.Chmod(self, uint32(h.Mode&0o7777)); err != nil {
		return &os.PathError{Op: "chmod", Path: h.Name, Err: err}
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || (name != "security.capability" && !strings.HasPrefix(name, "user.")) {
			continue
		}
		if err := unix.Setxattr(self, name, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return &os.PathError{Op: "setxattr", Path: h.Name, Err: err}
		}
	}
	return setTimes(fd, base, h)
}

func setTimes(dirfd int, base string, h *tar.Header) error {
	mtime, err := unix.TimeToTimespec(h.ModTime)
	if err != nil {
		return fmt.Errorf("time of %q: %w: %w", h.Name, err, errdefs.ErrInvalidArgument)
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	if err := unix.UtimesNanoAt(dirfd, base, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: h.Name, Err: err}
	}
	return nil
}

func (x *extractor) setDirTimes() error {
	for _, h := range x.dirs {
		dir, base, err := x.root.Parent(x.path(h.Name))
		if err != nil {
			return classifyWrite(err)
		}
		err = setTimes(int(dir.Fd()), base, h)
		_ = dir.Close() // only a descriptor
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return classifyWrite(err)
		}
	}
	return nil
}

func classifyWrite(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("filesystem is read-only: %w: %w", err, errdefs.ErrPermissionDenied)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("no space left: %w: %w", err, errdefs.ErrResourceExhausted)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("archive is cut off: %w: %w", err, errdefs.ErrInvalidArgument)
	default:
		return err
	}
}
