// Package console is terminals as programs use them: a raw mode that is always put back,
// window sizes, and the socket over which an OCI runtime hands over the master of a
// container's pseudo-terminal.
package console

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"strata/pkg/linux/tty"
	"strata/pkg/linux/unixsock"
)

// Size is a window size in characters.
type Size = tty.Size

// IsTerminal reports whether f is a terminal.
func IsTerminal(f *os.File) bool { return tty.IsTerminal(f) }

// GetSize returns the window size of the terminal f.
func GetSize(f *os.File) (Size, error) { return tty.GetSize(f) }

// Resize sets the window size of the terminal f.
func Resize(f syscall.Conn, s Size) error { return tty.SetSize(f, s) }

// MakeRaw puts the terminal f into raw mode and returns the function that undoes it.
func MakeRaw(f *os.File) (restore func() error, err error) {
	old, err := tty.GetState(f)
	if err != nil {
		return nil, err
	}
	if err := tty.SetState(f, old.Raw()); err != nil {
		return nil, err
	}
	return func() error { return tty.SetState(f, old) }, nil
}

// Socket is where an OCI runtime sends the master of a pseudo-terminal (its option
// --console-socket). Close it.
type Socket struct {
	l   *net.UnixListener
	dir string
}

// NewSocket listens in a new directory, mode 0700, below dir, which should be short: the
// whole path must fit into 107 bytes (unix(7)).
func NewSocket(dir string) (*Socket, error) {
	tmp, err := os.MkdirTemp(dir, "pty")
	if err != nil {
		return nil, fmt.Errorf("make console socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(tmp, "s"), Net: "unix"})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on console socket: %w", err), os.RemoveAll(tmp))
	}
	return &Socket{l: l, dir: tmp}, nil
}

// Path returns the value of --console-socket.
func (s *Socket) Path() string { return s.l.Addr().String() }

// Receive returns the master that a runtime has sent, in non-blocking mode. A runtime
// sends it before it exits, so the timeout only bounds one that does not at all.
func (s *Socket) Receive(timeout time.Duration) (*os.File, error) {
	deadline := time.Now().Add(timeout)
	if err := s.l.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("receive console: %w", err)
	}
	conn, err := s.l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("receive console: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("receive console: %w", err)
	}
	f, err := unixsock.RecvFile(conn, "console")
	if err != nil {
		return nil, fmt.Errorf("receive console: %w", err)
	}
	return f, nil
}

// Close removes the socket and its directory.
func (s *Socket) Close() error {
	return errors.Join(s.l.Close(), os.RemoveAll(s.dir))
}
