// Package memfd makes nameless files in memory.
package memfd

import (
	"os"

	"golang.org/x/sys/unix"
)

// New returns an empty file in memory. The name is for people who look at /proc.
//
// Source: memfd_create(2), Linux 3.17.
func New(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
