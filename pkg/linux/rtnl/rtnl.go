package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// answerTimeout bounds the wait for an answer: the kernel answers before sendto(2)
// returns, so this is only a way out of the impossible.
const answerTimeout = 5 * time.Second

// skipStats is RTEXT_FILTER_SKIP_STATS: answers without counters.
const skipStats = 1 << 3

// Conn is a rtnetlink socket in one netns. It is safe for concurrent use.
type Conn struct {
	fd int

	mu  sync.Mutex // guards seq and the exchange of a batch and its answers
	seq uint32
}

// Request is a message and the words that an error about it begins with.
type Request struct {
	Name string // "add address 172.17.0.2/16"
	*nl.NetlinkRequest
	// Ignore are the errnos that count as success: EEXIST, ENODEV.
	Ignore []unix.Errno

	answer func(body []byte) // takes messages other than the acknowledgement; may be nil
}

// Dial opens a socket in the netns of the calling thread, where it stays.
func Dial() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Extended acks say in words what the kernel did not like.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	tv := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return &Conn{fd: fd}, nil
}

// Close closes the socket.
func (c *Conn) Close() error { return os.NewSyscallError("close", unix.Close(c.fd)) }

// Do sends all requests at once. The kernel works them off in order, and goes on after
// one that fails; Do returns the error of the first that failed.
func (c *Conn) Do(requests ...Request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var batch []byte
	first := c.seq + 1
	for _, r := range requests {
		c.seq++
		r.Seq = c.seq
		r.Flags |= unix.NLM_F_REQUEST | unix.NLM_F_ACK
		batch = append(batch, r.Serialize()...)
		for len(batch)%unix.NLMSG_ALIGNTO != 0 {
			batch = append(batch, 0)
		}
	}
	if err := unix.Sendto(c.fd, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	var failed error
	buf := make([]byte, 16<<10)
	for answered := 0; answered < len(requests); {
		n, err := unix.Read(c.fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("read netlink answer", err)
		}
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			length := int(binary.NativeEndian.Uint32(b))
			if length < unix.NLMSG_HDRLEN || length > len(b) {
				break
			}
			seq := binary.NativeEndian.Uint32(b[8:])
			switch {
			case seq < first || seq > c.seq: // of an exchange that timed out
			case binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR:
				answered++
				if err := requests[seq-first].result(b[:length]); err != nil && failed == nil {
					failed = err
				}
			case requests[seq-first].answer != nil:
				requests[seq-first].answer(b[unix.NLMSG_HDRLEN:length])
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
	return failed
}

// Index returns the index of the interface called name.
func (c *Conn) Index(name string) (int, error) {
	index := 0
	err := c.link(name, func(info *nl.IfInfomsg, _ []byte) { index = int(info.Index) })
	return index, err
}

// Operational reports whether the interface called name has a carrier, as far as the kernel
// has told everybody about it: a bridge forwards to its port from then on. Source: RFC 2863,
// ifOperStatus; kernel Documentation/networking/operstates.rst.
func (c *Conn) Operational(name string) (bool, error) {
	const up = 6 // IF_OPER_UP
	state := byte(0)
	err := c.link(name, func(_ *nl.IfInfomsg, attrs []byte) {
		list, err := nl.ParseRouteAttr(attrs)
		if err != nil {
			return
		}
		for _, a := range list {
			if a.Attr.Type == unix.IFLA_OPERSTATE && len(a.Value) > 0 {
				state = a.Value[0]
			}
		}
	})
	return state == up, err
}

// link reads what the kernel says of the interface called name.
func (c *Conn) link(name string, take func(info *nl.IfInfomsg, attrs []byte)) error {
	r := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return c.Do(Request{Name: fmt.Sprintf("find interface %q", name), NetlinkRequest: r, answer: func(body []byte) {
		if len(body) >= unix.SizeofIfInfomsg {
			take(nl.DeserializeIfInfomsg(body), body[unix.SizeofIfInfomsg:])
		}
	}})
}

// result reads an NLMSG_ERROR message.
func (r Request) result(msg []byte) error {
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(msg[unix.NLMSG_HDRLEN:])))
	if errno == 0 || slices.Contains(r.Ignore, errno) {
		return nil
	}
	if text := extendedAck(msg); text != "" {
		return fmt.Errorf("%s: %w (%s)", r.Name, errno, text)
	}
	return fmt.Errorf("%s: %w", r.Name, errno)
}

// extendedAck returns the kernel's words in an NLMSG_ERROR, if there are any.
func extendedAck(msg []byte) string {
	if binary.NativeEndian.Uint16(msg[6:])&unix.NLM_F_ACK_TLVS == 0 {
		return ""
	}
	skip := unix.NLMSG_HDRLEN + 4 + unix.NLMSG_HDRLEN // header, errno, header of the request
	if binary.NativeEndian.Uint16(msg[6:])&unix.NLM_F_CAPPED == 0 && len(msg) >= skip {
		skip += int(binary.NativeEndian.Uint32(msg[unix.NLMSG_HDRLEN+4:])) - unix.NLMSG_HDRLEN
	}
	for skip+4 <= len(msg) {
		length := int(binary.NativeEndian.Uint16(msg[skip:]))
		if length < 4 || skip+length > len(msg) {
			return ""
		}
		if binary.NativeEndian.Uint16(msg[skip+2:]) == unix.NLMSGERR_ATTR_MSG {
			return nl.BytesToString(msg[skip+4 : skip+length])
		}
		skip += (length + 3) &^ 3
	}
	return ""
}

// LinkUp sets an interface up.
func LinkUp(index int) Request {
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	info.Flags, info.Change = unix.IFF_UP, unix.IFF_UP
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	r.AddData(info)
	return Request{Name: fmt.Sprintf("set interface %d up", index), NetlinkRequest: r}
}

// SetMAC sets the hardware address of an interface. With arp_notify and ndisc_notify the
// kernel then announces the interface's addresses, also if the address is the same as before
// (inetdev_event and ndisc_netdev_event, NETDEV_CHANGEADDR).
func SetMAC(index int, mac net.HardwareAddr) Request {
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	r.AddData(info)
	r.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	return Request{Name: fmt.Sprintf("set MAC address %s", mac), NetlinkRequest: r}
}

// Veth describes a pair of interfaces, one of which is born in another netns.
type Veth struct {
	Name    string
	Master  int  // index of a bridge; 0: none
	Up      bool // the near end
	MTU     int  // bytes, of both ends; 0: the kernel's
	Peer    string
	PeerNS  *os.File
	PeerMAC net.HardwareAddr
	PeerUp  bool
}

// AddVeth makes a pair: one request for what takes ip(8) six.
func AddVeth(v Veth) Request {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	if v.Up {
		info.Flags, info.Change = unix.IFF_UP, unix.IFF_UP
	}
	r.AddData(info)
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.Name)))
	if v.Master != 0 {
		r.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(v.Master))))
	}
	if v.MTU != 0 {
		r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(v.MTU))))
	}
	link := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	link.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := link.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	pinfo := nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	if v.PeerUp {
		pinfo.Flags, pinfo.Change = unix.IFF_UP, unix.IFF_UP
	}
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.Peer))
	if v.MTU != 0 {
		peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(v.MTU)))
	}
	if v.PeerMAC != nil {
		peer.AddRtAttr(unix.IFLA_ADDRESS, v.PeerMAC)
	}
	if v.PeerNS != nil {
		peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(v.PeerNS.Fd())))
	}
	r.AddData(link)
	return Request{Name: fmt.Sprintf("add veth pair %q", v.Name), NetlinkRequest: r}
}

// BridgePort is how a bridge treats one of its ports.
type BridgePort struct {
	Name string
	// Hairpin lets frames leave through the port that they came from.
	Hairpin bool
	// Isolated ports exchange frames with ports that are not, never with each other. Linux
	// 4.18, commit 7d850abd5f4e ("net: bridge: add support for port isolation").
	Isolated bool
}

// SetBridgePort sets the flags of a port, found by its name, and then sets it up.
func SetBridgePort(p BridgePort) Request {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Flags, info.Change = unix.IFF_UP, unix.IFF_UP
	r.AddData(info)
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.Name)))
	link := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	link.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated("bridge"))
	data := link.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil)
	data.AddRtAttr(nl.IFLA_BRPORT_MODE, flag(p.Hairpin))
	data.AddRtAttr(brportIsolated, flag(p.Isolated))
	r.AddData(link)
	return Request{Name: fmt.Sprintf("set bridge port %q", p.Name), NetlinkRequest: r}
}

// brportIsolated is IFLA_BRPORT_ISOLATED, include/uapi/linux/if_link.h.
const brportIsolated = 33

func flag(on bool) []byte {
	if on {
		return []byte{1}
	}
	return []byte{0}
}

// LoopbackVia lets packets for ::1 be delivered that come in through the interface: answers
// whose translation back to ::1 connection tracking has just done. (What arrives with ::1 as
// its destination is dropped before that: ip6_rcv_core.) The kernel looks for the route of
// a loopback address on the very interface: ip6_route_input_lookup, rt6_need_strict.
func LoopbackVia(index int) Request {
	r := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m := defaultRoute(unix.AF_INET6)
	m.Dst_len, m.Table, m.Type = 128, unix.RT_TABLE_LOCAL, unix.RTN_LOCAL
	r.AddData(m)
	r.AddData(nl.NewRtAttr(unix.RTA_DST, net.IPv6loopback))
	r.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	r.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(lastPriority))) // the host's own goes first
	return Request{Name: fmt.Sprintf("add local route to ::1 on interface %d", index), NetlinkRequest: r, Ignore: []unix.Errno{unix.EEXIST}}
}

// lastPriority is the metric of routes that yield to all others.
const lastPriority = 4096

// AddAddress gives an interface an address. IPv6 addresses are used at once, without
// duplicate address detection: whoever calls this knows that they are unique.
func AddAddress(index int, p netip.Prefix) Request {
	r := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m := nl.NewIfAddrmsg(family(p.Addr()))
	m.Index, m.Prefixlen = uint32(index), uint8(p.Bits())
	r.AddData(m)
	addr := p.Addr().AsSlice()
	r.AddData(nl.NewRtAttr(unix.IFA_LOCAL, addr))
	r.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, addr))
	if p.Addr().Is6() {
		r.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NODAD)))
	} else if broadcast, ok := lastAddress(p); ok {
		r.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast))
	}
	return Request{Name: fmt.Sprintf("add address %s", p), NetlinkRequest: r}
}

// DefaultRoute makes via the way to everything, through the interface. An invalid via
// routes onto the link itself.
func DefaultRoute(index int, via netip.Addr, fam int) Request {
	r := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m := defaultRoute(fam)
	r.AddData(m)
	if via.IsValid() {
		r.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, via.AsSlice()))
	} else {
		m.Scope = unix.RT_SCOPE_LINK
	}
	r.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	return Request{Name: fmt.Sprintf("add default route via %s", via), NetlinkRequest: r}
}

// DeleteDefaultRoute deletes the default routes of a family, one per call.
func DeleteDefaultRoute(fam int) Request {
	r := nl.NewNetlinkRequest(unix.RTM_DELROUTE, 0)
	m := defaultRoute(fam)
	m.Scope = unix.RT_SCOPE_NOWHERE
	m.Protocol = 0
	m.Type = 0
	r.AddData(m)
	return Request{Name: "delete default route", NetlinkRequest: r, Ignore: []unix.Errno{unix.ESRCH, unix.ENOENT}}
}

// DeleteLink deletes an interface by name, and with a veth its peer.
func DeleteLink(name string) Request {
	r := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return Request{Name: fmt.Sprintf("delete interface %q", name), NetlinkRequest: r, Ignore: []unix.Errno{unix.ENODEV}}
}

func defaultRoute(fam int) *nl.RtMsg {
	m := nl.NewRtMsg()
	m.Family = uint8(fam)
	return m
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// lastAddress returns the broadcast address of an IPv4 subnet that has one.
func lastAddress(p netip.Prefix) ([]byte, bool) {
	if p.Bits() > 30 {
		return nil, false
	}
	a := p.Addr().As4()
	v := binary.BigEndian.Uint32(a[:]) | (1<<(32-p.Bits()) - 1)
	binary.BigEndian.PutUint32(a[:], v)
	return a[:], true
}
