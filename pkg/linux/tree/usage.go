package tree

import (
	"context"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Usage returns the number of inodes below dir, dir included, and the bytes that they
// take on disk (allocated blocks, so that a hole is free). Hard links count once; other
// filesystems mounted below are left out. What vanishes meanwhile is not an error.
func Usage(ctx context.Context, dir string) (inodes, sizeBytes int64, err error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return 0, 0, &os.PathError{Op: "fstat", Path: dir, Err: err}
	}
	u := usage{dev: st.Dev, inodes: 1, blocks: st.Blocks}
	err = u.walk(ctx, f)
	return u.inodes, u.blocks * 512, err
}

type usage struct {
	dev    uint64
	inodes int64
	blocks int64 // of 512 bytes
	linked map[uint64]struct{}
}

// walk adds what is below d and closes it.
func (u *usage) walk(ctx context.Context, d *os.File) error {
	defer func() { _ = d.Close() }()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, err := d.Readdirnames(1024)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := u.add(ctx, d, name); err != nil {
				return err
			}
		}
	}
}

func (u *usage) add(ctx context.Context, d *os.File, name string) error {
	var st unix.Stat_t
	switch err := unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return nil
	case err != nil:
		return &os.PathError{Op: "fstatat", Path: d.Name() + "/" + name, Err: err}
	case st.Dev != u.dev:
		return nil
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !isDir && st.Nlink > 1 {
		if _, ok := u.linked[st.Ino]; ok {
			return nil
		}
		if u.linked == nil {
			u.linked = map[uint64]struct{}{}
		}
		u.linked[st.Ino] = struct{}{}
	}
	u.inodes++
	u.blocks += st.Blocks
	if !isDir {
		return nil
	}
	fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
		return u.walk(ctx, os.NewFile(uintptr(fd), d.Name()+"/"+name))
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return nil
	}
	return &os.PathError{Op: "openat", Path: d.Name() + "/" + name, Err: err}
}

// Free returns how many bytes a user without privileges can still write to the filesystem of
// dir.
func Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil //nolint:gosec // of a disk
}
