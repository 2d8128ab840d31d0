// Package reap wraps what a process needs that is the parent of strangers: the
// subreaper flag and wait4.
package reap

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// SetSubreaper makes the calling process the new parent of orphans among its
// descendants. Children do not inherit it.
//
// Source: PR_SET_CHILD_SUBREAPER(2const).
func SetSubreaper() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// Exit is the end of one child.
type Exit struct {
	PID int
	// Code is the process's own exit code, or 128 plus the signal that killed it.
	Code int
}

// Next reaps one child that has ended and does not block. It returns false if there is
// none at the moment.
//
// Source: wait4(2).
func Next() (Exit, bool) {
	var status unix.WaitStatus
	for {
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || pid <= 0:
			return Exit{}, false
		case status.Signaled():
			return Exit{PID: pid, Code: 128 + int(status.Signal())}, true
		case status.Exited():
			return Exit{PID: pid, Code: status.ExitStatus()}, true
		}
	}
}
