package firewall

import (
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// Kernel constants. Source: include/uapi/linux/netfilter.h, nf_conntrack_common.h,
// rtnetlink.h, in.h.
const (
	protoIPv4     = 2  // NFPROTO_IPV4
	protoIPv6     = 10 // NFPROTO_IPV6
	routeLocal    = 2  // RTN_LOCAL
	statusDNAT    = 1 << 5
	ipICMP        = 1
	ipICMPv6      = 58
	ifNameLen     = 16
	firstRegister = 8 // NFT_REG32_00
)

// set is a named set or map of the skeleton.
type set struct {
	name string
	key  []nftables.SetDatatype
	data []nftables.SetDatatype
	text string // its type, as nft(8) prints it

	interval bool // elements are ranges
}

// The sets. An element is all that a network or a port adds to the table.
var sets = []set{
	{name: "bridges", key: ifname(1), text: "type ifname"},
	{name: "icc", key: ifname(2), text: "type ifname . ifname"},
	{name: "hairpin4", key: types(nftables.TypeIFName, nftables.TypeIPAddr), interval: true, text: "type ifname . ipv4_addr"},
	{name: "hairpin6", key: types(nftables.TypeIFName, nftables.TypeIP6Addr), interval: true, text: "type ifname . ipv6_addr"},
	{name: "internal", key: ifname(1), text: "type ifname"},
	{name: "unprotected4", key: ifname(1), text: "type ifname"},
	{name: "unprotected6", key: ifname(1), text: "type ifname"},
	{name: "routed4", key: ifname(1), text: "type ifname"},
	{name: "routed6", key: ifname(1), text: "type ifname"},
	{name: "masq4", key: ifname(1), text: "type ifname"},
	{name: "masq6", key: ifname(1), text: "type ifname"},
	{name: "snat4", key: ifname(1), data: types(nftables.TypeIPAddr), text: "type ifname : ipv4_addr"},
	{name: "snat6", key: ifname(1), data: types(nftables.TypeIP6Addr), text: "type ifname : ipv6_addr"},
	{name: "open4", key: types(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService), text: "type ipv4_addr . inet_proto . inet_service"},
	{name: "open6", key: types(nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService), text: "type ipv6_addr . inet_proto . inet_service"},
	{name: "pub4", key: types(nftables.TypeInetProto, nftables.TypeInetService), data: types(nftables.TypeIPAddr, nftables.TypeInetService), text: "type inet_proto . inet_service : ipv4_addr . inet_service"},
	{name: "pub6", key: types(nftables.TypeInetProto, nftables.TypeInetService), data: types(nftables.TypeIP6Addr, nftables.TypeInetService), text: "type inet_proto . inet_service : ipv6_addr . inet_service"},
	{name: "pubaddr4", key: types(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService), data: types(nftables.TypeIPAddr, nftables.TypeInetService), text: "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service"},
	{name: "pubaddr6", key: types(nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService), data: types(nftables.TypeIP6Addr, nftables.TypeInetService), text: "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service"},
}

func types(t ...nftables.SetDatatype) []nftables.SetDatatype { return t }

func ifname(n int) []nftables.SetDatatype {
	t := make([]nftables.SetDatatype, n)
	for i := range t {
		t[i] = nftables.TypeIFName
	}
	return t
}

// chain is a chain of the skeleton with its rules.
type chain struct {
	name  string
	kind  nftables.ChainType // "" for one that is only jumped to
	hook  *nftables.ChainHook
	prio  *nftables.ChainPriority
	text  string
	rules []rule
}

// term is a part of a rule, as words and as what the kernel executes.
type term struct {
	text  string
	exprs []expr.Any
}

type rule []term

// skeleton returns the chains.
func skeleton(cfg Config) []chain {
	output := []rule{{toHost, jump("publish")}}
	if cfg.SkipLoopback6 {
		output = append([]rule{{loopback6("daddr", 24), verdict("return", expr.VerdictReturn)}}, output...)
	}
	inward := []rule{{toHost, jump("publish")}}
	if cfg.RespectHost {
		inward = nil
	}
	publish := []rule{
		{ipv4, dnat(family4, "ip daddr . meta l4proto . th dport", "pubaddr4", daddr4, l4proto, dport)},
		{ipv4, dnat(family4, "meta l4proto . th dport", "pub4", l4proto, dport)},
		{ipv6, dnat(family6, "ip6 daddr . meta l4proto . th dport", "pubaddr6", daddr6, l4proto, dport)},
		{ipv6, dnat(family6, "meta l4proto . th dport", "pub6", l4proto, dport)},
	}
	forward := []rule{
		{established, accept},
		{pair("icc"), accept},
		{iif("internal"), drop},
		{oif("internal"), drop},
		{oif("bridges"), dnatted, accept},
		{ipv4, in("ip daddr . meta l4proto . th dport", "open4", daddr4, l4proto, dport), accept},
		{ipv6, in("ip6 daddr . meta l4proto . th dport", "open6", daddr6, l4proto, dport), accept},
		{oif("routed4"), l4is("icmp", ipICMP), accept},
		{oif("routed6"), l4is("ipv6-icmp", ipICMPv6), accept},
		{ipv4, oif("unprotected4"), accept},
		{ipv6, oif("unprotected6"), accept},
		{oif("bridges"), drop},
	}
	if cfg.GuardForward {
		forward = append(forward, rule{notIn("iifname", expr.MetaKeyIIFNAME, "bridges"), drop})
	}
	outward := notIn("oifname", expr.MetaKeyOIFNAME, "bridges")
	return []chain{
		{name: "guard", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, prio: nftables.ChainPriorityRaw, text: "type filter hook prerouting priority raw; policy accept;", rules: []rule{
			{notLoopback, loopbackAddr("daddr", 16), drop},
			{notLoopback, loopbackAddr("saddr", 12), drop},
		}},
		{name: "publish", rules: publish},
		{name: "prerouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPrerouting, prio: nftables.ChainPriorityNATDest, text: "type nat hook prerouting priority dstnat; policy accept;", rules: inward},
		{name: "output", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookOutput, prio: nftables.ChainPriorityNATDest, text: "type nat hook output priority -100; policy accept;", rules: output},
		{name: "forward", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookForward, prio: nftables.ChainPriorityFilter, text: "type filter hook forward priority filter; policy accept;", rules: forward},
		{name: "postrouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPostrouting, prio: nftables.ChainPriorityNATSource, text: "type nat hook postrouting priority srcnat; policy accept;", rules: []rule{
			// The answer of a neighbour on one bridge must come back to us. (Not by iifname:
			// br_netfilter shows none here.)
			{ipv4, in("oifname . ip saddr", "hairpin4", oifname, saddr4), dnatted, masquerade},
			{ipv6, in("oifname . ip6 saddr", "hairpin6", oifname, saddr6), dnatted, masquerade},
			{loopbackAddr("saddr", 12), oif("bridges"), masquerade},
			{loopback6("saddr", 8), oif("bridges"), masquerade},
			{ipv4, outward, snat(family4, "snat4")},
			{ipv6, outward, snat(family6, "snat6")},
			{ipv4, iif("masq4"), outward, masquerade},
			{ipv6, iif("masq6"), outward, masquerade},
		}},
	}
}

// load puts a part of a packet, or about it, into registers from reg on.
type load struct {
	words uint32 // 32-bit registers that it fills
	expr  func(reg uint32) expr.Any
}

var (
	l4proto = load{1, func(r uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r} }}
	dport   = load{1, payload(expr.PayloadBaseTransportHeader, 2, 2)}
	daddr4  = load{1, payload(expr.PayloadBaseNetworkHeader, 16, 4)}
	saddr4  = load{1, payload(expr.PayloadBaseNetworkHeader, 12, 4)}
	saddr6  = load{4, payload(expr.PayloadBaseNetworkHeader, 8, 16)}
	daddr6  = load{4, payload(expr.PayloadBaseNetworkHeader, 24, 16)}
	iifname = load{4, func(r uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: r} }}
	oifname = load{4, func(r uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: r} }}
)

func payload(base expr.PayloadBase, offset, length uint32) func(uint32) expr.Any {
	return func(r uint32) expr.Any {
		return &expr.Payload{DestRegister: r, Base: base, Offset: offset, Len: length}
	}
}

// key loads the fields of a set's key side by side.
func key(loads []load) []expr.Any {
	var out []expr.Any
	reg := uint32(firstRegister)
	for _, l := range loads {
		out = append(out, l.expr(reg))
		reg += l.words
	}
	return out
}

func in(text, name string, loads ...load) term {
	return term{text + " @" + name, append(key(loads), &expr.Lookup{SourceRegister: firstRegister, SetName: name})}
}

func iif(name string) term  { return in("iifname", name, iifname) }
func oif(name string) term  { return in("oifname", name, oifname) }
func pair(name string) term { return in("iifname . oifname", name, iifname, oifname) }

func notIn(text string, k expr.MetaKey, name string) term {
	return term{text + " != @" + name, []expr.Any{&expr.Meta{Key: k, Register: firstRegister}, &expr.Lookup{SourceRegister: firstRegister, SetName: name, Invert: true}}}
}

func cmp(op expr.CmpOp, data []byte) *expr.Cmp {
	return &expr.Cmp{Op: op, Register: firstRegister, Data: data}
}

func nfproto(text string, p byte) term {
	return term{"meta nfproto " + text, []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: firstRegister}, cmp(expr.CmpOpEq, []byte{p})}}
}

func l4is(text string, p byte) term {
	return term{"meta l4proto " + text, []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister}, cmp(expr.CmpOpEq, []byte{p})}}
}

// ctBits matches any of the bits of a conntrack value.
func ctBits(text string, k expr.CtKey, bits uint32) term {
	return term{text, []expr.Any{
		&expr.Ct{Key: k, Register: firstRegister},
		&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		cmp(expr.CmpOpNeq, make([]byte, 4)),
	}}
}

// loopbackAddr matches 127.0.0.0/8 at an offset of the IPv4 header.
func loopbackAddr(which string, offset uint32) term {
	return term{"ip " + which + " 127.0.0.0/8", append(ipv4.exprs[:2:2],
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1}, cmp(expr.CmpOpEq, []byte{127}))}
}

var (
	ipv4        = nfproto("ipv4", protoIPv4)
	ipv6        = nfproto("ipv6", protoIPv6)
	established = ctBits("ct state established,related", expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	dnatted     = ctBits("ct status dnat", expr.CtKeySTATUS, statusDNAT)
	toHost      = term{"fib daddr type local", []expr.Any{
		&expr.Fib{Register: firstRegister, FlagDADDR: true, ResultADDRTYPE: true}, cmp(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(routeLocal)),
	}}
	notLoopback = term{`iifname != "lo"`, []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: firstRegister}, cmp(expr.CmpOpNeq, interfaceName("lo"))}}
	accept      = verdict("accept", expr.VerdictAccept)
	drop        = verdict("drop", expr.VerdictDrop)
	masquerade  = term{"masquerade", []expr.Any{&expr.Masq{}}}
)

// loopback6 matches ::1 at an offset of the IPv6 header.
func loopback6(which string, offset uint32) term {
	return term{"ip6 " + which + " ::1", append(ipv6.exprs[:2:2],
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 16}, cmp(expr.CmpOpEq, append(make([]byte, 15), 1)))}
}

func verdict(text string, kind expr.VerdictKind) term {
	return term{text, []expr.Any{&expr.Verdict{Kind: kind}}}
}

func jump(to string) term {
	return term{"jump " + to, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: to}}}
}

// family is how nft calls an address family, its NFPROTO, and how many registers an address
// takes.
type family struct {
	word      string
	proto     uint32
	registers uint32
}

var (
	family4 = family{"ip", protoIPv4, 1}
	family6 = family{"ip6", protoIPv6, 4}
)

// dnat sends a packet where the map called name has it: an address, and a port behind it.
func dnat(f family, text, name string, loads ...load) term {
	exprs := append(key(loads),
		&expr.Lookup{SourceRegister: firstRegister, DestRegister: firstRegister, IsDestRegSet: true, SetName: name},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: f.proto, RegAddrMin: firstRegister, RegProtoMin: firstRegister + f.registers, Specified: true})
	return term{"dnat " + f.word + " to " + text + " map @" + name, exprs}
}

func snat(f family, name string) term {
	exprs := append(key([]load{iifname}),
		&expr.Lookup{SourceRegister: firstRegister, DestRegister: firstRegister, IsDestRegSet: true, SetName: name},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: f.proto, RegAddrMin: firstRegister})
	return term{"snat " + f.word + " to iifname map @" + name, exprs}
}

// interfaceName is an interface's name as a key: padded with zeros.
func interfaceName(s string) []byte {
	b := make([]byte, ifNameLen)
	copy(b, s)
	return b
}

// exprs returns what the kernel executes, with the ids that sets have in this transaction.
// Terms are shared: lookups are copied before they are changed.
func (r rule) exprs(ids map[string]uint32) []expr.Any {
	var out []expr.Any
	for _, t := range r {
		for _, e := range t.exprs {
			if l, ok := e.(*expr.Lookup); ok {
				lookup := *l
				lookup.SetID = ids[l.SetName]
				e = &lookup
			}
			out = append(out, e)
		}
	}
	return out
}

func (r rule) text() string {
	words := make([]string, len(r))
	for i, t := range r {
		words[i] = t.text
	}
	return strings.Join(words, " ")
}
