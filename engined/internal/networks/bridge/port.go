package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"strata/pkg/linux/netns"
	"strata/pkg/linux/rtnl"
)

// Inside is a container's netns. Close it soon, because it keeps the netns alive.
type Inside struct {
	ns *os.File
	rt *rtnl.Conn

	noIPv6 bool // interfaces that appear have none
}

// MakeNetns makes a netns that is the file path, with lo up. ipv6 false switches IPv6 off
// on all interfaces but lo.
func MakeNetns(path string, ipv6 bool) (*Inside, error) {
	in := &Inside{noIPv6: !ipv6}
	err := netns.Create(path, func() (err error) {
		if in.rt, err = rtnl.Dial(); err != nil {
			return err
		}
		if err := prepare(ipv6); err != nil {
			return err
		}
		return in.rt.Do(rtnl.LinkUp(1)) // lo is always 1
	})
	if err == nil {
		in.ns, err = netns.Open(path)
	}
	if err != nil {
		if in.rt != nil {
			err = errors.Join(err, in.rt.Close())
		}
		return nil, err
	}
	return in, nil
}

// EnterNetns opens the netns at path.
func EnterNetns(path string) (*Inside, error) {
	ns, err := netns.Open(path)
	if err != nil {
		return nil, err
	}
	in := &Inside{ns: ns}
	if err := netns.Do(ns, func() (err error) { in.rt, err = rtnl.Dial(); return err }); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return in, nil
}

// Close lets go of the netns.
func (in *Inside) Close() error { return errors.Join(in.rt.Close(), in.ns.Close()) }

// File is the netns, open until Close.
func (in *Inside) File() *os.File { return in.ns }

// Port is a veth pair from a bridge into a container.
type Port struct {
	Bridge    string
	Index     int    // of the bridge
	HostName  string // of the near end
	Name      string // in the container
	MTU       int    // bytes; 0: the kernel's
	MAC       net.HardwareAddr
	Addresses []netip.Prefix
	// Isolated ports of a bridge cannot talk to each other, only to the host.
	Isolated bool
}

// Plug makes the pair, and the container's end ready: two system calls and a look-up.
func (h *Host) Plug(in *Inside, p Port) error {
	flags := p.flags()
	batch := []rtnl.Request{rtnl.AddVeth(rtnl.Veth{
		Name: p.HostName, Master: p.Index, Up: !flags.Isolated, MTU: p.MTU, Peer: p.Name, PeerNS: in.ns, PeerMAC: p.MAC,
	})}
	if flags.Hairpin || flags.Isolated { // isolated ports are not up before they are isolated
		batch = append(batch, rtnl.SetBridgePort(flags))
	}
	if err := h.rt.Do(batch...); err != nil {
		return err
	}
	if err := h.bringUp(in, p); err != nil {
		return errors.Join(err, h.Unplug(p.HostName))
	}
	return nil
}

func (p Port) flags() rtnl.BridgePort {
	if Filtered(false) && Filtered(true) {
		// Then a published port's packets are translated inside the bridge and leave
		// through its ports, perhaps through the one that they came from; and our table sees
		// and drops what neighbours must not exchange, so that isolation is not needed, and
		// would stop the translated ones.
		return rtnl.BridgePort{Name: p.HostName, Hairpin: true}
	}
	return rtnl.BridgePort{Name: p.HostName, Isolated: p.Isolated}
}

// Attach puts the near end of a pair that exists onto its bridge, which was made again.
func (h *Host) Attach(p Port) error {
	link, err := h.find(p.HostName)
	if err != nil {
		return err
	}
	if err := h.handle.LinkSetMasterByIndex(link, p.Index); err != nil {
		return fmt.Errorf("attach %q to bridge %q: %w", p.HostName, p.Bridge, err)
	}
	return h.rt.Do(rtnl.SetBridgePort(p.flags()))
}

// bringUp gives the container's end its addresses, and announces them once the bridge
// forwards: that mends the caches of the bridge and of neighbours that knew another owner.
func (h *Host) bringUp(in *Inside, p Port) error {
	index, err := in.rt.Index(p.Name)
	if err != nil {
		return err
	}
	if err := in.up(p.Name, index, p.Addresses); err != nil {
		return err
	}
	for _, name := range []string{p.HostName, p.Bridge} { // the bridge has a carrier from its first port on
		if err := h.awaitCarrier(name); err != nil {
			return err
		}
	}
	return in.rt.Do(rtnl.SetMAC(index, p.MAC))
}

// up gives an interface its addresses and switches it on. One without an IPv6 address has no
// IPv6 at all, whatever the other interfaces have: on a network without IPv6 nobody filters
// it (CVE-2024-32473).
func (in *Inside) up(name string, index int, addresses []netip.Prefix) error {
	var batch []rtnl.Request
	ipv6 := false
	for _, a := range addresses {
		batch = append(batch, rtnl.AddAddress(index, a))
		ipv6 = ipv6 || a.Addr().Is6()
	}
	if !ipv6 && !in.noIPv6 {
		if err := netns.Do(in.ns, func() error { return disableIPv6(name) }); err != nil {
			return err
		}
	}
	return in.rt.Do(append(batch, rtnl.LinkUp(index))...)
}

// carrierPatience bounds the wait for the kernel's link watcher, which switches a bridge and
// its port on a moment after their carrier: packets before that would be lost, and among them
// the question for the container's MAC address, which is asked again after a second. It needs
// a lock that interfaces being deleted hold for long; then the container starts without.
const carrierPatience = 200 * time.Millisecond

func (h *Host) awaitCarrier(name string) error {
	deadline := time.Now().Add(carrierPatience)
	for pause := 50 * time.Microsecond; ; pause *= 2 {
		up, err := h.rt.Operational(name)
		if err != nil || up || time.Now().After(deadline) {
			return err
		}
		time.Sleep(pause)
	}
}

// Unplug deletes a pair by the name of its near end. It is no error if there is none.
func (h *Host) Unplug(hostName string) error { return h.rt.Do(rtnl.DeleteLink(hostName)) }

// Remove deletes the container's end of a pair, and so the pair.
func (in *Inside) Remove(name string) error { return in.rt.Do(rtnl.DeleteLink(name)) }

// Route is a default route: no interface is none, an invalid gateway leads onto the link.
type Route struct {
	Interface string
	Gateway   netip.Addr
}

// SetDefaultRoutes makes ipv4 and ipv6 the only default routes.
func (in *Inside) SetDefaultRoutes(ipv4, ipv6 Route) error {
	for _, f := range []struct {
		family int
		route  Route
	}{{unix.AF_INET, ipv4}, {unix.AF_INET6, ipv6}} {
		if f.route.Interface == "" {
			if err := in.rt.Do(rtnl.DeleteDefaultRoute(f.family)); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
				return err
			}
			continue
		}
		index, err := in.rt.Index(f.route.Interface)
		if err != nil {
			return err
		}
		if err := in.replaceDefault(index, f.route.Gateway, f.family); err != nil {
			return err
		}
	}
	return nil
}

// replaceDefault replaces the default route. IPv6 would add a second path to it where IPv4
// replaces, so that the old one is deleted first.
func (in *Inside) replaceDefault(index int, gateway netip.Addr, family int) error {
	batch := []rtnl.Request{rtnl.DefaultRoute(index, gateway, family)}
	if family == unix.AF_INET6 {
		batch = append([]rtnl.Request{rtnl.DeleteDefaultRoute(family)}, batch...)
	}
	return in.rt.Do(batch...)
}

// Interfaces returns the names of the interfaces inside, without lo.
func (in *Inside) Interfaces() ([]string, error) {
	var out []string
	err := netns.Do(in.ns, func() error {
		links, err := retried(netlink.LinkList)
		for _, l := range links {
			if l.Attrs().Flags&net.FlagLoopback == 0 {
				out = append(out, l.Attrs().Name)
			}
		}
		return err
	})
	return out, err
}

// EnableIPv6 lets an interface that is about to appear have IPv6, in a netns made without.
func (in *Inside) EnableIPv6() error {
	in.noIPv6 = false
	return netns.Do(in.ns, func() error { return prepareIPv6(true) })
}
