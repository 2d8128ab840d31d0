package ports

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

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

// echoPackets answers each UDP packet with itself.
func echoPackets(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// exchange sends a packet and returns the answer; lost ones are sent again.
func exchange(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	buf := make([]byte, 65535)
	for range 5 {
		if _, err := io.WriteString(c, text); err != nil {
			continue // an ICMP error about an earlier one
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := c.Read(buf); err == nil {
			return string(buf[:n])
		}
	}
	return ""
}

// TestPacketsAreRelayedWithOneFlowForEachClient uses more clients than a port keeps flows, and
// clients that take answers only from the address that they asked.
func TestPacketsAreRelayedWithOneFlowForEachClient(t *testing.T) {
	echo := echoPackets(t)
	l := New(ByKernel)
	defer l.Close()
	lease, err := l.Reserve(Wish{Owner: "a", Proto: "udp", To4: echo, RelayAll: true})
	if err != nil {
		t.Fatal(err)
	}
	var clients []net.Conn
	for i := range maxFlows + 50 {
		host := []string{"127.0.0.1", "127.0.0.2", "::1"}[i%3]
		c, err := net.Dial("udp", net.JoinHostPort(host, strconv.Itoa(int(lease.Port))))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		clients = append(clients, c)
		if got := exchange(t, c, fmt.Sprint(i)); got != fmt.Sprint(i) {
			t.Fatalf("client %d, to %s: %q", i, host, got)
		}
	}
	if got := exchange(t, clients[0], "again"); got != "again" { // its flow went long ago
		t.Errorf("the first client, once more: %q", got)
	}
	long := strings.Repeat("x", 60000)
	if got := exchange(t, clients[1], long); got != long {
		t.Errorf("a packet of %d bytes came back with %d", len(long), len(got))
	}
	relays := 0
	for _, s := range lease.sockets {
		r := s.(*packetRelay)
		r.mu.Lock()
		if relays++; len(r.flows) > maxFlows || len(r.flows) != r.order.Len() {
			t.Errorf("%d flows, %d in order, want at most %d", len(r.flows), r.order.Len(), maxFlows)
		}
		r.mu.Unlock()
	}
	if relays != 2 {
		t.Errorf("%d relays, want one for each family", relays)
	}
	l.Release(lease)
	if got := exchange(t, clients[2], "late"); got != "" {
		t.Errorf("a released port answers %q", got)
	}
}

func TestPacketsToATargetThatRefusesEndTheFlow(t *testing.T) {
	gone, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	nobody := netip.MustParseAddrPort(gone.LocalAddr().String())
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	l := New(ByKernel)
	defer l.Close()
	for to, want := range map[netip.AddrPort]string{nobody: "", echoPackets(t): "?"} {
		lease, err := l.Reserve(Wish{Owner: "a", Proto: "udp", HostIP: loop, To4: to, RelayAll: true})
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("udp", netip.AddrPortFrom(loop, lease.Port).String())
		if err != nil {
			t.Fatal(err)
		}
		if got := exchange(t, c, "?"); got != want {
			t.Errorf("relay to %s: %q, want %q", to, got, want)
		}
		_ = c.Close()
	}
}
