package ports

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"strata/pkg/linux/portlock"
)

// Wish asks for one host port.
type Wish struct {
	Owner  string // id of the container
	Name   string // its name, for messages to others
	Proto  string // tcp, udp, sctp
	HostIP netip.Addr
	// First to Last is the range to choose from; First 0 is the ephemeral range.
	First, Last uint16
	// To is where connections go, by address family; an invalid one means that the
	// container has none there.
	To4, To6 netip.AddrPort
	// RelayAll says that nobody translates: all that can be relayed is.
	RelayAll bool
}

// Lease is a port in use.
type Lease struct {
	Proto  string
	HostIP netip.Addr // zero: all addresses
	Port   uint16
	// NAT4 and NAT6 say which families the firewall is to translate.
	NAT4, NAT6 bool
	// Warning is a promise that could not be kept: the port works, but is not held.
	Warning string

	owner   string
	name    string
	sockets []io.Closer
}

// Ledger knows all published ports of the engine. It is safe for concurrent use.
type Ledger struct {
	low, high uint16
	loopback6 bool

	mu     sync.Mutex
	leases map[key][]*Lease
	next   uint16

	relays sync.WaitGroup
}

type key struct {
	proto string
	port  uint16
}

// Loopback6 says who serves TCP and UDP ports on ::1.
type Loopback6 bool

// The kernel translates ::1 too, unless br_netfilter undoes the translation of answers where
// the kernel then refuses them.
const (
	ByKernel Loopback6 = false
	ByRelay  Loopback6 = true
)

// New returns an empty ledger that takes random ports from the host's ephemeral range.
func New(loopback6 Loopback6) *Ledger {
	l := &Ledger{loopback6: bool(loopback6), low: 32768, high: 60999, leases: map[key][]*Lease{}}
	// Source: ip-sysctl.rst, ip_local_port_range.
	if data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if f := strings.Fields(string(data)); len(f) == 2 {
			low, err1 := strconv.ParseUint(f[0], 10, 16)
			high, err2 := strconv.ParseUint(f[1], 10, 16)
			if err1 == nil && err2 == nil && low > 0 && low <= high {
				l.low, l.high = uint16(low), uint16(high)
			}
		}
	}
	l.next = l.low
	return l
}

// ConflictError says why a port cannot be had, in dockerd's words and ours.
type ConflictError struct {
	HostIP netip.Addr
	Port   uint16
	By     string // "container web", "nginx (pid 12)" or ""
	// Ours is true if another container has it, false for another process.
	Ours bool
}

func (e *ConflictError) Error() string {
	ip := e.HostIP
	if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
	}
	why := "address already in use"
	if e.Ours {
		why = "port is already allocated"
	}
	if e.By != "" {
		why += " by " + e.By
	}
	return fmt.Sprintf("Bind for %s failed: %s", netip.AddrPortFrom(ip, e.Port), why)
}

// Reserve takes a port. The error is a *ConflictError, or of class ErrResourceExhausted
// if all ports of a range are taken.
func (l *Ledger) Reserve(w Wish) (*Lease, error) {
	if w.First != 0 && w.Last <= w.First {
		return l.tryPort(w, w.First)
	}
	l.mu.Lock()
	low, high, at := w.First, w.Last, w.First
	if w.First == 0 {
		low, high, at = l.low, l.high, l.next
	}
	l.mu.Unlock()
	for range int(high) - int(low) + 1 {
		lease, err := l.tryPort(w, at)
		if at++; at > high || at < low {
			at = low
		}
		var conflict *ConflictError
		if errors.As(err, &conflict) {
			continue
		}
		if err == nil && w.First == 0 {
			l.mu.Lock()
			l.next = at
			l.mu.Unlock()
		}
		return lease, err
	}
	if w.First != 0 {
		return nil, fmt.Errorf("Bind for %s-%d failed: all ports are allocated: %w", netip.AddrPortFrom(shown(w.HostIP), low), high, errdefs.ErrResourceExhausted) //nolint:staticcheck // dockerd's words
	}
	return nil, fmt.Errorf("all ports of the ephemeral range %d-%d are allocated: %w", low, high, errdefs.ErrResourceExhausted)
}

// Restore takes the port of a container that runs already, whatever stands in the way: a
// port that is lost to another process still leads to the container, and the lease says so.
func (l *Ledger) Restore(w Wish) *Lease {
	lease, err := l.tryPort(w, w.First)
	if err == nil {
		return lease
	}
	lease = newLease(w, w.First)
	lease.Warning = err.Error()
	l.mu.Lock()
	defer l.mu.Unlock()
	k := key{w.Proto, w.First}
	l.leases[k] = append(l.leases[k], lease)
	return lease
}

func newLease(w Wish, port uint16) *Lease {
	return &Lease{
		Proto: w.Proto, HostIP: w.HostIP, Port: port, owner: w.Owner, name: w.Name,
		NAT4: wants4(w.HostIP) && w.To4.IsValid(), NAT6: wants6(w.HostIP) && w.To6.IsValid(),
	}
}

// tryPort reserves one certain port.
func (l *Ledger) tryPort(w Wish, port uint16) (*Lease, error) {
	lease := newLease(w, port)
	k := key{w.Proto, port}
	l.mu.Lock()
	for _, other := range l.leases[k] {
		if overlap(other.HostIP, w.HostIP) {
			l.mu.Unlock()
			by := ""
			if other.owner != w.Owner && other.name != "" {
				by = "container " + other.name
			}
			return nil, &ConflictError{HostIP: w.HostIP, Port: port, By: by, Ours: true}
		}
	}
	l.leases[k] = append(l.leases[k], lease)
	l.mu.Unlock()
	if err := l.hold(lease, w); err != nil {
		l.Release(lease)
		return nil, err
	}
	return lease, nil
}

// hold binds the sockets of a lease.
func (l *Ledger) hold(lease *Lease, w Wish) error {
	type family struct {
		wanted   bool
		any      netip.Addr
		own, far netip.AddrPort
	}
	for _, f := range []family{
		{wants4(w.HostIP), netip.IPv4Unspecified(), w.To4, w.To6},
		{wants6(w.HostIP), netip.IPv6Unspecified(), w.To6, w.To4},
	} {
		if !f.wanted {
			continue
		}
		ip := w.HostIP
		if !ip.IsValid() || ip.IsUnspecified() {
			ip = f.any
		}
		at := netip.AddrPortFrom(ip, lease.Port)
		var err error
		switch {
		case f.own.IsValid() && Relayed(w.Proto) && (w.RelayAll || l.loopback6 && (ip == netip.IPv6Unspecified() || ip == netip.IPv6Loopback())):
			err = l.relay(lease, at, f.own) // what is translated never gets here
		case f.own.IsValid():
			err = lease.lock(at)
		case f.far.IsValid() && Relayed(w.Proto):
			err = l.relay(lease, at, f.far)
		default:
			continue // nothing of the container answers there
		}
		switch {
		case err == nil, errdefs.IsNotImplemented(err):
		case errors.Is(err, portlock.ErrInUse):
			return &ConflictError{HostIP: ip, Port: lease.Port, By: portlock.Owner(w.Proto, lease.Port)}
		default:
			return err
		}
	}
	return nil
}

// Relayed reports whether ports of a protocol can be relayed, where nobody translates.
func Relayed(proto string) bool { return proto == "tcp" || proto == "udp" }

// relay takes a port and passes on what arrives.
func (l *Ledger) relay(lease *Lease, at, to netip.AddrPort) error {
	if lease.Proto == "udp" {
		return l.relayPackets(lease, at, to)
	}
	return l.relayConnections(lease, at, to)
}

func (l *Lease) lock(at netip.AddrPort) error {
	s, err := portlock.Lock(l.Proto, at)
	if err == nil {
		l.sockets = append(l.sockets, s)
	}
	return err
}

// Release gives a port back.
func (l *Ledger) Release(lease *Lease) {
	for _, s := range lease.sockets {
		_ = s.Close() // a listening or unconnected socket has nothing to lose
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k := key{lease.Proto, lease.Port}
	rest := l.leases[k][:0:0]
	for _, other := range l.leases[k] {
		if other != lease {
			rest = append(rest, other)
		}
	}
	if len(rest) == 0 {
		delete(l.leases, k)
		return
	}
	l.leases[k] = rest
}

// Close lets go of all ports and waits for the relays to end.
func (l *Ledger) Close() {
	l.mu.Lock()
	var all []*Lease
	for _, ls := range l.leases {
		all = append(all, ls...)
	}
	l.mu.Unlock()
	for _, lease := range all {
		l.Release(lease)
	}
	l.relays.Wait()
}

func wants4(ip netip.Addr) bool { return !ip.IsValid() || ip.Is4() }
func wants6(ip netip.Addr) bool { return !ip.IsValid() || ip.Is6() }

func overlap(a, b netip.Addr) bool {
	all := func(x, y netip.Addr) bool {
		return !x.IsValid() || x.IsUnspecified() && (!y.IsValid() || x.Is4() == y.Is4())
	}
	return a == b || all(a, b) || all(b, a)
}

func shown(ip netip.Addr) netip.Addr {
	if !ip.IsValid() {
		return netip.IPv4Unspecified()
	}
	return ip
}
