package tree

import (
	"os"

	"golang.org/x/sys/unix"
)

// SyncFilesystem flushes the whole filesystem that holds path: syncfs(2), which since
// Linux 5.8 also reports write-back errors.
func SyncFilesystem(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: path, Err: err}
	}
	return nil
}

// SyncFile flushes one file or directory: fsync(2).
func SyncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return f.Sync()
}
