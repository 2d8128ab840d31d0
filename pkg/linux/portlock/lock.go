package portlock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ErrInUse says that another socket has the port.
var ErrInUse = errors.New("address already in use")

// Lock takes proto ("tcp", "udp" or "sctp") port addr on the host. An IPv6 address takes
// IPv6 only. The error is ErrInUse if some socket has it, and of class ErrNotImplemented
// if the kernel lacks the protocol or the address family.
func Lock(proto string, addr netip.AddrPort) (io.Closer, error) {
	if proto == "sctp" {
		return lockSCTP(addr)
	}
	lc := net.ListenConfig{Control: deaf}
	lc.SetMultipathTCP(false) // Go's default listener is MPTCP: no use here, and an odd line in ss(8)
	var c io.Closer
	var err error
	if proto == "udp" {
		c, err = lc.ListenPacket(context.Background(), proto+version(addr), addr.String())
	} else {
		c, err = lc.Listen(context.Background(), proto+version(addr), addr.String())
	}
	return c, classify(err, proto, addr)
}

// Listen takes a TCP port like Lock, but to answer: the caller accepts connections.
func Listen(addr netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp"+version(addr), addr.String())
	return l, classify(err, "tcp", addr)
}

func version(addr netip.AddrPort) string {
	if addr.Addr().Is4() {
		return "4"
	}
	return "6" // the net package sets IPV6_V6ONLY for tcp6 and udp6
}

// deaf makes a socket drop everything that arrives.
func deaf(_, _ string, c syscall.RawConn) error {
	var err error
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	}); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt", err)
}

func classify(err error, proto string, addr netip.AddrPort) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("lock %s port %s: %w", proto, addr, ErrInUse)
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.ESOCKTNOSUPPORT):
		return fmt.Errorf("lock %s port %s: %w: %w", proto, addr, err, errdefs.ErrNotImplemented)
	}
	return fmt.Errorf("lock %s port %s: %w", proto, addr, err)
}

// lockSCTP does by hand what the net package does not know.
func lockSCTP(addr netip.AddrPort) (io.Closer, error) {
	fam, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(addr.Port()), Addr: to4(addr.Addr())})
	if !addr.Addr().Is4() {
		fam, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	}
	fd, err := unix.Socket(fam, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return nil, classify(os.NewSyscallError("socket", err), "sctp", addr)
	}
	f := os.NewFile(uintptr(fd), "sctp:"+addr.String())
	if fam == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		return nil, errors.Join(classify(os.NewSyscallError("bind", err), "sctp", addr), f.Close())
	}
	return f, nil
}

func to4(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}
