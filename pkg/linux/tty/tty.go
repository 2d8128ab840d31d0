// Package tty is the terminal part of ioctl(2).
package tty

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Size is a window size in characters.
type Size struct{ Width, Height uint16 }

// control runs fn with the descriptor of f and keeps f open meanwhile. It does not
// change the blocking mode of f, as (*os.File).Fd may.
func control(f syscall.Conn, fn func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// SetSize sets the window size; the foreground process group gets SIGWINCH.
//
// Source: TIOCSWINSZ(2const).
func SetSize(f syscall.Conn, s Size) error {
	err := control(f, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
	})
	if err != nil {
		return fmt.Errorf("set window size to %dx%d: %w", s.Width, s.Height, os.NewSyscallError("ioctl", err))
	}
	return nil
}

// GetSize returns the window size.
//
// Source: TIOCGWINSZ(2const).
func GetSize(f syscall.Conn) (Size, error) {
	var s Size
	err := control(f, func(fd int) error {
		ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		if err == nil {
			s = Size{Width: ws.Col, Height: ws.Row}
		}
		return err
	})
	if err != nil {
		return Size{}, fmt.Errorf("get window size: %w", os.NewSyscallError("ioctl", err))
	}
	return s, nil
}

// State is a terminal's settings.
type State struct{ termios unix.Termios }

// IsTerminal reports whether f is a terminal.
func IsTerminal(f syscall.Conn) bool {
	_, err := GetState(f)
	return err == nil
}

// GetState returns the settings of the terminal f.
//
// Source: TCGETS(2const).
func GetState(f syscall.Conn) (State, error) {
	var s State
	err := control(f, func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			s.termios = *t
		}
		return err
	})
	if err != nil {
		return State{}, fmt.Errorf("get terminal settings: %w", os.NewSyscallError("ioctl", err))
	}
	return s, nil
}

// SetState puts settings back.
//
// Source: TCSETS(2const).
func SetState(f syscall.Conn, s State) error {
	err := control(f, func(fd int) error { return unix.IoctlSetTermios(fd, unix.TCSETS, &s.termios) })
	if err != nil {
		return fmt.Errorf("set terminal settings: %w", os.NewSyscallError("ioctl", err))
	}
	return nil
}

// Raw returns s changed as cfmakeraw(3) does: no echo, no line editing, no signals from
// keys, bytes as they are.
func (s State) Raw() State {
	t := &s.termios
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag &^= unix.CSIZE | unix.PARENB
	t.Cflag |= unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return s
}

// OpenPair opens a new pseudo-terminal: its master, in non-blocking mode, and its slave.
//
// Source: pts(4), TIOCGPTPEER(2const), Linux 4.13.
func OpenPair() (master, slave *os.File, err error) {
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		_ = unix.Close(m)
		return nil, nil, fmt.Errorf("unlock pseudo-terminal: %w", os.NewSyscallError("ioctl", err))
	}
	s, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		_ = unix.Close(m)
		return nil, nil, fmt.Errorf("open the peer of a pseudo-terminal: %w", os.NewSyscallError("ioctl", errno))
	}
	return os.NewFile(uintptr(m), "ptmx"), os.NewFile(s, "pts"), nil
}
