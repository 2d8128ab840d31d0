package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"

	// maxPath bounds the name of an entry, in bytes: nothing longer could be opened.
	maxPath = unix.PathMax
	// maxDepth bounds nesting, symlinks followed included: whoever removes the tree holds
	// a descriptor per level.
	maxDepth = 1000
	// maxSparse bounds the size that a sparse entry may claim, in bytes. Its holes cost
	// nothing to send, but time to skip.
	maxSparse = 1 << 40

	bufferSize = 256 << 10
)

// Target is where a layer goes.
type Target struct {
	// Dir receives the files.
	Dir string
	// Overlay says that Dir is the upper directory of an overlay. Without it, whiteouts
	// remove what Dir has.
	Overlay bool
	// Lower shows what lies below Dir in the overlay, merged. Empty: nothing does.
	Lower string
	// UserXattr marks opaque directories for an overlay mounted with userxattr.
	UserXattr bool
}

func (t Target) opaque() string {
	if t.UserXattr {
		return "user.overlay.opaque"
	}
	return "trusted.overlay.opaque"
}

// Apply extracts the tar stream r into t. It reads up to the end of the archive, not of
// r. Errors: ErrInvalidArgument for an archive that is malformed or leaves its root,
// ErrResourceExhausted for a full disk; they name the entry.
func Apply(ctx context.Context, r io.Reader, t Target) error {
	a := &applier{target: t, buf: make([]byte, bufferSize), made: map[made]struct{}{}}
	var err error
	if a.root, err = openDir(t.Dir); err != nil {
		return fmt.Errorf("apply layer: %w", err)
	}
	defer a.close()
	if t.Lower != "" {
		if a.lower, err = openDir(t.Lower); err != nil {
			return fmt.Errorf("apply layer: %w", err)
		}
	}
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("apply layer: %w", err)
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("apply layer: read archive: %w", classify(err))
		}
		if err := a.entry(ctx, h, tr); err != nil {
			return fmt.Errorf("apply layer: entry %q: %w", h.Name, classify(err))
		}
	}
	if err := a.times(); err != nil {
		return fmt.Errorf("apply layer: %w", classify(err))
	}
	return nil
}

// classify attaches the class to errors that the archive or the disk caused.
func classify(err error) error {
	for _, class := range []error{errdefs.ErrInvalidArgument, errdefs.ErrResourceExhausted} {
		if errors.Is(err, class) {
			return err
		}
	}
	for _, e := range []error{unix.ENOSPC, unix.EDQUOT} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
		}
	}
	for _, e := range []error{tar.ErrHeader, tar.ErrFieldTooLong, io.ErrUnexpectedEOF, unix.ENAMETOOLONG, unix.ENOTDIR, unix.ELOOP, unix.EINVAL} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return err
}

func openDir(dir string) (*os.File, error) {
	return os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// made names an entry that this layer made: by the inode of its directory, so that
// detours through symlinks make no difference.
type made struct {
	dir  uint64
	name string
}

// dirTime is a directory whose times are set last, because its children change them.
type dirTime struct {
	name         string
	atime, mtime unix.Timespec
}

type applier struct {
	target Target
	root   *os.File
	lower  *os.File // nil: none
	last   *dir     // the parent of the last entry; nil: none
	made   map[made]struct{}
	dirs   []dirTime
	buf    []byte
}

func (a *applier) close() {
	a.forget()
	_ = a.root.Close()
	if a.lower != nil {
		_ = a.lower.Close()
	}
}

// clean returns the path of an entry below the root: "" is the root itself. A name that
// leaves the root is refused, not bent.
func clean(name string) (string, error) {
	if len(name) > maxPath || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("name of %d bytes: %w", len(name), errdefs.ErrInvalidArgument)
	}
	p := path.Clean(strings.TrimLeft(name, "/"))
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", fmt.Errorf("leaves the root: %w", errdefs.ErrInvalidArgument)
	}
	if p == "." {
		return "", nil
	}
	return p, nil
}

func (a *applier) entry(ctx context.Context, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("the root is no directory: %w", errdefs.ErrInvalidArgument)
		}
		a.later(name, h)
		return attributes(a.root, h)
	}
	dirname, base := path.Split(name)
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-2 || int64(h.Gid) > 1<<32-2 {
		return fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, errdefs.ErrInvalidArgument)
	}
	if strings.HasPrefix(base, whiteoutMeta) && base != whiteoutOpaque {
		return nil // bookkeeping of aufs
	}
	d, err := a.parent(strings.TrimSuffix(dirname, "/"), makeParents)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return a.whiteout(d, base)
	}
	if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
		// The device that means a whiteout to overlay: it must not become one by the
		// back door, where the bookkeeping does not see it.
		return a.whiteout(d, whiteoutPrefix+base)
	}
	if err := a.create(ctx, d, base, h, content); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		a.later(name, h)
	}
	a.made[made{d.ino, base}] = struct{}{}
	return nil
}

// create makes the entry base of directory d.
func (a *applier) create(ctx context.Context, d *dir, base string, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return a.directory(d, base, h)
	case tar.TypeReg, tar.TypeRegA, tar.TypeGNUSparse: //nolint:staticcheck // old archives have TypeRegA
		return a.file(ctx, d, base, h, content)
	case tar.TypeSymlink:
		if err := a.replacing(d, base, func() error { return unix.Symlinkat(h.Linkname, d.fd(), base) }); err != nil {
			return fail("symlinkat", base, err)
		}
	case tar.TypeLink:
		return a.link(d, base, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		if err := a.replacing(d, base, func() error { return unix.Mknodat(d.fd(), base, mode|0o600, int(dev)) }); err != nil {
			return fail("mknodat", base, err)
		}
	default:
		return fmt.Errorf("type %q: %w", h.Typeflag, errdefs.ErrInvalidArgument)
	}
	return special(d, base, h)
}

// replacing runs fn, and again after the removal of what stands at base.
func (a *applier) replacing(d *dir, base string, fn func() error) error {
	err := fn()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := a.remove(d, base); err != nil {
		return err
	}
	return fn()
}

// directory makes or keeps a directory and sets its attributes. In place of a file it
// hides what the layers below have there, as overlay would.
func (a *applier) directory(d *dir, base string, h *tar.Header) error {
	err := unix.Mkdirat(d.fd(), base, 0o700)
	opaque := false
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(d.fd(), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fail("fstatat", base, err)
		}
		err = nil
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err := a.remove(d, base); err != nil {
				return err
			}
			err = unix.Mkdirat(d.fd(), base, 0o700)
			opaque = a.target.Overlay
		}
	}
	if err != nil {
		return fail("mkdirat", base, err)
	}
	f, err := d.open(base, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if opaque {
		if err := a.markOpaque(f); err != nil {
			return err
		}
	}
	return attributes(f, h)
}

func (a *applier) markOpaque(f *os.File) error {
	if err := unix.Fsetxattr(int(f.Fd()), a.target.opaque(), []byte("y"), 0); err != nil {
		return fail("fsetxattr "+a.target.opaque(), f.Name(), err)
	}
	return nil
}

func (a *applier) file(ctx context.Context, d *dir, base string, h *tar.Header, content io.Reader) error {
	var f *os.File
	err := a.replacing(d, base, func() (err error) {
		f, err = d.open(base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
		return err
	})
	if err != nil {
		return err
	}
	err = a.copy(ctx, f, h, content)
	if err == nil {
		err = attributes(f, h)
	}
	if err == nil {
		at, mt := stamps(h)
		if err = unix.UtimesNanoAt(int(f.Fd()), "", []unix.Timespec{at, mt}, unix.AT_EMPTY_PATH); err != nil {
			err = fail("utimensat", base, err)
		}
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// copy writes the content. Zeros of a sparse entry are left out.
func (a *applier) copy(ctx context.Context, f *os.File, h *tar.Header, content io.Reader) error {
	sparse := isSparse(h)
	if sparse && h.Size > maxSparse {
		return fmt.Errorf("sparse file of %d bytes: %w", h.Size, errdefs.ErrInvalidArgument)
	}
	var offset int64
	for {
		n, err := content.Read(a.buf)
		if n > 0 && !(sparse && zero(a.buf[:n])) {
			if _, err := f.WriteAt(a.buf[:n], offset); err != nil {
				return err
			}
		}
		offset += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if sparse {
		return f.Truncate(offset)
	}
	return nil
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func zero(p []byte) bool {
	for len(p) >= 8 {
		if p[0]|p[1]|p[2]|p[3]|p[4]|p[5]|p[6]|p[7] != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// link makes a hard link to a file of this layer, or of one below, which is copied up
// first.
func (a *applier) link(d *dir, base string, h *tar.Header) error {
	name, err := clean(h.Linkname)
	if err != nil || name == "" {
		return fmt.Errorf("hard link to %q: leaves the root: %w", h.Linkname, errdefs.ErrInvalidArgument)
	}
	dirname, target := path.Split(name)
	from, err := a.lookup(strings.TrimSuffix(dirname, "/"))
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("hard link to %q, which is not there: %w", h.Linkname, errdefs.ErrInvalidArgument)
	case err != nil:
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	defer from.close()
	var st, old unix.Stat_t
	err = unix.Fstatat(from.fd(), target, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) && a.lower != nil {
		if err = a.copyUp(from, target); err == nil {
			err = unix.Fstatat(from.fd(), target, &st, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("hard link to %q, which is not there: %w", h.Linkname, errdefs.ErrInvalidArgument)
	case err != nil:
		return fail("fstatat", h.Linkname, err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR, isWhiteout(&st):
		return fmt.Errorf("hard link to %q, which is no file: %w", h.Linkname, errdefs.ErrInvalidArgument)
	}
	if unix.Fstatat(d.fd(), base, &old, unix.AT_SYMLINK_NOFOLLOW) == nil && old.Ino == st.Ino && old.Dev == st.Dev {
		return nil // to itself, or once more
	}
	if err := a.replacing(d, base, func() error { return unix.Linkat(from.fd(), target, d.fd(), base, 0) }); err != nil {
		return fail("linkat", base, err)
	}
	return nil
}

// whiteout hides what the layers below have.
func (a *applier) whiteout(d *dir, base string) error {
	if base == whiteoutOpaque {
		return a.opaque(d)
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("whiteout of %q: %w", name, errdefs.ErrInvalidArgument)
	}
	// The layer's own files stay, whatever the order of the entries.
	if err := a.removeLower(d, name); err != nil {
		return err
	}
	if !a.target.Overlay {
		return nil
	}
	err := unix.Mknodat(d.fd(), name, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EEXIST) {
		if err != nil {
			return fail("mknodat", name, err)
		}
		return nil
	}
	f, err := d.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil // a file: it hides the lower one itself
	}
	defer func() { _ = f.Close() }()
	return a.markOpaque(f)
}

// opaque hides everything that the layers below have in d.
func (a *applier) opaque(d *dir) error {
	if a.target.Overlay {
		return a.markOpaque(d.file)
	}
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := a.removeLower(d, name); err != nil {
			return err
		}
	}
	return nil
}

// removeLower removes name, but not what this layer made at it or below it.
func (a *applier) removeLower(d *dir, name string) error {
	_, own := a.made[made{d.ino, name}]
	sub, err := d.sub(name)
	if err != nil { // not a directory
		if own {
			return nil
		}
		if err := a.remove(d, name); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	}
	defer sub.close()
	names, err := sub.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := a.removeLower(sub, n); err != nil {
			return err
		}
	}
	if own {
		return nil
	}
	if a.last != nil {
		a.last.path = "\x00"
	}
	if err := unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOTEMPTY {
		return fail("unlinkat", name, err)
	}
	return nil
}

// later notes the times of a directory.
func (a *applier) later(name string, h *tar.Header) {
	at, mt := stamps(h)
	a.dirs = append(a.dirs, dirTime{name, at, mt})
}

// times sets the times of directories, the last made first.
func (a *applier) times() error {
	for _, v := range slices.Backward(a.dirs) {
		t := v
		fd := int(a.root.Fd())
		if t.name != "" {
			f, err := openInRoot(a.root, t.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
			if err != nil {
				continue // replaced by something else meanwhile
			}
			fd = int(f.Fd())
			err = unix.UtimesNanoAt(fd, "", []unix.Timespec{t.atime, t.mtime}, unix.AT_EMPTY_PATH)
			_ = f.Close()
			if err != nil {
				return fail("utimensat", t.name, err)
			}
			continue
		}
		if err := unix.UtimesNanoAt(fd, "", []unix.Timespec{t.atime, t.mtime}, unix.AT_EMPTY_PATH); err != nil {
			return fail("utimensat", "/", err)
		}
	}
	return nil
}
