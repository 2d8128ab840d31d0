package networks

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"strata/engined/internal/networks/ipam"
)

// pools hand out the addresses of a network.
type pools []*ipam.Pool

func newPools(defs []Pool) (pools, error) {
	var out pools
	for _, d := range defs {
		p, err := ipam.NewPool(d.Subnet, d.Range)
		if err != nil {
			return nil, err
		}
		reserved := []netip.Addr{}
		if d.Gateway.IsValid() {
			reserved = append(reserved, d.Gateway)
		}
		for _, a := range d.Aux {
			reserved = append(reserved, a)
		}
		for _, a := range reserved {
			if err := p.Take(a); err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// allocate takes an address of a family: wish, if it is valid, else any.
func (n *network) allocate(wish netip.Addr, ipv6 bool) (netip.Prefix, error) {
	var full error
	for _, p := range n.pools {
		if p.Subnet().Addr().Is6() != ipv6 {
			continue
		}
		if wish.IsValid() {
			if !p.Subnet().Contains(wish) {
				continue
			}
			if err := p.Take(wish); err != nil {
				return netip.Prefix{}, err
			}
			return netip.PrefixFrom(wish, p.Subnet().Bits()), nil
		}
		a, err := p.Next()
		if err == nil {
			return netip.PrefixFrom(a, p.Subnet().Bits()), nil
		}
		full = err
	}
	switch {
	case wish.IsValid():
		return netip.Prefix{}, fmt.Errorf("invalid address %s: It does not belong to any of this network's subnets: %w", wish, errdefs.ErrInvalidArgument)
	case errors.Is(full, errdefs.ErrResourceExhausted):
		return netip.Prefix{}, fmt.Errorf("no available IPv%s addresses on this network's address pools: %s (%s): %w", digit(ipv6), n.Name, n.ID, errdefs.ErrResourceExhausted)
	}
	return netip.Prefix{}, full
}

// release gives an address back.
func (n *network) release(p netip.Prefix) {
	for _, pool := range n.pools {
		if p.IsValid() && pool.Subnet().Contains(p.Addr()) {
			pool.Release(p.Addr())
		}
	}
}

// gateway returns the gateway of the subnet that holds p.
func (n *network) gateway(p netip.Prefix) netip.Addr {
	for _, d := range n.IPAM.Pools {
		if p.IsValid() && d.Subnet.Contains(p.Addr()) {
			return d.Gateway
		}
	}
	return netip.Addr{}
}

func digit(ipv6 bool) string {
	if ipv6 {
		return "6"
	}
	return "4"
}
