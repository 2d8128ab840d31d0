package ladder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"strata/ocirun/internal/child"
)

// Ladder is the parent's end. Close it.
type Ladder struct {
	// Child is the child's end, to be closed by the parent once the child has it.
	Child *os.File
	f     *os.File
}

// New makes a ladder whose child's end has a number of at least min.
func New(min int) (*Ladder, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	l := &Ladder{f: os.NewFile(uintptr(fds[0]), "ladder")}
	n, err := unix.FcntlInt(uintptr(fds[1]), unix.F_DUPFD_CLOEXEC, min)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), l.f.Close(), unix.Close(fds[1]))
	}
	l.Child = os.NewFile(uintptr(n), "ladder of the child")
	return l, unix.Close(fds[1])
}

// FD is the number of the parent's end.
func (l *Ladder) FD() int { return int(l.f.Fd()) }

// Close closes both ends.
func (l *Ladder) Close() error {
	err := l.f.Close()
	if l.Child != nil {
		err = errors.Join(err, l.CloseChild())
	}
	return err
}

// CloseChild closes the child's end.
func (l *Ladder) CloseChild() error {
	err := l.Child.Close()
	l.Child = nil
	return err
}

// Go lets the child go on.
func (l *Ladder) Go() error {
	_, err := unix.SendmsgN(l.FD(), []byte{1}, nil, nil, unix.MSG_NOSIGNAL)
	if err != nil {
		return fmt.Errorf("tell the child to go on: %w", err)
	}
	return nil
}

// Next waits for a message. It returns io.EOF when the child has closed its end.
func (l *Ladder) Next() (child.Message, error) {
	var buf [child.MessageSize]byte
	if _, err := io.ReadFull(l.f, buf[:]); err != nil {
		return child.Message{}, err
	}
	return Decode(buf[:])
}

// Decode decodes a message.
func Decode(b []byte) (child.Message, error) {
	if len(b) != child.MessageSize {
		return child.Message{}, fmt.Errorf("message of %d bytes from the child", len(b))
	}
	w := func(i int) uint32 { return binary.NativeEndian.Uint32(b[4*i:]) }
	m := child.Message{Kind: child.Kind(w(0)), Op: w(1), PC: w(2), Value: w(3)}
	if m.Kind < child.KindFailed || m.Kind > child.KindWarn {
		return m, fmt.Errorf("message of kind %d from the child", m.Kind)
	}
	return m, nil
}

// ReceiveFD takes a descriptor that the child sends.
func (l *Ladder) ReceiveFD() (*os.File, error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(l.FD(), buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("descriptor from the child: %d control messages: %w", len(msgs), errors.Join(err, unix.EBADMSG))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("descriptor from the child: %d descriptors: %w", len(fds), errors.Join(err, unix.EBADMSG))
	}
	return os.NewFile(uintptr(fds[0]), "from the child"), nil
}
