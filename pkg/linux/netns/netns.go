package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// self is the netns of the calling thread.
const self = "/proc/thread-self/ns/net"

// Create makes a network namespace and binds it to the file path, whose directory must
// exist. prepare, if not nil, runs inside the new netns before it gets its name: sockets
// that it opens belong to the netns, and a path that exists is a netns that is ready.
//
// A file at path that is no netns (left by a crash between its creation and the mount) is
// used; the error is of class os.ErrExist if a netns is bound there already.
func Create(path string, prepare func() error) error {
	if Is(path) {
		return &os.PathError{Op: "create netns", Path: path, Err: os.ErrExist}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("create netns: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("create netns: %w", err)
	}
	err = onOtherThread(unshare, func() error {
		if prepare != nil {
			if err := prepare(); err != nil {
				return err
			}
		}
		return bind(self, path)
	})
	if err != nil {
		return errors.Join(fmt.Errorf("create netns %q: %w", path, err), os.Remove(path))
	}
	return nil
}

// Rename gives the netns bound to oldpath the name newpath. rename(2) refuses mount
// points, so it is bound a second time; a crash in between leaves both names.
func Rename(oldpath, newpath string) error {
	f, err := os.OpenFile(newpath, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("rename netns: %w", err)
	}
	if err := errors.Join(f.Close(), bind(oldpath, newpath)); err != nil {
		return errors.Join(fmt.Errorf("rename netns %q: %w", oldpath, err), os.Remove(newpath))
	}
	return Delete(oldpath)
}

// Delete unmounts and removes path. The netns itself goes when its last process, socket
// and file descriptor are gone; the kernel then deletes its interfaces in the background.
// It is no error if there is nothing at path.
func Delete(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return &os.PathError{Op: "unmount netns", Path: path, Err: err}
	}
	// Where mounts do not propagate, other mount namespaces may still hold the mount:
	// removing the file detaches it there too (Linux 3.18, commit 8ed936b5671b).
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete netns: %w", err)
	}
	return nil
}

// Is reports whether a netns is bound to path.
func Is(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Open opens the netns bound to path, for Do and for IFLA_NET_NS_FD. Holding the file keeps
// the netns alive.
func Open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open netns: %w", err)
	}
	if !Is(path) {
		return nil, errors.Join(&os.PathError{Op: "open netns", Path: path, Err: unix.EINVAL}, f.Close())
	}
	return f, nil
}

// Current opens the netns that this process's main thread, and thus a goroutine that did
// not move, is in.
func Current() (*os.File, error) {
	f, err := os.Open(self)
	if err != nil {
		return nil, fmt.Errorf("open own netns: %w", err)
	}
	return f, nil
}

// Inode returns the number that tells the netns behind path from all others that live now.
func Inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat netns", Path: path, Err: err}
	}
	return st.Ino, nil
}

// Do runs fn on a thread inside ns and waits for it. Goroutines that fn starts are not
// inside, but sockets that it opens stay there.
func Do(ns *os.File, fn func() error) error {
	enter := func() error { return setns(ns) }
	if err := onOtherThread(enter, fn); err != nil {
		return fmt.Errorf("in netns %q: %w", ns.Name(), err)
	}
	return nil
}

// DoPath is Do for the netns bound to path.
func DoPath(path string, fn func() error) error {
	ns, err := Open(path)
	if err != nil {
		return err
	}
	return errors.Join(Do(ns, fn), ns.Close())
}

// onOtherThread locks a thread, moves it by enter, runs fn and moves it back. If it cannot
// come back the thread ends with its goroutine.
func onOtherThread(enter, fn func() error) error {
	result := make(chan error, 1) // one result, taken below
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(self)
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		err = enter()
		if err == nil {
			err = fn()
		}
		back := setns(home)
		if back == nil {
			runtime.UnlockOSThread()
		}
		result <- errors.Join(err, back, home.Close())
	}()
	return <-result
}

func unshare() error { return os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET)) }

func setns(f *os.File) error {
	return os.NewSyscallError("setns", unix.Setns(int(f.Fd()), unix.CLONE_NEWNET))
}

func bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "bind netns to", Path: target, Err: err}
	}
	return nil
}
