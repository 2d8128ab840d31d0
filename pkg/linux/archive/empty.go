package archive

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"strata/pkg/linux/inroot"
)

// RemoveEmpty removes name below the root if it is an empty regular file or an empty
// directory, and leaves anything else. A file that is not there is no error.
func RemoveEmpty(r *inroot.Root, name string) error {
	dir, base, err := r.Parent(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // only a descriptor
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return &os.PathError{Op: "fstatat", Path: name, Err: err}
	}
	flags := 0
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		flags = unix.AT_REMOVEDIR
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > 0:
		return nil
	}
	err = unix.Unlinkat(int(dir.Fd()), base, flags)
	if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "unlinkat", Path: name, Err: err}
	}
	return nil
}
