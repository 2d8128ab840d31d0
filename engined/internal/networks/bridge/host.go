package bridge

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"strata/pkg/linux/rtnl"
)

// Host is the netns that the engine runs in. It is safe for concurrent use.
type Host struct {
	handle *netlink.Handle
	rt     *rtnl.Conn
	claim  net.Listener // nil before Claim
}

// Open opens the netns of the calling thread.
func Open() (*Host, error) {
	rt, err := rtnl.Dial()
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	handle, err := netlink.NewHandle()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open rtnetlink: %w", err), rt.Close())
	}
	return &Host{handle: handle, rt: rt}, nil
}

// Close closes the sockets.
func (h *Host) Close() error {
	h.handle.Close()
	err := h.rt.Close()
	if h.claim != nil {
		err = errors.Join(err, h.claim.Close())
	}
	return err
}

// Spec describes a bridge.
type Spec struct {
	Name string
	// Owner marks the bridge as made by one network of one engine.
	Owner     string
	Addresses []netip.Prefix // the host's own, with the subnets' lengths
	MTU       int            // bytes; 0: the kernel's
}

// ownerPrefix begins the alias of our interfaces.
const ownerPrefix = "strata:"

// Ensure makes the bridge as described, or makes the one of that name so. made is true if
// there was none. A bridge that another network or engine made is an error of class
// ErrConflict, unless that engine is gone and nothing is attached to the bridge; one that
// the operator made is used, and not Deleted.
func (h *Host) Ensure(s Spec) (index int, made bool, err error) {
	link, err := h.find(s.Name)
	if err == nil && link.Type() == "bridge" {
		if owner, ok := strings.CutPrefix(link.Attrs().Alias, ownerPrefix); ok && owner != s.Owner {
			if err := h.inherit(link, owner, s); err != nil {
				return 0, false, err
			}
			link, err = h.find(s.Name)
		}
	}
	if errdefs.IsNotFound(err) {
		if link, err = h.make(s); err != nil {
			return 0, false, err
		}
		made = true
	}
	if err != nil {
		return 0, false, err
	}
	if link.Type() != "bridge" {
		return 0, false, fmt.Errorf("interface %q is of type %s, not a bridge: %w", s.Name, link.Type(), errdefs.ErrConflict)
	}
	index = link.Attrs().Index
	ipv6 := slices.ContainsFunc(s.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() })
	if err := PrepareIPv6(s.Name, ipv6); err != nil {
		return 0, made, err
	}
	if err := h.address(link, s.Addresses); err != nil {
		return 0, made, err
	}
	requests := []rtnl.Request{rtnl.LinkUp(index)}
	if ipv6 {
		requests = append(requests, rtnl.LoopbackVia(index)) // for ports published on ::1
	}
	if err := h.rt.Do(requests...); err != nil {
		return 0, made, fmt.Errorf("bridge %q: %w", s.Name, err)
	}
	return index, made, nil
}

func (h *Host) find(name string) (netlink.Link, error) {
	link, err := h.handle.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("interface %q: %w", name, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("find interface %q: %w", name, err)
	}
	return link, nil
}

func (h *Host) make(s Spec) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = s.Name, s.MTU
	// A bridge without an address of its own takes the lowest of its ports, which
	// would change under the containers' ARP caches.
	attrs.HardwareAddr = RandomMAC()
	if err := h.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return nil, fmt.Errorf("make bridge %q: %w", s.Name, err)
	}
	link, err := h.find(s.Name)
	if err != nil {
		return nil, err
	}
	if err := h.handle.LinkSetAlias(link, ownerPrefix+s.Owner); err != nil {
		return nil, errors.Join(fmt.Errorf("mark bridge %q: %w", s.Name, err), h.handle.LinkDel(link))
	}
	return link, nil
}

// address adds the addresses that a bridge lacks.
func (h *Host) address(link netlink.Link, want []netip.Prefix) error {
	have, err := h.addresses(link)
	if err != nil {
		return err
	}
	var requests []rtnl.Request
	for _, p := range want {
		if !have[p] {
			requests = append(requests, rtnl.AddAddress(link.Attrs().Index, p))
		}
	}
	if len(requests) == 0 {
		return nil
	}
	if err := h.rt.Do(requests...); err != nil {
		return fmt.Errorf("bridge %q: %w", link.Attrs().Name, err)
	}
	return nil
}

func (h *Host) addresses(link netlink.Link) (map[netip.Prefix]bool, error) {
	list, err := retried(func() ([]netlink.Addr, error) { return h.handle.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	have := map[netip.Prefix]bool{}
	for _, a := range list {
		if p, ok := prefixOf(a.IPNet); ok {
			have[p] = true
		}
	}
	return have, nil
}

// Addresses returns the addresses of an interface that are not link-local.
func (h *Host) Addresses(name string) ([]netip.Prefix, error) {
	link, err := h.find(name)
	if err != nil {
		return nil, err
	}
	have, err := h.addresses(link)
	var out []netip.Prefix
	for p := range have {
		if !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p)
		}
	}
	return out, err
}

// Exists reports whether there is an interface called name.
func (h *Host) Exists(name string) bool {
	_, err := h.find(name)
	return err == nil
}

// State says in one word how an interface is: up, down or missing.
func (h *Host) State(name string) string {
	link, err := h.find(name)
	switch {
	case err != nil:
		return "missing"
	case link.Attrs().Flags&net.FlagUp == 0:
		return "down"
	}
	return "up"
}

// Delete deletes an interface that Ensure or EnsureParent made for owner. It is no error if
// there is none, or one of somebody else.
func (h *Host) Delete(name, owner string) error {
	link, err := h.find(name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if link.Attrs().Alias != ownerPrefix+owner {
		return nil
	}
	if err := h.handle.LinkDel(link); err != nil {
		return fmt.Errorf("delete interface %q: %w", name, err)
	}
	return nil
}

// Owned returns the names of bridges whose owner begins with prefix, and the rest of it.
func (h *Host) Owned(prefix string) (map[string]string, error) {
	links, err := retried(h.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	out := map[string]string{}
	for _, l := range links {
		if rest, ok := strings.CutPrefix(l.Attrs().Alias, ownerPrefix+prefix); ok {
			out[l.Attrs().Name] = rest
		}
	}
	return out, nil
}

// Masters returns the interfaces of the host with the index of the bridge that each is on, or
// 0.
func (h *Host) Masters() (map[string]int, error) {
	links, err := retried(h.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	out := map[string]int{}
	for _, l := range links {
		out[l.Attrs().Name] = l.Attrs().MasterIndex
	}
	return out, nil
}

// Ports returns the interfaces that are enslaved to the bridge called name.
func (h *Host) Ports(name string) ([]string, error) {
	bridge, err := h.find(name)
	if err != nil {
		return nil, err
	}
	links, err := retried(h.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []string
	for _, l := range links {
		if l.Attrs().MasterIndex == bridge.Attrs().Index {
			out = append(out, l.Attrs().Name)
		}
	}
	return out, nil
}

// Taken returns the prefixes that the host routes somewhere or has addresses in, so that a
// network must not use them. Default routes are no claim.
func (h *Host) Taken() ([]netip.Prefix, error) {
	routes, err := retried(func() ([]netlink.Route, error) { return h.handle.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	seen := map[netip.Prefix]bool{}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 && !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsMulticast() {
			seen[p.Masked()] = true
		}
	}
	addrs, err := retried(func() ([]netlink.Addr, error) { return h.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			seen[p.Masked()] = true
		}
	}
	out := make([]netip.Prefix, 0, len(seen))
	for p := range seen {
		out = append(out, p)
	}
	return out, nil
}

// ForgetFlows makes connection tracking forget UDP flows to ports of the host: it would send
// them where they went before for as long as packets come.
func (h *Host) ForgetFlows(ports []uint16) error {
	if len(ports) == 0 {
		return nil
	}
	wanted := flowsTo{}
	for _, port := range ports {
		wanted[port] = true
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} { // one dump each, however many ports
		if _, err := h.handle.ConntrackDeleteFilters(netlink.ConntrackTable, family, wanted); err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("forget flows to %d udp ports: %w", len(ports), err)
		}
	}
	return nil
}

// flowsTo matches UDP flows that began by a packet to one of the ports.
type flowsTo map[uint16]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flowsTo) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == unix.IPPROTO_UDP && f[flow.Forward.DstPort]
}

// retried repeats a dump that changes made inconsistent: NLM_F_DUMP_INTR, netlink(7).
func retried[T any](dump func() ([]T, error)) ([]T, error) {
	for range 10 {
		out, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	out, err := dump()
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		err = nil // ten changes in a row: what is there is as true as it gets
	}
	return out, err
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), true
}

// RandomMAC returns a locally administered unicast address.
func RandomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac) // never fails: crypto/rand.Read, Go 1.24
	mac[0] = mac[0]&^1 | 2
	return mac
}
