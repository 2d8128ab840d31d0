package portlock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Packets is a UDP port of the host that answers. It is safe for concurrent use.
type Packets struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	ipv6 bool
}

// Packet is what arrived.
type Packet struct {
	Data []byte // good until the function that it was given to returns
	From netip.AddrPort
	// At is the host's address that it was sent to: the answer must come from there.
	At netip.Addr
}

// maxPacket is the longest UDP packet, in bytes.
const maxPacket = 65535

// buffers are lent to whoever has a packet: a thousand ports that wait need none.
var buffers = sync.Pool{New: func() any { return new([maxPacket]byte) }}

// ListenPackets takes a UDP port like Lock, but to answer.
func ListenPackets(addr netip.AddrPort) (*Packets, error) {
	p := &Packets{ipv6: !addr.Addr().Is4()}
	lc := net.ListenConfig{Control: p.control}
	c, err := lc.ListenPacket(context.Background(), "udp"+version(addr), addr.String())
	if err != nil {
		return nil, classify(err, "udp", addr)
	}
	p.conn = c.(*net.UDPConn)
	if p.raw, err = p.conn.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on udp port %s: %w", addr, err), p.conn.Close())
	}
	return p, nil
}

// control asks the kernel to tell which address a packet was sent to. Source: ip(7)
// IP_PKTINFO, ipv6(7) IPV6_RECVPKTINFO.
func (p *Packets) control(_, _ string, c syscall.RawConn) error {
	level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
	if p.ipv6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt", err)
}

// Next waits for a packet and hands it to do. The error is net.ErrClosed after Close.
func (p *Packets) Next(do func(Packet)) error {
	var err error
	rerr := p.raw.Read(func(fd uintptr) bool {
		buf := buffers.Get().(*[maxPacket]byte)
		defer buffers.Put(buf)
		oob := make([]byte, 64)
		n, oobn, _, from, rerr := unix.Recvmsg(int(fd), buf[:], oob, 0)
		switch {
		case rerr == unix.EAGAIN:
			return false
		case rerr != nil:
			err = os.NewSyscallError("recvmsg", rerr) // such as an ICMP error about an answer of ours
			return true
		}
		do(Packet{Data: buf[:n], From: addrPortOf(from), At: p.sentTo(oob[:oobn])})
		return true
	})
	return errors.Join(err, rerr)
}

// Answer sends data to a sender, from the address that it knows.
func (p *Packets) Answer(data []byte, to netip.AddrPort, from netip.Addr) error {
	var oob []byte
	switch {
	case from.Is4():
		oob = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: from.As4()})
	case from.Is6():
		oob = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: from.As16()})
	}
	_, _, err := p.conn.WriteMsgUDPAddrPort(data, oob, to)
	return err
}

// Close lets go of the port.
func (p *Packets) Close() error { return p.conn.Close() }

// sentTo reads the address that a packet was sent to.
func (p *Packets) sentTo(oob []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		// Layout: struct in_pktinfo {int, in_addr spec_dst, in_addr}, struct in6_pktinfo {in6_addr, int}.
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12:
			return netip.AddrFrom4([4]byte(m.Data[4:8]))
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 20:
			return netip.AddrFrom16([16]byte(m.Data[:16]))
		}
	}
	return netip.Addr{}
}

func addrPortOf(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr)
		if a.ZoneId != 0 {
			ip = ip.WithZone(fmt.Sprint(a.ZoneId))
		}
		return netip.AddrPortFrom(ip, uint16(a.Port))
	}
	return netip.AddrPort{}
}

// ReadPacket waits for a packet on a connected socket and hands it to do, which must not
// keep it. Buffers are lent: a socket that waits needs none.
func ReadPacket(c *net.UDPConn, do func([]byte)) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	rerr := raw.Read(func(fd uintptr) bool {
		buf := buffers.Get().(*[maxPacket]byte)
		defer buffers.Put(buf)
		n, rerr := unix.Read(int(fd), buf[:])
		switch {
		case rerr == unix.EAGAIN:
			return false
		case rerr != nil:
			err = os.NewSyscallError("read", rerr)
			return true
		}
		do(buf[:n])
		return true
	})
	return errors.Join(err, rerr)
}
