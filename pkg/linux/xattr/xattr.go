// Package xattr reads the extended attributes of files (xattr(7)).
//
// A filesystem without attributes has none: that is no error.
package xattr

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Portable reports whether an attribute belongs to a file wherever it is, rather than to its
// host or its filesystem: capabilities, and user attributes but overlay's marks.
func Portable(key string) bool {
	return key == "security.capability" || strings.HasPrefix(key, "user.") && !strings.HasPrefix(key, "user.overlay.")
}

// Of returns the attributes of an open file that keep wants; nil for none. Errors are
// *os.PathError.
func Of(f *os.File, keep func(key string) bool) (map[string]string, error) {
	fd := int(f.Fd())
	return read(f.Name(), keep, func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(key string, b []byte) (int, error) { return unix.Fgetxattr(fd, key, b) })
}

// OfPath is Of for what a path leads to; for a file that is open with O_PATH, its name in
// /proc/self/fd.
func OfPath(path string, keep func(key string) bool) (map[string]string, error) {
	return read(path, keep, func(b []byte) (int, error) { return unix.Listxattr(path, b) },
		func(key string, b []byte) (int, error) { return unix.Getxattr(path, key, b) })
}

// OfName is OfPath for the last component itself, if that is a symlink.
func OfName(path string, keep func(key string) bool) (map[string]string, error) {
	return read(path, keep, func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		func(key string, b []byte) (int, error) { return unix.Lgetxattr(path, key, b) })
}

// enough is for the list and the values of nearly every file, in bytes.
const enough = 256

func read(name string, keep func(key string) bool, list func([]byte) (int, error), get func(string, []byte) (int, error)) (map[string]string, error) {
	var small [enough]byte
	keys, err := all(small[:], list)
	if errors.Is(err, unix.ENOTSUP) || len(keys) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: name, Err: err}
	}
	var out map[string]string
	for key := range strings.SplitSeq(strings.TrimRight(string(keys), "\x00"), "\x00") {
		if !keep(key) {
			continue
		}
		value, err := all(small[:], func(b []byte) (int, error) { return get(key, b) })
		if errors.Is(err, unix.ENODATA) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, &os.PathError{Op: "getxattr " + key, Path: name, Err: err}
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = string(value)
	}
	return out, nil
}

// most is the largest list and the largest value, in bytes (Linux
// include/uapi/linux/limits.h XATTR_LIST_MAX, XATTR_SIZE_MAX).
const most = 64 << 10

// all calls fn with b or, if that is too small, with what is large enough for everything.
func all(b []byte, fn func([]byte) (int, error)) ([]byte, error) {
	n, err := fn(b)
	if errors.Is(err, unix.ERANGE) {
		b = make([]byte, most)
		n, err = fn(b)
	}
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}
