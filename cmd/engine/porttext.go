package main

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// portText writes published and exposed ports, neighbours as a range:
// "0.0.0.0:8000-8002->8000-8002/tcp, 443/tcp".
func portText(ports []container.PortSummary) string {
	sorted := slices.Clone(ports)
	slices.SortFunc(sorted, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), addrText(a.IP, b.IP), cmp.Compare(a.PublicPort, b.PublicPort), cmp.Compare(a.Type, b.Type))
	})
	var groups []portGroup
	open := map[string]int{} // the group of an address and protocol that may still grow
	var singles []string
	for _, p := range sorted {
		if p.IP.IsValid() && p.PublicPort != p.PrivatePort {
			singles = append(singles, fmt.Sprintf("%s:%d->%d/%s", hostText(p.IP), p.PublicPort, p.PrivatePort, p.Type))
			continue
		}
		key := p.Type
		if p.IP.IsValid() {
			key = p.IP.String() + "/" + p.Type
		}
		if i, ok := open[key]; ok && groups[i].last+1 == p.PrivatePort {
			groups[i].last = p.PrivatePort
			continue
		}
		open[key] = len(groups)
		groups = append(groups, portGroup{ip: p.IP, proto: p.Type, first: p.PrivatePort, last: p.PrivatePort})
	}
	slices.SortStableFunc(groups, func(a, b portGroup) int {
		return cmp.Or(cmp.Compare(a.first, b.first), strings.Compare(a.proto, b.proto))
	})
	var out []string
	for _, g := range groups {
		out = append(out, g.String())
	}
	return strings.Join(append(out, singles...), ", ")
}

func addrText(a, b netip.Addr) int { return strings.Compare(a.String(), b.String()) }

type portGroup struct {
	ip          netip.Addr
	proto       string
	first, last uint16
}

func (g portGroup) String() string {
	r := strconv.Itoa(int(g.first))
	if g.last != g.first {
		r += "-" + strconv.Itoa(int(g.last))
	}
	if g.ip.IsValid() {
		r = hostText(g.ip) + ":" + r + "->" + r
	}
	return r + "/" + g.proto
}

// hostText puts an IPv6 address into brackets.
func hostText(ip netip.Addr) string {
	return strings.TrimSuffix(net.JoinHostPort(ip.String(), ""), ":")
}
