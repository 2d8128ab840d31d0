// Package fifo opens pipes, named and unnamed, for use with Go's poller.
package fifo

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

// Pipe returns a new pipe. The end named ours is non-blocking and known to the poller,
// the other is a plain blocking descriptor for a child, to be closed with [CloseFD].
//
// Source: pipe(2).
func Pipe(ours Direction) (*os.File, int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, os.NewSyscallError("pipe2", err)
	}
	mine, theirs := p[0], p[1]
	if ours == Write {
		mine, theirs = theirs, mine
	}
	if err := unix.SetNonblock(mine, true); err != nil {
		return nil, -1, errors.Join(os.NewSyscallError("fcntl", err), CloseFD(mine), CloseFD(theirs))
	}
	return os.NewFile(uintptr(mine), "pipe"), theirs, nil
}

// Direction is one end of a pipe.
type Direction bool

// The two ends.
const (
	Read  Direction = false
	Write Direction = true
)

// CloseFD closes a plain descriptor.
func CloseFD(fd int) error { return os.NewSyscallError("close", unix.Close(fd)) }

// Chown changes the owner of a plain descriptor's pipe.
func Chown(fd, uid, gid int) error { return os.NewSyscallError("fchown", unix.Fchown(fd, uid, gid)) }

// OpenRead opens the named pipe path for reading and does not wait for a writer. A read
// without a writer returns zero bytes; [HungUp] tells whether one has been there.
//
// The error is of class ErrInvalidArgument if path is not a named pipe.
func OpenRead(path string) (*os.File, error) { return open(path, unix.O_RDONLY) }

// OpenWrite opens the named pipe path for writing. There must be a reader.
//
// The errors are as of OpenRead; ENXIO means that there is no reader.
func OpenWrite(path string) (*os.File, error) { return open(path, unix.O_WRONLY) }

// OpenBoth opens both ends of the named pipe path at once: writers never find their
// reader gone while it is open, and bytes stay in the pipe until somebody takes them.
//
// Source: fifo(7), "Under Linux, opening a FIFO for read and write will succeed".
func OpenBoth(path string) (*os.File, error) { return open(path, unix.O_RDWR) }

func open(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(&os.PathError{Op: "fstat", Path: path, Err: err}, CloseFD(fd))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, errors.Join(fmt.Errorf("%q is not a named pipe: %w", path, errdefs.ErrInvalidArgument), CloseFD(fd))
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Make makes a named pipe unless there is a file already.
func Make(path string, perm uint32) error {
	if err := unix.Mkfifo(path, perm); err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return nil
}

// HungUp reports whether the other end of the pipe or socket fd has gone. It stays false
// for a named pipe that nobody has opened yet.
//
// Source: poll(2), POLLHUP.
func HungUp(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// NoReader reports whether the write end fd has nobody at the other end.
func NoReader(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&unix.POLLERR != 0
}
