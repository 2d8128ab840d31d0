package nft

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Change is a notification.
type Change struct {
	// Kind is NFT_MSG_DELTABLE and the like.
	Kind int
	// Table is the table's name.
	Table string
	// By is the netlink address of the socket that made the change.
	By uint32
	// Lost is true if notifications were lost: anything may have changed.
	Lost bool
}

// Deletes reports whether the change took something away.
func (c Change) Deletes() bool {
	switch c.Kind {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
		return true
	}
	return false
}

// Watcher receives the changes of one netns. Close ends a Next that waits.
type Watcher struct {
	f   *os.File
	buf []byte
}

// receiveBuffer holds the notifications of a large flush, in bytes.
const receiveBuffer = 4 << 20

// Watch begins to receive the changes of the netns of the calling thread.
func Watch() (*Watcher, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) // lost ones are noticed
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return &Watcher{f: os.NewFile(uintptr(fd), "nftables"), buf: make([]byte, 64<<10)}, nil
}

// Close ends the watch.
func (w *Watcher) Close() error { return w.f.Close() }

// Next waits for changes and returns those of one datagram. The error is os.ErrClosed
// after Close.
func (w *Watcher) Next() ([]Change, error) {
	n, err := w.f.Read(w.buf)
	if errors.Is(err, unix.ENOBUFS) {
		return []Change{{Lost: true}}, nil
	}
	if err != nil {
		return nil, err
	}
	return parse(w.buf[:n]), nil
}

// parse reads nfnetlink messages. The table's name is attribute 1 of all of nftables'.
func parse(b []byte) []Change {
	var out []Change
	for len(b) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.NLMSG_HDRLEN || length > len(b) {
			break
		}
		kind := binary.NativeEndian.Uint16(b[4:])
		if kind>>8 == unix.NFNL_SUBSYS_NFTABLES && kind&0xff != unix.NFT_MSG_NEWGEN {
			c := Change{Kind: int(kind & 0xff), By: binary.NativeEndian.Uint32(b[12:])}
			attrs := b[min(length, unix.NLMSG_HDRLEN+4):length]
			if len(attrs) >= 5 && binary.NativeEndian.Uint16(attrs[2:])&^uint16(unix.NLA_F_NESTED) == 1 {
				if end := int(binary.NativeEndian.Uint16(attrs)); end >= 5 && end <= len(attrs) {
					c.Table = string(attrs[4 : end-1])
				}
			}
			out = append(out, c)
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	return out
}

// PortID returns the netlink address of a socket: what Change.By says of its changes.
func PortID(c syscall.RawConn) (uint32, error) {
	var id uint32
	var serr error
	err := c.Control(func(fd uintptr) {
		sa, err := unix.Getsockname(int(fd))
		if err != nil {
			serr = os.NewSyscallError("getsockname", err)
			return
		}
		if nl, ok := sa.(*unix.SockaddrNetlink); ok {
			id = nl.Pid
		}
	})
	return id, errors.Join(err, serr)
}
