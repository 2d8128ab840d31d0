// Command strata-init is process 1 of a container made with --init: it starts the
// container's program, passes signals on to it, reaps what is orphaned, and ends with the
// program's exit code.
//
//	strata-init -- PROGRAM [ARG…]
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "strata-init:", err)
	}
	os.Exit(code)
}

// Exit codes of a program that cannot be started, as shells have them.
const (
	notExecutable = 126
	notFound      = 127
)

func run(args []string) (int, error) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return 1, errors.New("usage: strata-init -- PROGRAM [ARG…]")
	}
	// Before the fork: no signal and no SIGCHLD may be missed.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	path, err := exec.LookPath(args[0])
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return notFound, err
		}
		return notExecutable, err
	}
	child, err := start(path, args)
	if err != nil {
		return notExecutable, fmt.Errorf("start %q: %w", path, err)
	}
	for s := range signals {
		switch s {
		case syscall.SIGCHLD:
			if code, ended := reap(child); ended {
				return code, nil
			}
		case syscall.SIGURG: // the Go runtime's own
		default:
			_ = syscall.Kill(-child, s.(syscall.Signal)) // it may have just ended
		}
	}
	return 1, errors.New("signal channel closed")
}

// start runs the program in a process group of its own, in the foreground of the terminal
// if there is one.
func start(path string, args []string) (int, error) {
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true}}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		attr.Sys.Foreground = true
	}
	return syscall.ForkExec(path, args, attr)
}

// reap waits for all that has ended and reports whether child was among it.
func reap(child int) (code int, ended bool) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return code, ended
		}
		if pid == child {
			code, ended = ws.ExitStatus(), true
			if ws.Signaled() {
				code = 128 + int(ws.Signal())
			}
		}
	}
}
