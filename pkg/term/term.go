package term

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	xterm "golang.org/x/term"
)

// IsTerminal says whether f is a terminal.
func IsTerminal(f *os.File) bool { return xterm.IsTerminal(int(f.Fd())) }

// Size returns the rows and columns of the terminal f; zeros if it is none.
func Size(f *os.File) (height, width uint) {
	w, h, err := xterm.GetSize(int(f.Fd()))
	if err != nil || w < 0 || h < 0 {
		return 0, 0
	}
	return uint(h), uint(w)
}

// MakeRaw passes every key through as it is. The returned function restores the former mode;
// it may be called more than once.
func MakeRaw(f *os.File) (restore func() error, err error) {
	state, err := xterm.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, os.NewSyscallError("tcsetattr", err)
	}
	return sync.OnceValue(func() error {
		return os.NewSyscallError("tcsetattr", xterm.Restore(int(f.Fd()), state))
	}), nil
}

// ReadPassword reads a line from f without echo.
func ReadPassword(f *os.File) (string, error) {
	b, err := xterm.ReadPassword(int(f.Fd()))
	return string(b), err
}

// OnResize calls f after every change of the size of the controlling terminal (SIGWINCH), until
// ctx is done. It returns when f can no longer be called.
func OnResize(ctx context.Context, f func()) {
	ch := make(chan os.Signal, 1) // one pending change is enough: f reads the newest size
	signal.Notify(ch, syscall.SIGWINCH)
	defer signal.Stop(ch)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ch:
			f()
		}
	}
}
