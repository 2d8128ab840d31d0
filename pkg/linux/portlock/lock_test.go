package portlock

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

func TestLockedPortIsRefusedToOthersAndAcceptsNobody(t *testing.T) {
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(t))
	l, err := Lock("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if other, err := net.Listen("tcp4", addr.String()); err == nil {
		_ = other.Close()
		t.Error("another socket could bind the locked port")
	}
	if _, err := Lock("tcp", addr); !errors.Is(err, ErrInUse) {
		t.Errorf("second Lock = %v, want ErrInUse", err)
	}
	if c, err := net.DialTimeout("tcp4", addr.String(), 50*time.Millisecond); err == nil {
		_ = c.Close()
		t.Error("a connection to the lock was accepted")
	}
	if who := Owner("tcp", addr.Port()); who != "this engine" {
		t.Errorf("Owner = %q, want this process", who)
	}
}

func TestIPv4AndIPv6AreLockedApart(t *testing.T) {
	port := freePort(t)
	for _, proto := range []string{"tcp", "udp"} {
		for _, ip := range []string{"0.0.0.0", "::"} {
			l, err := Lock(proto, netip.AddrPortFrom(netip.MustParseAddr(ip), port))
			if err != nil {
				t.Errorf("Lock %s on %s = %v", proto, ip, err)
				continue
			}
			defer func() { _ = l.Close() }()
		}
	}
}
