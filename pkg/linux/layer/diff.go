package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Source is what a changeset is made from.
type Source struct {
	// Lower and Upper are the trees to compare. An empty Lower has nothing.
	Lower, Upper string
	// Overlay says that Upper is the upper directory of an overlay above Lower: only it
	// is walked.
	Overlay bool
	// UserXattr: see Target.
	UserXattr bool
	// Epoch, if not zero, is the latest modification time that is written.
	Epoch time.Time
}

// Diff writes the changeset that turns Lower into Upper as a tar stream, with its end
// marks, in the order of names: the same trees give the same bytes. Files that are the
// same in size, owner, mode and modification time are taken for the same, as containerd
// does. Sockets and times below a second are left out.
func Diff(ctx context.Context, w io.Writer, s Source) error {
	d := &differ{source: s, tw: tar.NewWriter(w), links: map[inode]string{}, buf: make([]byte, bufferSize)}
	upper, err := openTree(s.Upper)
	if err != nil {
		return fmt.Errorf("diff: %w", err)
	}
	defer upper.close()
	var lower *dir
	if s.Lower != "" {
		if lower, err = openTree(s.Lower); err != nil {
			return fmt.Errorf("diff: %w", err)
		}
		defer lower.close()
	}
	if err := d.walk(ctx, pair{upper: upper, lower: lower}); err != nil {
		return fmt.Errorf("diff: %w", err)
	}
	if err := d.tw.Close(); err != nil {
		return fmt.Errorf("diff: end archive: %w", err)
	}
	return nil
}

func openTree(name string) (*dir, error) {
	f, err := openDir(name)
	if err != nil {
		return nil, err
	}
	return newDir(f, "")
}

type inode struct{ dev, ino uint64 }

type differ struct {
	source Source
	tw     *tar.Writer
	links  map[inode]string // first name of a file with several
	buf    []byte
}

// pending is a directory whose header is written when something in it changed.
type pending struct {
	parent *pending
	header *tar.Header // nil: written, or the root
}

func (d *differ) flush(p *pending) error {
	if p == nil || p.header == nil {
		return nil
	}
	if err := d.flush(p.parent); err != nil {
		return err
	}
	h := p.header
	p.header = nil
	return d.write(h)
}

// write writes a header whose time is no later than the epoch.
func (d *differ) write(h *tar.Header) error {
	if e := d.source.Epoch; !e.IsZero() && h.ModTime.After(e) {
		h.ModTime = e.Truncate(time.Second)
	}
	return d.tw.WriteHeader(h)
}

// pair is two directories to compare, of the same name.
type pair struct {
	upper, lower *dir     // lower: nil if there is none
	header       *pending // of upper; nil for the root
}

// walk compares two directories.
func (d *differ) walk(ctx context.Context, at pair) error {
	names, err := at.upper.names()
	if err != nil {
		return err
	}
	if at.lower != nil && !d.source.Overlay {
		more, err := at.lower.names()
		if err != nil {
			return err
		}
		names = append(names, more...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.entry(ctx, at, name); err != nil {
			return fmt.Errorf("%q: %w", path.Join(at.upper.path, name), err)
		}
	}
	return nil
}

func stat(d *dir, name string) (*unix.Stat_t, error) {
	if d == nil {
		return nil, nil
	}
	var st unix.Stat_t
	err := unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch err {
	case nil:
		return &st, nil
	case unix.ENOENT:
		return nil, nil
	}
	return nil, fail("fstatat", name, err)
}

func (d *differ) entry(ctx context.Context, at pair, name string) error {
	st, err := stat(at.upper, name)
	if err != nil {
		return err
	}
	below, err := stat(at.lower, name)
	if err != nil {
		return err
	}
	full := path.Join(at.upper.path, name)
	switch {
	case st == nil && below == nil:
		return nil // gone meanwhile
	case st == nil, d.source.Overlay && isWhiteout(st):
		if below == nil {
			return nil // it hides nothing
		}
		return d.empty(at.header, path.Join(at.upper.path, whiteoutPrefix+name))
	case st.Mode&unix.S_IFMT == unix.S_IFSOCK:
		return nil
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return d.directory(ctx, at, name, st, below)
	}
	same, err := d.same(at.upper, at.lower, name, st, below)
	if err != nil || same {
		return err
	}
	if err := d.flush(at.header); err != nil {
		return err
	}
	return d.file(at.upper, name, full, st)
}

// empty writes a whiteout.
func (d *differ) empty(p *pending, name string) error {
	if err := d.flush(p); err != nil {
		return err
	}
	return d.write(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
}

func (d *differ) directory(ctx context.Context, at pair, name string, st, below *unix.Stat_t) error {
	sub, err := at.upper.sub(name)
	if err != nil {
		return err
	}
	defer sub.close()
	var low *dir
	if below != nil && below.Mode&unix.S_IFMT == unix.S_IFDIR {
		if low, err = at.lower.sub(name); err != nil {
			return err
		}
		defer low.close()
	}
	h, err := header(sub.path+"/", sub.fd(), st)
	if err != nil {
		return err
	}
	child := &pending{parent: at.header, header: h}
	if low == nil || !sameOwner(st, below) || !sameXattrs(sub.fd(), low.fd()) {
		if err := d.flush(child); err != nil {
			return err
		}
	}
	if d.source.Overlay && d.isOpaque(sub) {
		if low != nil {
			if err := d.empty(child, path.Join(sub.path, whiteoutOpaque)); err != nil {
				return err
			}
		}
		low = nil
	}
	return d.walk(ctx, pair{sub, low, child})
}

func (d *differ) isOpaque(sub *dir) bool {
	value := make([]byte, 8)
	n, err := unix.Fgetxattr(sub.fd(), Target{UserXattr: d.source.UserXattr}.opaque(), value)
	return err == nil && n == 1 && value[0] == 'y'
}

func sameOwner(a, b *unix.Stat_t) bool { return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid }

func sameXattrs(a, b int) bool {
	return maps.Equal(xattrs(fmt.Sprintf("/proc/self/fd/%d", a)), xattrs(fmt.Sprintf("/proc/self/fd/%d", b)))
}

// same reports whether a file did not change.
func (d *differ) same(upper, lower *dir, name string, st, below *unix.Stat_t) (bool, error) {
	if below == nil || !sameOwner(st, below) || st.Rdev != below.Rdev || st.Size != below.Size {
		return false, nil
	}
	if st.Ino == below.Ino && st.Dev == below.Dev {
		return true, nil
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		a, err := readlink(upper, name)
		if err != nil {
			return false, err
		}
		b, err := readlink(lower, name)
		return a == b && st.Mtim.Sec == below.Mtim.Sec, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return st.Mtim == below.Mtim, nil
	}
	if st.Mtim.Sec != below.Mtim.Sec {
		return false, nil
	}
	// A layer has whole seconds: a file from one differs from its own later self only in
	// what it holds.
	exact := st.Mtim.Nsec == below.Mtim.Nsec && st.Mtim.Nsec != 0
	if !exact && st.Mtim.Nsec != 0 && below.Mtim.Nsec != 0 {
		return false, nil
	}
	return sameContent(upper, lower, name, exact)
}

// sameContent compares extended attributes and, unless the times say it all, bytes.
func sameContent(upper, lower *dir, name string, exact bool) (bool, error) {
	a, err := upper.open(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return false, err
	}
	defer func() { _ = a.Close() }()
	b, err := lower.open(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return false, err
	}
	defer func() { _ = b.Close() }()
	if !sameXattrs(int(a.Fd()), int(b.Fd())) {
		return false, nil
	}
	if exact {
		return true, nil
	}
	bufA, bufB := make([]byte, bufferSize), make([]byte, bufferSize)
	for {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		if n != m || !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		if errA != nil || errB != nil {
			if isEnd(errA) && isEnd(errB) {
				return true, nil
			}
			return false, errors.Join(errA, errB)
		}
	}
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func readlink(d *dir, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(d.fd(), name, buf)
	if err != nil {
		return "", fail("readlinkat", name, err)
	}
	return string(buf[:n]), nil
}

// header describes an entry; fd is -1 for what has no extended attributes of ours.
func header(name string, fd int, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, 0), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
		if st.Mode&unix.S_IFMT == unix.S_IFCHR {
			h.Typeflag = tar.TypeChar
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return nil, fmt.Errorf("file of mode %#o: %w", st.Mode, os.ErrInvalid)
	}
	if fd >= 0 {
		for key, value := range xattrs(fmt.Sprintf("/proc/self/fd/%d", fd)) {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[paxXattr+key] = value
		}
	}
	return h, nil
}

// file writes what is no directory.
func (d *differ) file(upper *dir, name, full string, st *unix.Stat_t) error {
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := d.links[id]; ok {
			h, err := header(full, -1, st)
			if err != nil {
				return err
			}
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return d.write(h)
		}
		d.links[id] = full
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		h, err := header(full, -1, st)
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeSymlink {
			if h.Linkname, err = readlink(upper, name); err != nil {
				return err
			}
		}
		return d.write(h)
	}
	f, err := upper.open(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	h, err := header(full, int(f.Fd()), st)
	if err != nil {
		return err
	}
	if err := d.write(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{d.tw}, io.LimitReader(f, st.Size), d.buf)
	if err == nil && n < st.Size {
		err = fmt.Errorf("the file shrank while it was read: %w", io.ErrUnexpectedEOF)
	}
	return err
}
