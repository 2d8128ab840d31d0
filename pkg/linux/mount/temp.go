package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// WithTemp makes the mounts, calls fn with the path of their root, and removes them
// when fn has returned. No mounts at all give fn an empty directory.
//
// A single bind or overlay mount is not attached anywhere: root is /proc/self/fd/N, other
// processes do not see it, and it is gone when this process dies. fn must not keep the
// path. What lies below root may be hostile: open it with os.OpenRoot, never by joining
// paths.
func WithTemp(ctx context.Context, mounts []Mount, fn func(root string) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("mount temporarily: %w", err)
	}
	if len(mounts) == 1 && (mounts[0].Target == "" || mounts[0].Target == "/") {
		fd, err := mounts[0].detached()
		if err == nil {
			return withDescriptor(fd, fn)
		}
		if !errors.Is(err, errClassic) {
			return mounts[0].wrap("", err)
		}
	}
	return withAttached(mounts, fn)
}

func withDescriptor(fd int, fn func(root string) error) error {
	f := os.NewFile(uintptr(fd), "mount")
	err := fn(fmt.Sprintf("/proc/self/fd/%d", fd))
	runtime.KeepAlive(f)
	if cerr := f.Close(); err == nil && cerr != nil {
		return fmt.Errorf("close temporary mount: %w", cerr)
	}
	return err
}

// withAttached mounts at a directory of its own, unseen by the mount namespaces that
// this one shares events with.
func withAttached(mounts []Mount, fn func(root string) error) (err error) {
	root, err := os.MkdirTemp("", "strata-mount-")
	if err != nil {
		return fmt.Errorf("mount temporarily: %w", err)
	}
	defer func() { err = errors.Join(err, removeMountPoint(root)) }()
	if len(mounts) == 0 {
		return fn(root)
	}
	if err := All(mounts, root); err != nil {
		return err
	}
	return fn(root)
}

// removeMountPoint removes root and the mounts on it, and never what they showed: a
// directory that does not go with rmdir(2) stays.
func removeMountPoint(root string) error {
	if err := UnmountRecursive(root); err != nil {
		return err
	}
	if err := unix.Rmdir(root); err != nil && err != unix.ENOENT && err != unix.ENOTEMPTY {
		return &os.PathError{Op: "rmdir", Path: root, Err: err}
	}
	return nil
}
