package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// bulkMin is from how many files on it pays to write them side by side.
const bulkMin = 256

// split takes out of items the regular files that go into directories which Put makes
// itself: nothing can be in their way, so that they need not come one after the other. It
// returns the other items, and those files by directory.
func (w *placer) split(items []Item) (rest []Item, bulk map[string][]*Item) {
	if len(items) < bulkMin {
		return items, nil
	}
	fresh, kinds := map[string]bool{}, make(map[string]fs.FileMode, len(items))
	if _, _, err := Resolve(w.dst, w.dest); errors.Is(err, fs.ErrNotExist) && w.isDir {
		fresh[w.dest] = true
	}
	bulk = map[string][]*Item{}
	for i := range items {
		it := &items[i]
		at := w.target(it)
		kind := it.Mode.Type()
		if old, twice := kinds[at]; twice && (old != kind || kind != fs.ModeDir) {
			return items, nil // one source upon the other: their order matters
		}
		kinds[at] = kind
		dir := path.Dir(at)
		if kind == fs.ModeDir && !fresh[at] {
			if fresh[dir] {
				fresh[at] = true
			} else if _, _, err := Resolve(w.dst, at); errors.Is(err, fs.ErrNotExist) {
				fresh[at] = true
			}
		}
		if kind == 0 && fresh[dir] {
			bulk[dir] = append(bulk[dir], it)
		} else {
			rest = append(rest, *it)
		}
	}
	return rest, bulk
}

// writeBulk writes files into directories that are there, several directories at a time.
// The times of the directories stay.
func (w *placer) writeBulk(bulk map[string][]*Item) error {
	g, ctx := errgroup.WithContext(w.ctx)
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	for dir, items := range bulk {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return w.writeInto(dir, items)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return w.ctx.Err()
}

func (w *placer) writeInto(name string, items []*Item) error {
	dir, err := w.dst.root.OpenFile(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // only a descriptor
	before, err := dir.Stat()
	if err != nil {
		return err
	}
	for _, it := range items {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.writeFile(dir, path.Base(w.target(it)), it); err != nil {
			return fmt.Errorf("copy %q: %w", it.Source, full(err))
		}
	}
	return setTime(dir, ".", before.ModTime())
}

// writeFile makes one file that is not there yet.
func (w *placer) writeFile(dir *os.File, name string, it *Item) (err error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "openat", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { err = errors.Join(err, f.Close()) }()
	if it.Size > 0 {
		if err := w.copyContent(f, it); err != nil {
			return err
		}
	}
	uid, gid := it.UID, it.GID
	if w.p.Owner != nil {
		uid, gid = w.p.Owner.UID, w.p.Owner.GID
	}
	if err := f.Chown(uid, gid); err != nil {
		return err
	}
	mode := permissions(it.Mode)
	if w.p.Mode != nil {
		mode = w.p.Mode(mode, false)
	}
	if err := unix.Fchmod(fd, uint32(mode)); err != nil { //nolint:gosec // a file mode
		return &os.PathError{Op: "fchmod", Path: name, Err: err}
	}
	if a, ok := w.tree.(attributed); ok {
		attrs, err := a.Xattrs(it.Source)
		if err != nil {
			return err
		}
		for k, v := range attrs {
			if err := unix.Fsetxattr(fd, k, []byte(v), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
				return &os.PathError{Op: "fsetxattr " + k, Path: name, Err: err}
			}
		}
	}
	return setTime(dir, name, it.ModTime.Truncate(time.Second))
}

func (w *placer) copyContent(f *os.File, it *Item) error {
	r, err := w.tree.Open(it.Source)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // only read
	n, err := io.Copy(f, io.LimitReader(r, it.Size))
	if err == nil && n < it.Size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// permissions are the twelve bits of a mode.
func permissions(m fs.FileMode) int64 {
	out := int64(m.Perm())
	for _, b := range []struct {
		is  fs.FileMode
		bit int64
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&b.is != 0 {
			out |= b.bit
		}
	}
	return out
}

// setTime sets when entry name of a directory was changed.
func setTime(dir *os.File, name string, at time.Time) error {
	ts := unix.NsecToTimespec(at.UnixNano())
	if err := unix.UtimesNanoAt(int(dir.Fd()), name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return nil
}

// full gives an error of a full filesystem its class.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	}
	return err
}
