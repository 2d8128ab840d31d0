package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// maxStacked bounds how many mounts Unmount removes at one place.
const maxStacked = 128

// Unmount removes every mount stacked at target; none is not an error, nor is a target
// that does not exist. A busy mount is detached: its name is free at once, the
// filesystem goes with its last user. A symlink at target is not followed.
func Unmount(target string) error {
	for range maxStacked {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		if err == unix.EBUSY {
			err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		switch err {
		case nil:
			continue
		case unix.EINVAL, unix.ENOENT: // not a mount point (any more)
			return nil
		}
		return fmt.Errorf("unmount: %w", &os.PathError{Op: "umount2", Path: target, Err: err})
	}
	return fmt.Errorf("unmount %q: more than %d mounts stacked", target, maxStacked)
}

// UnmountRecursive removes every mount at or below target, deepest first.
func UnmountRecursive(target string) error {
	target, err := filepath.Abs(target)
	if err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(target))
	if err != nil {
		return fmt.Errorf("unmount %q: read mountinfo: %w", target, err)
	}
	sort.SliceStable(infos, func(i, j int) bool { return len(infos[i].Mountpoint) > len(infos[j].Mountpoint) })
	var errs []error
	for _, info := range infos {
		errs = append(errs, Unmount(info.Mountpoint))
	}
	return errors.Join(errs...)
}
