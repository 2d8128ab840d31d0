package ports

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

var (
	loop = netip.MustParseAddr("127.0.0.1")
	to4  = netip.MustParseAddrPort("127.0.0.1:9")
)

func TestPortIsGivenOnce(t *testing.T) {
	l := New(ByKernel)
	defer l.Close()
	a, err := l.Reserve(Wish{Owner: "a", Name: "web", Proto: "tcp", HostIP: loop, To4: to4})
	if err != nil || a.Port == 0 || !a.NAT4 || a.NAT6 {
		t.Fatalf("Reserve = %+v, %v", a, err)
	}
	_, err = l.Reserve(Wish{Owner: "b", Proto: "tcp", First: a.Port, To4: to4})
	var conflict *ConflictError
	if !errors.As(err, &conflict) || !strings.HasSuffix(err.Error(), "failed: port is already allocated by container web") {
		t.Errorf("Reserve of all addresses = %v, want a conflict that names the container", err)
	}
	other, err := l.Reserve(Wish{Owner: "b", Proto: "tcp", HostIP: netip.MustParseAddr("127.0.0.2"), First: a.Port, To4: to4})
	if err != nil {
		t.Errorf("Reserve on another address = %v", err)
	} else {
		l.Release(other)
	}
	if u, err := l.Reserve(Wish{Owner: "b", Proto: "udp", HostIP: loop, First: a.Port, To4: to4}); err != nil {
		t.Errorf("Reserve of udp = %v, %v", u, err)
	}
	l.Release(a)
	if _, err := l.Reserve(Wish{Owner: "b", Proto: "tcp", HostIP: loop, First: a.Port, To4: to4}); err != nil {
		t.Errorf("Reserve after Release = %v", err)
	}
}

func TestPortOfAnotherProcessIsRefusedAndNamed(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	port := netip.MustParseAddrPort(ln.Addr().String()).Port()
	l := New(ByKernel)
	defer l.Close()
	_, err = l.Reserve(Wish{Owner: "a", Proto: "tcp", HostIP: loop, First: port, To4: to4})
	if err == nil || !strings.Contains(err.Error(), "address already in use by this engine") {
		t.Errorf("Reserve = %v", err)
	}
	restored := l.Restore(Wish{Owner: "a", Proto: "tcp", HostIP: loop, First: port, To4: to4})
	if restored.Port != port || restored.Warning == "" || !restored.NAT4 {
		t.Errorf("Restore = %+v, want the port with a warning", restored)
	}
}

func TestRangeGivesEachPortAndThenSaysSo(t *testing.T) {
	l := New(ByKernel)
	defer l.Close()
	first, err := l.Reserve(Wish{Owner: "a", Proto: "udp", HostIP: loop, To4: to4})
	if err != nil {
		t.Fatal(err)
	}
	w := Wish{Owner: "a", Proto: "udp", HostIP: loop, First: first.Port, Last: first.Port + 2, To4: to4}
	for i := range 2 {
		if _, err := l.Reserve(w); err != nil {
			t.Errorf("Reserve %d of the range = %v", i, err)
		}
	}
	if _, err := l.Reserve(w); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("Reserve of a full range = %v, want class ErrResourceExhausted", err)
	}
}

func TestIPv6ClientsReachAnIPv4OnlyTarget(t *testing.T) {
	echo, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = echo.Close() }()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	l := New(ByKernel)
	defer l.Close()
	lease, err := l.Reserve(Wish{Owner: "a", Proto: "tcp", HostIP: netip.IPv6Loopback(), To4: netip.MustParseAddrPort(echo.Addr().String())})
	if err != nil {
		t.Fatal(err)
	}
	if lease.NAT4 || lease.NAT6 {
		t.Errorf("lease = %+v, want nothing for the firewall to do", lease)
	}
	c, err := net.Dial("tcp6", netip.AddrPortFrom(netip.IPv6Loopback(), lease.Port).String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Errorf("echo = %q, %v", got, err)
	}
}
