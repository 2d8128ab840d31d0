package etcfiles

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Write makes path hold data without replacing the file: it may be bind-mounted into a
// container. Readers see the new bytes from the start on; a shorter text leaves the rest of
// the old one for the moment between two system calls.
func Write(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	_, werr := f.WriteAt(data, 0)
	if err := errors.Join(werr, f.Truncate(int64(len(data))), f.Close()); err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	return nil
}

// maxHosts bounds what is read of a hosts file that a container may have written, in bytes.
const maxHosts = 1 << 20

// Edit rewrites path by edit in place. A file that is missing is left alone.
func Edit(path string, edit func([]byte) []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("edit %q: %w", path, err)
	}
	old, err := io.ReadAll(io.LimitReader(f, maxHosts))
	if err == nil {
		if fresh := edit(old); string(fresh) != string(old) {
			_, err = f.WriteAt(fresh, 0)
			err = errors.Join(err, f.Truncate(int64(len(fresh))))
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("edit %q: %w", path, err)
	}
	return nil
}
