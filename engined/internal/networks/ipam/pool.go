package ipam

import (
	"fmt"
	"math/big"
	"net/netip"
	"sync"

	"github.com/containerd/errdefs"
)

// Pool hands out addresses of one subnet. It is safe for concurrent use.
//
// Addresses are handed out next-fit: one that was released comes around last, so that
// neighbours' ARP caches, connection tracking and interfaces that the kernel has not yet
// deleted do not meet its next owner.
type Pool struct {
	subnet netip.Prefix
	first  netip.Addr // of the range
	last   netip.Addr
	size   *big.Int // addresses in the range

	mu     sync.Mutex
	taken  map[netip.Addr]bool
	inside int64 // how many of taken are in the range
	next   netip.Addr
}

// NewPool returns a pool of the addresses in within (zero: all of subnet), without the
// subnet's network and broadcast addresses. The error is of class ErrInvalidArgument.
func NewPool(subnet, within netip.Prefix) (*Pool, error) {
	if !within.IsValid() {
		within = subnet
	}
	if subnet != subnet.Masked() {
		return nil, fmt.Errorf("invalid subnet %s: it should be %s: %w", subnet, subnet.Masked(), errdefs.ErrInvalidArgument)
	}
	if !subnet.Contains(within.Addr()) || within.Bits() < subnet.Bits() {
		return nil, fmt.Errorf("invalid ip-range %s: it is not inside subnet %s: %w", within, subnet, errdefs.ErrInvalidArgument)
	}
	p := &Pool{subnet: subnet, first: within.Masked().Addr(), last: lastOf(within), taken: map[netip.Addr]bool{}}
	usable := hasReserved(subnet)
	if usable && p.first == subnet.Addr() {
		p.first = p.first.Next()
	}
	if usable && subnet.Addr().Is4() && p.last == lastOf(subnet) {
		p.last = p.last.Prev()
	}
	p.size = new(big.Int).Add(new(big.Int).Sub(number(p.last), number(p.first)), big.NewInt(1))
	p.next = p.first
	return p, nil
}

// hasReserved reports whether the first address of subnet (and the last, with IPv4) is no
// host's: RFC 3021 and RFC 6164 use both addresses of a point-to-point link.
func hasReserved(subnet netip.Prefix) bool { return subnet.Addr().BitLen()-subnet.Bits() > 1 }

// Subnet returns the subnet of the pool.
func (p *Pool) Subnet() netip.Prefix { return p.subnet }

// Next takes a free address of the range. Without one the error is of class
// ErrResourceExhausted.
func (p *Pool) Next() (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if big.NewInt(p.inside).Cmp(p.size) >= 0 {
		return netip.Addr{}, fmt.Errorf("no available addresses in %s: %w", p.subnet, errdefs.ErrResourceExhausted)
	}
	a := p.next
	for p.taken[a] {
		a = p.after(a)
	}
	p.takeLocked(a)
	p.next = p.after(a)
	return a, nil
}

// Take takes the address a, which may lie outside the range but not outside the subnet. The
// error is of class ErrInvalidArgument, or ErrAlreadyExists in dockerd's words.
func (p *Pool) Take(a netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	reserved := hasReserved(p.subnet) && (a == p.subnet.Addr() || a.Is4() && a == lastOf(p.subnet))
	switch {
	case !p.subnet.Contains(a):
		return fmt.Errorf("address %s is not in subnet %s: %w", a, p.subnet, errdefs.ErrInvalidArgument)
	case reserved:
		return fmt.Errorf("address %s is the network or broadcast address of %s: %w", a, p.subnet, errdefs.ErrInvalidArgument)
	case p.taken[a]:
		return fmt.Errorf("Address already in use: %s: %w", a, errdefs.ErrAlreadyExists) //nolint:staticcheck // dockerd's words
	}
	p.takeLocked(a)
	return nil
}

// Release gives an address back. It is no error if it is free.
func (p *Pool) Release(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.taken[a] {
		return
	}
	delete(p.taken, a)
	if p.inRange(a) {
		p.inside--
	}
}

// Used returns how many addresses are taken.
func (p *Pool) Used() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.taken)
}

// Preconditions: mu is held.
func (p *Pool) takeLocked(a netip.Addr) {
	p.taken[a] = true
	if p.inRange(a) {
		p.inside++
	}
}

func (p *Pool) inRange(a netip.Addr) bool { return !a.Less(p.first) && !p.last.Less(a) }

func (p *Pool) after(a netip.Addr) netip.Addr {
	if a == p.last {
		return p.first
	}
	return a.Next()
}

func number(a netip.Addr) *big.Int { return new(big.Int).SetBytes(a.AsSlice()) }

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
