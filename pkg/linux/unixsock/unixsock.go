// Package unixsock is what net lacks for unix sockets: credentials and descriptors.
package unixsock

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// PeerUID returns the effective user id that the peer had when it connected.
//
// Source: unix(7), SO_PEERCRED.
func PeerUID(conn *net.UnixConn) (uint32, error) {
	rc, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var inner error
	if err := rc.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, fmt.Errorf("peer credentials: %w", err)
	}
	if inner != nil {
		return 0, fmt.Errorf("peer credentials: %w", os.NewSyscallError("getsockopt", inner))
	}
	return cred.Uid, nil
}

// RecvFile receives one descriptor. It is close-on-exec and set to non-blocking mode.
//
// Source: unix(7), SCM_RIGHTS.
func RecvFile(conn *net.UnixConn, name string) (*os.File, error) {
	var data [4096]byte
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(data[:], oob)
	if err != nil {
		return nil, fmt.Errorf("receive descriptor: %w", err)
	}
	if n == 0 && oobn == 0 {
		return nil, fmt.Errorf("receive descriptor: %w", io.ErrUnexpectedEOF)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, fmt.Errorf("receive descriptor: %w", os.NewSyscallError("recvmsg", err))
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err == nil {
			fds = append(fds, got...)
		}
	}
	if len(fds) != 1 {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return nil, fmt.Errorf("receive descriptor: got %d, want 1", len(fds))
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), os.NewSyscallError("close", unix.Close(fds[0])))
	}
	return os.NewFile(uintptr(fds[0]), name), nil
}

// SendFile sends one descriptor with one byte of data.
func SendFile(conn *net.UnixConn, f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("send descriptor: %w", err)
	}
	var inner error
	if err := rc.Control(func(fd uintptr) {
		_, _, inner = conn.WriteMsgUnix([]byte{0}, unix.UnixRights(int(fd)), nil)
	}); err != nil {
		return fmt.Errorf("send descriptor: %w", err)
	}
	if inner != nil {
		return fmt.Errorf("send descriptor: %w", inner)
	}
	return nil
}
