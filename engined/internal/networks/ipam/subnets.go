package ipam

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
)

// Source is a prefix that is cut into subnets of Size bits.
type Source struct {
	Base netip.Prefix
	Size int
}

// DefaultSources are docker's default address pools: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 and on.
// Source: moby, daemon/libnetwork/ipamutils.
func DefaultSources() []Source {
	return []Source{
		{netip.MustParsePrefix("172.17.0.0/16"), 16},
		{netip.MustParsePrefix("172.18.0.0/15"), 16},
		{netip.MustParsePrefix("172.20.0.0/14"), 16},
		{netip.MustParsePrefix("172.24.0.0/14"), 16},
		{netip.MustParsePrefix("172.28.0.0/14"), 16},
		{netip.MustParsePrefix("192.168.0.0/16"), 20},
	}
}

// ValidSource reports what is wrong with a source, as class ErrInvalidArgument.
func ValidSource(s Source) error {
	if !s.Base.IsValid() || s.Size < s.Base.Bits() || s.Size > s.Base.Addr().BitLen() {
		return fmt.Errorf("invalid address pool: base %s, size %d: %w", s.Base, s.Size, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Choose returns the first subnet of the sources, of the wanted family, that overlaps none
// of taken. Without one the error is of class ErrResourceExhausted.
func Choose(sources []Source, taken []netip.Prefix, ipv6 bool) (netip.Prefix, error) {
	for _, s := range sources {
		if s.Base.Addr().Is6() != ipv6 {
			continue
		}
		if p, ok := chooseFrom(s, taken); ok {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("all predefined address pools have been fully subnetted: %w", errdefs.ErrResourceExhausted)
}

func chooseFrom(s Source, taken []netip.Prefix) (netip.Prefix, bool) {
	at := s.Base.Masked().Addr()
	for at.IsValid() && s.Base.Contains(at) {
		p := netip.PrefixFrom(at, s.Size)
		end := lastOf(p)
		free := true
		for _, t := range taken {
			if t.Overlaps(p) {
				free = false
				// The next candidate starts after whichever reaches further.
				if e := lastOf(t); end.Less(e) {
					end = e
				}
			}
		}
		if free {
			return p, true
		}
		at = align(end, s.Size)
	}
	return netip.Prefix{}, false
}

// align returns the first address after end at which a subnet of size bits can start.
func align(end netip.Addr, size int) netip.Addr {
	next := end.Next()
	if !next.IsValid() {
		return next
	}
	p := netip.PrefixFrom(next, size)
	if p.Masked().Addr() == next {
		return next
	}
	return lastOf(p).Next()
}

// Overlapping returns the first of taken that p overlaps.
func Overlapping(p netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) {
	for _, t := range taken {
		if t.Overlaps(p) {
			return t, true
		}
	}
	return netip.Prefix{}, false
}
