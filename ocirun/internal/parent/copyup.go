package parent

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"strata/ocirun/internal/plan"
	"strata/pkg/linux/inroot"
)

// maxCopyUp bounds what is copied: an image must not fill the host's memory by way of
// a mount without a size.
const maxCopyUp = 1 << 30

// copyUp makes a detached tmpfs with a copy of what rootfs has at the destination:
// directories, files and symlinks with their modes and owners.
func copyUp(o plan.CopyUp, rootfs string) (_ *os.File, err error) {
	fsfd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fsfd)
	for _, d := range o.Data {
		key, value, ok := strings.Cut(d, "=")
		if ok {
			err = unix.FsconfigSetString(fsfd, key, value)
		} else {
			err = unix.FsconfigSetFlag(fsfd, key)
		}
		if err != nil {
			return nil, os.NewSyscallError("fsconfig "+d, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, int(o.Attrs.Set&^unix.MOUNT_ATTR_RDONLY))
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	m := os.NewFile(uintptr(fd), "tmpfs")
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if err := copyTree(rootfs, o.Dest, "/proc/self/fd/"+strconv.Itoa(fd)); err != nil {
		return nil, err
	}
	if o.Attrs.Set&unix.MOUNT_ATTR_RDONLY != 0 {
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
			return nil, os.NewSyscallError("mount_setattr", err)
		}
	}
	return m, nil
}

func copyTree(rootfs, dir, dst string) error {
	root, err := inroot.Open(rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	d, err := root.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	src, err := os.OpenRoot("/proc/self/fd/" + strconv.Itoa(int(d.Fd())))
	if err != nil {
		return err
	}
	defer src.Close()
	left := int64(maxCopyUp)
	return fs.WalkDir(src.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return copyEntry(src, path, filepath.Join(dst, path), &left)
	})
}

func copyEntry(src *os.Root, path, dst string, left *int64) error {
	st, err := src.Lstat(path)
	if err != nil {
		return err
	}
	switch mode := st.Mode(); {
	case mode.IsDir():
		if path != "." {
			err = os.Mkdir(dst, mode.Perm())
		}
	case mode.IsRegular():
		err = copyFile(src, path, dst, left)
	case mode&fs.ModeSymlink != 0:
		var to string
		if to, err = src.Readlink(path); err == nil {
			err = os.Symlink(to, dst)
		}
	default:
		return nil // devices, sockets and fifos are not copied
	}
	if err != nil {
		return err
	}
	sys := st.Sys().(*syscall.Stat_t)
	if err := os.Lchown(dst, int(sys.Uid), int(sys.Gid)); err != nil {
		return err
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	return os.Chmod(dst, st.Mode())
}

func copyFile(src *os.Root, path, dst string, left *int64) error {
	in, err := src.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(in, *left+1))
	if *left -= n; *left < 0 {
		err = errors.Join(err, unix.EFBIG)
	}
	return errors.Join(err, out.Close())
}
