// Package fdpass sends and receives descriptors over unix sockets without package net,
// which a short-lived process should not have to initialise.
package fdpass

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Connect connects to the stream socket at path. A path that is too long for a socket
// address is reached through its directory.
//
// Source: unix(7).
func Connect(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	name := path
	if len(path) > 107 {
		file, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, errors.Join(&os.PathError{Op: "open", Path: path, Err: err}, f.Close())
		}
		defer unix.Close(file)
		name = "/proc/self/fd/" + strconv.Itoa(file)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		return nil, errors.Join(&os.PathError{Op: "connect", Path: path, Err: err}, f.Close())
	}
	return f, nil
}

// Pair returns two connected stream sockets.
func Pair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// Send sends data and a descriptor in one message.
//
// Source: unix(7), SCM_RIGHTS.
func Send(sock *os.File, data []byte, f *os.File) error {
	err := unix.Sendmsg(int(sock.Fd()), data, unix.UnixRights(int(f.Fd())), nil, unix.MSG_NOSIGNAL)
	return os.NewSyscallError("sendmsg", err)
}

// Receive takes a message of at most len(buf) bytes with one descriptor, close-on-exec.
func Receive(sock *os.File, buf []byte) (n int, f *os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, on, _, _, err := unix.Recvmsg(int(sock.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, nil, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:on])
	if err != nil || len(msgs) != 1 {
		return n, nil, fmt.Errorf("message with %d descriptors: %w", len(msgs), errors.Join(err, unix.EBADMSG))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return n, nil, fmt.Errorf("message with %d descriptors: %w", len(fds), errors.Join(err, unix.EBADMSG))
	}
	return n, os.NewFile(uintptr(fds[0]), "received"), nil
}
