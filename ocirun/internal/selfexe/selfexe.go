package selfexe

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const self = "/proc/self/exe"

// Protected reports whether the running binary cannot be written through /proc: its
// mount is read-only, or it is a sealed memory file.
func Protected() (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(self, &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: self, Err: err}
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return true, nil
	}
	f, err := os.Open(self)
	if err != nil {
		return false, err
	}
	defer f.Close()
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	return err == nil && seals&unix.F_SEAL_WRITE != 0, nil
}

// Protect executes the program again, with the same arguments and environment, from a
// protected image. It returns only if it is protected already, or on an error.
func Protect() error {
	ok, err := Protected()
	if ok || err != nil {
		return err
	}
	fd, err := readOnlyMount()
	if err != nil {
		if fd, err = sealedCopy(); err != nil {
			return fmt.Errorf("protect the runtime's binary: %w", err)
		}
	}
	return execFD(fd)
}

func readOnlyMount() (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, self, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
		return -1, errors.Join(os.NewSyscallError("mount_setattr", err), unix.Close(fd))
	}
	return fd, nil
}

func sealedCopy() (int, error) {
	fd, err := unix.MemfdCreate("ocirun", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	src, err := os.Open(self)
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	defer src.Close()
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	dst := os.NewFile(uintptr(dup), "copy")
	_, err = io.Copy(dst, src)
	if err = errors.Join(err, dst.Close()); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return -1, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	return fd, nil
}

func execFD(fd int) error {
	empty, _ := unix.BytePtrFromString("")
	argv, err := syscall.SlicePtrFromStrings(os.Args)
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(os.Environ())
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(empty)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	runtime.KeepAlive(argv)
	runtime.KeepAlive(envv)
	return os.NewSyscallError("execveat", errno)
}
