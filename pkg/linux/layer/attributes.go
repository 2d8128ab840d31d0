package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"strata/pkg/linux/xattr"

	"golang.org/x/sys/unix"
)

const paxXattr = "SCHILY.xattr."

// stamps returns the times of an entry. An archive without access times uses the
// modification time.
func stamps(h *tar.Header) (atime, mtime unix.Timespec) {
	at := h.AccessTime
	if at.IsZero() {
		at = h.ModTime
	}
	return timespec(at), timespec(h.ModTime)
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// attributes sets owner, mode and extended attributes of a file or directory, in this
// order: a change of owner clears set-id bits and capabilities.
func attributes(f *os.File, h *tar.Header) error {
	fd := int(f.Fd())
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return fail("fchown", f.Name(), err)
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil {
		return fail("fchmod", f.Name(), err)
	}
	return eachXattr(h, func(key string, value []byte) error { return unix.Fsetxattr(fd, key, value, 0) })
}

// eachXattr sets what a filesystem without extended attributes may leave out. Overlay's own
// marks would let an archive redirect or hide directories of other layers; labels of
// security modules belong to the host.
func eachXattr(h *tar.Header, set func(key string, value []byte) error) error {
	for k, v := range h.PAXRecords {
		key, ok := strings.CutPrefix(k, paxXattr)
		if !ok || !xattr.Portable(key) {
			continue
		}
		if err := set(key, []byte(v)); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fail("setxattr "+key, h.Name, err)
		}
	}
	return nil
}

// special sets the attributes of what cannot be opened: a symlink, device or FIFO.
func special(d *dir, base string, h *tar.Header) error {
	if err := unix.Fchownat(d.fd(), base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail("fchownat", base, err)
	}
	if h.Typeflag != tar.TypeSymlink {
		// Not a symlink: it was made just now, in a directory that nobody else writes.
		if err := unix.Fchmodat(d.fd(), base, uint32(h.Mode)&0o7777, 0); err != nil {
			return fail("fchmodat", base, err)
		}
		// The directory by its descriptor, then one component that is not followed.
		path := fmt.Sprintf("/proc/self/fd/%d/%s", d.fd(), base)
		err := eachXattr(h, func(key string, value []byte) error {
			if strings.HasPrefix(key, "user.") {
				return nil // the kernel has them for files and directories only
			}
			return unix.Lsetxattr(path, key, value, 0)
		})
		if err != nil {
			return err
		}
	}
	at, mt := stamps(h)
	if err := unix.UtimesNanoAt(d.fd(), base, []unix.Timespec{at, mt}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail("utimensat", base, err)
	}
	return nil
}

// copyAttributes gives f what low, opened with O_PATH, has of owner, mode, extended
// attributes and times.
func copyAttributes(f, low *os.File, st *unix.Stat_t) error {
	fd := int(f.Fd())
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return fail("fchown", f.Name(), err)
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
		return fail("fchmod", f.Name(), err)
	}
	for key, value := range xattrs(fmt.Sprintf("/proc/self/fd/%d", low.Fd())) {
		if err := unix.Fsetxattr(fd, key, []byte(value), 0); err != nil && err != unix.ENOTSUP {
			return fail("fsetxattr "+key, f.Name(), err)
		}
	}
	if err := unix.UtimesNanoAt(fd, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH); err != nil {
		return fail("utimensat", f.Name(), err)
	}
	return nil
}

// xattrs returns the extended attributes that belong into layers. path is followed: it
// names a descriptor.
func xattrs(path string) map[string]string {
	found, _ := xattr.OfPath(path, xattr.Portable) // what cannot be read is not there for us
	return found
}
