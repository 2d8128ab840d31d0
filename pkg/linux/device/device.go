package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Device is a device node.
type Device struct {
	Path         string
	Type         string // "b", "c" or "p"
	Major, Minor int64
	Perm         uint32 // permission bits
	UID, GID     uint32
}

// Stat describes the node at path, symbolic links followed; Path is the path asked for.
// The error is of class ErrInvalidArgument if it is no device.
func Stat(path string) (Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	d, ok := fromStat(path, &st)
	if !ok {
		return Device{}, fmt.Errorf("%s is not a device node: %w", path, errdefs.ErrInvalidArgument)
	}
	return d, nil
}

func fromStat(path string, st *unix.Stat_t) (Device, bool) {
	d := Device{
		Path: path, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		Perm: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		d.Type = "b"
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFIFO:
		d.Type, d.Major, d.Minor = "p", 0, 0
	default:
		return Device{}, false
	}
	return d, true
}

// Below returns the device at path or, for a directory, every device in it and its
// subdirectories except those of terminals and shared memory.
func Below(path string) ([]Device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		d, err := Stat(path)
		if err != nil {
			return nil, err
		}
		return []Device{d}, nil
	}
	return walk(path)
}

// HostDevices returns the devices of /dev, except terminals and the console, which the
// runtime makes itself.
func HostDevices() ([]Device, error) { return walk("/dev") }

func walk(root string) ([]Device, error) {
	var out []Device
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			return nil // gone meanwhile, or not ours to see
		case err != nil:
			return err
		case e.IsDir():
			switch e.Name() {
			case "pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev":
				return filepath.SkipDir
			}
			return nil
		case e.Name() == "console" || e.Name() == "ptmx" || e.Type()&fs.ModeSymlink != 0:
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		if d, ok := fromStat(path, &st); ok && d.Type != "p" {
			out = append(out, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("walk devices: %w", err)
	}
	return out, nil
}
