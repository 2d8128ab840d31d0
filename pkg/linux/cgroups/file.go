package cgroups

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// writeError says what was written where, and carries the class of the errno beside it.
type writeError struct {
	value, path string
	errno       syscall.Errno
}

func (e *writeError) Error() string {
	return fmt.Sprintf("write %q to %s: %v", e.value, e.path, e.errno)
}

func (e *writeError) Unwrap() []error {
	switch e.errno {
	case unix.EINVAL, unix.ERANGE, unix.EOVERFLOW:
		return []error{e.errno, errdefs.ErrInvalidArgument}
	case unix.ENOENT, unix.ENODEV, unix.ESRCH:
		return []error{e.errno, errdefs.ErrNotFound}
	case unix.EACCES, unix.EPERM, unix.EROFS:
		return []error{e.errno, errdefs.ErrPermissionDenied}
	case unix.EBUSY:
		return []error{e.errno, errdefs.ErrFailedPrecondition}
	default:
		return []error{e.errno}
	}
}

// write writes value to dir/file in one write(2), as cgroupfs needs it.
func write(dir, file, value string) error {
	path := dir + "/" + file
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		for {
			_, err = unix.Write(fd, []byte(value))
			if err != unix.EINTR { // a raw errno
				break
			}
		}
		_ = unix.Close(fd) // nothing is buffered
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return &writeError{value: value, path: path, errno: errno}
	}
	return err
}

func exists(dir, file string) bool {
	var st unix.Stat_t
	return unix.Stat(dir+"/"+file, &st) == nil
}

// read returns the content of dir/file without the last newline.
func read(dir, file string) (string, error) {
	data, err := os.ReadFile(dir + "/" + file)
	if err != nil {
		return "", err
	}
	return string(bytes.TrimSpace(data)), nil
}

// readUint returns the number in dir/file; "max" and what does not fit is the largest
// number.
func readUint(dir, file string) (uint64, error) {
	s, err := read(dir, file)
	if err != nil {
		return 0, err
	}
	return parseUint(s), nil
}

// parseUint reads a number as the kernel writes it. "max" is the largest; a negative
// one, which v1 writes for some counters in a race, is zero.
func parseUint(s string) uint64 {
	if s == "max" {
		return ^uint64(0)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0
	}
	return n
}

// readKeyed returns a flat keyed file ("key value" lines).
func readKeyed(dir, file string) (map[string]uint64, error) {
	data, err := os.ReadFile(dir + "/" + file)
	if err != nil {
		return nil, err
	}
	out := make(map[string]uint64, 48)
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			out[k] = parseUint(v)
		}
	}
	return out, nil
}
