// Package dnsport leads port 53 of the DNS server's address in a container's netns to the
// port where the shim listens. Without, the shim would have to bind 127.0.0.11:53, and a
// container's own DNS server could not bind port 53 of every address.
//
// dnsport.go is all of it. The rules are in a table of our own inside the netns, and go
// with it:
//
//	table ip strata {
//		chain output {
//			type nat hook output priority -100; policy accept;
//			ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:61053
//			ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:61053
//		}
//	}
package dnsport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Port is where the shim listens: above the ephemeral ports (ip(7), ip_local_port_range).
const Port = 61053

// Numbers of protocols that DNS is spoken over (RFC 790 and later).
const (
	tcp = 6
	udp = 17
)

// Offsets in headers, in bytes.
const (
	daddrOffset = 16 // of IPv4
	dportOffset = 2  // of TCP and UDP
)

const familyIPv4 = 2 // NFPROTO_IPV4

// Lead makes packets of the netns to at go to Port of the same address.
func Lead(netns *os.File, at netip.AddrPort) error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(netns.Fd())), nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("lead DNS to the shim: %w", err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "strata"})
	chain := conn.AddChain(&nftables.Chain{
		Table: table, Name: "output", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	for _, proto := range []byte{udp, tcp} {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: lead(proto, at)})
	}
	if err := errors.Join(conn.Flush(), conn.CloseLasting()); err != nil {
		return fmt.Errorf("lead DNS to the shim: %w", err)
	}
	return nil
}

// lead is one rule.
func lead(proto byte, at netip.AddrPort) []expr.Any {
	port := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }
	is := func(data []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: daddrOffset, Len: 4},
		is(at.Addr().AsSlice()),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		is([]byte{proto}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: dportOffset, Len: 2},
		is(port(at.Port())),
		&expr.Immediate{Register: 1, Data: at.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: port(Port)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: familyIPv4, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	}
}
