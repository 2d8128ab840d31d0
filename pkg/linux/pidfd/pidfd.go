// Package pidfd names processes by file descriptor, so that a signal can never reach
// another process which got the same pid later.
package pidfd

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

// FD is a process. Close it.
type FD struct {
	fd  int
	pid int
}

// Open returns the process with the given pid. The error is of class ErrNotFound if
// there is none.
//
// Source: pidfd_open(2), Linux 5.3.
func Open(pid int) (*FD, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("open pidfd of process %d: %w", pid, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open pidfd of process %d: %w", pid, os.NewSyscallError("pidfd_open", err))
	}
	return &FD{fd: fd, pid: pid}, nil
}

// Signal sends a signal. The errors are of class ErrNotFound if the process has ended
// and ErrInvalidArgument if there is no such signal.
//
// Source: pidfd_send_signal(2), Linux 5.1.
func (f *FD) Signal(sig syscall.Signal) error {
	err := unix.PidfdSendSignal(f.fd, sig, nil, 0)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ESRCH):
		return fmt.Errorf("signal process %d: %w", f.pid, errdefs.ErrNotFound)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("signal process %d: no signal %d: %w", f.pid, int(sig), errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("send signal %d to process %d: %w", int(sig), f.pid, os.NewSyscallError("pidfd_send_signal", err))
}

// Close releases the descriptor; the process goes on.
func (f *FD) Close() error {
	return os.NewSyscallError("close", unix.Close(f.fd))
}
