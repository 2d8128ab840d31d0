package pidfd

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrAlive says that a process has not ended in time.
var ErrAlive = errors.New("still running")

// Kill kills process pid and waits up to patience for its end; then the error is ErrAlive.
// meant is asked, once the process can be no other, whether it is the one to be killed. It
// is no error if there is no such process.
//
// Source: pidfd_open(2), pidfd_send_signal(2).
func Kill(pid int, meant func() bool, patience time.Duration) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, os.NewSyscallError("pidfd_open", err))
	}
	defer unix.Close(fd)
	if !meant() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill process %d: %w", pid, os.NewSyscallError("pidfd_send_signal", err))
	}
	if err := Wait(fd, patience); err != nil {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}

// Wait waits up to patience until the process of a pidfd has ended. The error is ErrAlive
// if it has not.
func Wait(fd int, patience time.Duration) error {
	end := time.Now().Add(patience)
	for {
		left := time.Until(end)
		if left <= 0 {
			return ErrAlive
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left/time.Millisecond)+1)
		if n > 0 {
			return nil
		}
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
}
