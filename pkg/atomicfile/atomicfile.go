package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Durability says whether Write waits for the disk.
type Durability bool

// The two promises a file can carry. Files on tmpfs, and whatever can be learnt
// again from a shim or the kernel, are Volatile.
const (
	Volatile Durability = false
	Durable  Durability = true
)

// Write replaces path by a file with content data and mode perm: it writes a
// temporary file beside it and renames it. With Durable the file and its directory
// are synced before Write returns. On an error the old file is untouched and no
// temporary file stays.
func Write(path string, data []byte, perm os.FileMode, durability Durability) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("replace %q: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("replace %q: %w", path, errors.Join(err, f.Close(), os.Remove(f.Name())))
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(perm); err != nil {
		return err
	}
	if durability == Durable {
		if err = f.Sync(); err != nil {
			return err
		}
	}
	// Point of no return: after the rename the new content is what readers see.
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	if cerr := f.Close(); cerr != nil {
		return fmt.Errorf("close %q: %w", path, cerr)
	}
	if durability == Durable {
		return SyncDir(dir)
	}
	return nil
}

// SyncDir makes the entries of directory dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
