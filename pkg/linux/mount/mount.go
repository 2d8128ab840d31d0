package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Mount is {type, source, target, options}, ready to be handed to the kernel. Target
// is relative to the root that it is mounted below, usually empty. Options are the
// words of fstab(5); those that are not flags go to the filesystem.
type Mount struct {
	Type    string
	Source  string
	Target  string
	Options []string
}

// ReadOnly reports whether m cannot be written through.
func (m Mount) ReadOnly() bool { return parse(m).flags&unix.MS_RDONLY != 0 }

// All makes the mounts in order at target, an existing directory (or file, for bind
// mounts of files); a mount's own Target is looked up below it and never outside of it,
// whatever symlinks stand there. If one fails, those made before are undone.
//
// Errors are of class ErrInvalidArgument if the kernel refuses the options, ErrNotFound
// if source or target are missing, ErrNotImplemented for "loop".
func All(mounts []Mount, target string) error {
	var made []string
	for _, m := range mounts {
		path, err := m.at(target)
		if err != nil {
			for _, v := range slices.Backward(made) {
				if uerr := unix.Unmount(v, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); uerr != nil {
					err = errors.Join(err, &os.PathError{Op: "umount2", Path: v, Err: uerr})
				}
			}
			return err
		}
		made = append(made, path)
	}
	return nil
}

// at makes m at root/m.Target and returns where that is.
func (m Mount) at(root string) (string, error) {
	at, err := openTarget(root, m.Target)
	if err != nil {
		return "", m.wrap(root, err)
	}
	defer func() { _ = at.Close() }()
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", at.Fd()))
	if err != nil {
		return "", m.wrap(root, err)
	}
	fd, err := m.detached()
	switch {
	case err == nil:
		defer func() { _ = unix.Close(fd) }()
		err = unix.MoveMount(fd, "", int(at.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
		err = os.NewSyscallError("move_mount", err)
	case errors.Is(err, errClassic):
		if cerr := m.classic(path); cerr != nil {
			err = errors.Join(cerr, err) // both kernels' interfaces refused; the new one says why
		} else {
			err = nil
		}
	}
	if err != nil {
		return "", m.wrap(root, err)
	}
	return path, nil
}

func (m Mount) wrap(root string, err error) error {
	err = fmt.Errorf("mount %s %q at %q: %w", m.Type, m.Source, filepath.Join(root, m.Target), err)
	for _, c := range []struct{ errno, class error }{
		{unix.EINVAL, errdefs.ErrInvalidArgument},
		{unix.ENOENT, errdefs.ErrNotFound},
		{unix.ENODEV, errdefs.ErrNotImplemented},
		{unix.ENOSPC, errdefs.ErrResourceExhausted},
	} {
		if errors.Is(err, c.errno) {
			return fmt.Errorf("%w: %w", err, c.class)
		}
	}
	return err
}

// openTarget opens the mount point. Symlinks of rel are resolved below root.
func openTarget(root, rel string) (*os.File, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	dir := os.NewFile(uintptr(fd), root)
	rel = strings.TrimLeft(rel, "/")
	if rel == "" || rel == "." {
		return dir, nil
	}
	defer func() { _ = dir.Close() }()
	sub, err := unix.Openat2(fd, rel, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: root + "/" + rel, Err: err}
	}
	return os.NewFile(uintptr(sub), root+"/"+rel), nil
}

// errClassic says that a mount is to be made with mount(2).
var errClassic = errors.New("not for the mount API")

// detached makes m without a place in the tree and returns its descriptor. The mount
// goes when the descriptor is closed, unless move_mount(2) placed it.
func (m Mount) detached() (int, error) {
	o := parse(m)
	for _, word := range o.data {
		if word == "loop" || strings.HasPrefix(word, "loop=") {
			return -1, fmt.Errorf("loop devices: %w", errdefs.ErrNotImplemented)
		}
	}
	switch {
	case o.flags&unix.MS_REMOUNT != 0 || o.propagation != 0:
		return -1, errClassic
	case o.flags&unix.MS_BIND != 0:
		return m.detachedBind(o)
	case m.Type == "overlay":
		return m.detachedOverlay(o)
	}
	return -1, errClassic
}

// detachedBind clones the tree at Source. Attributes are set before anybody can see the
// clone.
func (m Mount) detachedBind(o options) (int, error) {
	how := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if o.flags&unix.MS_REC != 0 {
		how |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, how)
	switch {
	case err == unix.ENOSYS:
		return -1, errClassic
	case err != nil:
		return -1, &os.PathError{Op: "open_tree", Path: m.Source, Err: err}
	}
	set := o.attributes()
	if set == 0 {
		return fd, nil
	}
	attr := unix.MountAttr{Attr_set: set}
	if set&(unix.MOUNT_ATTR_NOATIME|unix.MOUNT_ATTR_STRICTATIME) != 0 {
		attr.Attr_clr = unix.MOUNT_ATTR__ATIME
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = unix.Close(fd)
		if err == unix.ENOSYS { // Linux < 5.12
			return -1, errClassic
		}
		return -1, os.NewSyscallError("mount_setattr", err)
	}
	return fd, nil
}
