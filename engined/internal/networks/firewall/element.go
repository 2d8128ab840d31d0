package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// Mode says how a network's containers are reached from outside, per address family. The
// words are docker's gateway modes.
type Mode string

// The modes.
const (
	NAT         Mode = "nat"             // by published ports of the host; the default
	Routed      Mode = "routed"          // by their own addresses, published ports only
	Unprotected Mode = "nat-unprotected" // as nat, and by their own addresses, every port
	Isolated    Mode = "isolated"        // not at all (internal networks)
)

// Network is what the table has to know of one bridge.
type Network struct {
	Bridge       string
	Subnets      []netip.Prefix
	Internal     bool
	ICC          bool // its containers may talk to each other
	Masquerade4  bool
	Masquerade6  bool
	SNAT4, SNAT6 netip.Addr // masquerade as this address; zero: the outgoing interface's
	Mode4, Mode6 Mode       // "" is NAT
}

// Port is one published port, for one address family.
type Port struct {
	Proto    string     // tcp, udp, sctp
	HostIP   netip.Addr // zero: every address of the host
	HostPort uint16
	To       netip.AddrPort
	// Routed opens To for packets from outside instead of translating.
	Routed bool
}

// Change is a number of networks and ports.
type Change struct {
	Networks []Network
	Ports    []Port
}

// element is an entry of a set or map.
type element struct {
	set      string
	key, val string // bytes, as strings so that elements can be compared
	text     string
	end      string // of a range that begins with key
}

// protocols are the numbers of the protocols that have ports.
var protocols = map[string]byte{"tcp": 6, "udp": 17, "sctp": 132}

// elements returns what a change consists of.
func (c Change) elements() ([]element, error) {
	var out []element
	for _, n := range c.Networks {
		out = append(out, n.elements()...)
	}
	for _, p := range c.Ports {
		e, err := p.element()
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

func (n Network) elements() []element {
	name := string(interfaceName(n.Bridge))
	quoted := fmt.Sprintf("%q", n.Bridge)
	var out []element
	one := func(set string, wanted bool) {
		if wanted {
			out = append(out, element{set: set, key: name, text: quoted})
		}
	}
	one("bridges", true)
	if n.ICC {
		out = append(out, element{set: "icc", key: name + name, text: quoted + " . " + quoted})
	}
	for _, p := range n.Subnets {
		set := "hairpin4"
		if p.Addr().Is6() {
			set = "hairpin6"
		}
		out = append(out, element{set: set, key: name + string(p.Addr().AsSlice()), end: name + string(lastOf(p)), text: quoted + " . " + p.String()})
	}
	one("internal", n.Internal)
	one("routed4", n.Mode4 == Routed)
	one("routed6", n.Mode6 == Routed)
	one("unprotected4", n.Mode4 == Unprotected)
	one("unprotected6", n.Mode6 == Unprotected)
	one("masq4", n.Masquerade4)
	one("masq6", n.Masquerade6)
	if n.SNAT4.Is4() {
		out = append(out, element{set: "snat4", key: name, val: string(n.SNAT4.AsSlice()), text: quoted + " : " + n.SNAT4.String()})
	}
	if n.SNAT6.Is6() {
		out = append(out, element{set: "snat6", key: name, val: string(n.SNAT6.AsSlice()), text: quoted + " : " + n.SNAT6.String()})
	}
	return out
}

// Element returns the set or map that a port is an element of, and the element in the words
// of nft(8).
func (p Port) Element() (set, text string, err error) {
	e, err := p.element()
	return e.set, e.text, err
}

func (p Port) element() (element, error) {
	number, ok := protocols[p.Proto]
	if !ok || !p.To.IsValid() || p.HostIP.IsValid() && p.HostIP.Is4() != p.To.Addr().Is4() {
		return element{}, fmt.Errorf("internal error: no element for port %+v", p)
	}
	family := "4"
	if p.To.Addr().Is6() {
		family = "6"
	}
	var key, words []string
	add := func(k []byte, w string) {
		for len(k)%4 != 0 {
			k = append(k, 0) // each field of a key fills whole registers
		}
		key, words = append(key, string(k)), append(words, w)
	}
	join := func() (string, string) { return strings.Join(key, ""), strings.Join(words, " . ") }
	port := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	target := string(p.To.Addr().AsSlice()) + string(append(port(p.To.Port()), 0, 0))
	to := fmt.Sprintf("%s . %d", p.To.Addr(), p.To.Port())
	switch {
	case p.Routed:
		add(p.To.Addr().AsSlice(), p.To.Addr().String())
		add([]byte{number}, p.Proto)
		add(port(p.To.Port()), fmt.Sprint(p.To.Port()))
		k, w := join()
		return element{set: "open" + family, key: k, text: w}, nil
	case p.HostIP.IsValid() && !p.HostIP.IsUnspecified():
		add(p.HostIP.AsSlice(), p.HostIP.String())
		add([]byte{number}, p.Proto)
		add(port(p.HostPort), fmt.Sprint(p.HostPort))
		k, w := join()
		return element{set: "pubaddr" + family, key: k, val: target, text: w + " : " + to}, nil
	}
	add([]byte{number}, p.Proto)
	add(port(p.HostPort), fmt.Sprint(p.HostPort))
	k, w := join()
	return element{set: "pub" + family, key: k, val: target, text: w + " : " + to}, nil
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) []byte {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}
