package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Parent is the interface of the host that the interfaces of a macvlan or ipvlan network
// are made on.
type Parent struct {
	Name string
	// Owner marks what EnsureParent makes.
	Owner string
	// Dummy makes one that leads nowhere if there is none; otherwise eth0.10 is made as
	// VLAN 10 of eth0.
	Dummy bool
}

// EnsureParent makes the parent if it does not exist. made is true if it did not. Errors are
// of class ErrInvalidArgument (a name that says no VLAN, lo), ErrNotFound (the interface
// below a VLAN), ErrNotImplemented (a kernel without dummy or VLAN interfaces).
func (h *Host) EnsureParent(p Parent) (made bool, err error) {
	link, err := h.find(p.Name)
	switch {
	case err == nil && link.Attrs().Flags&net.FlagLoopback != 0:
		return false, fmt.Errorf("loopback interface is not a valid parent link: %w", errdefs.ErrInvalidArgument)
	case err == nil:
		return false, nil
	case !errdefs.IsNotFound(err):
		return false, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = p.Name
	if p.Dummy {
		return true, h.addParent(&netlink.Dummy{LinkAttrs: attrs}, p)
	}
	below, id, err := vlanOf(p.Name)
	if err != nil {
		return false, err
	}
	master, err := h.find(below)
	if err != nil {
		return false, fmt.Errorf("parent %q: %w", p.Name, err)
	}
	attrs.ParentIndex = master.Attrs().Index
	return true, h.addParent(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}, p)
}

func (h *Host) addParent(link netlink.Link, p Parent) error {
	if err := h.handle.LinkAdd(link); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = fmt.Errorf("%w (the kernel has no %s interfaces): %w", err, link.Type(), errdefs.ErrNotImplemented)
		}
		return fmt.Errorf("make %s interface %q: %w", link.Type(), p.Name, err)
	}
	made, err := h.find(p.Name)
	if err != nil {
		return err
	}
	if err := errors.Join(h.handle.LinkSetAlias(made, ownerPrefix+p.Owner), h.handle.LinkSetUp(made)); err != nil {
		return errors.Join(fmt.Errorf("set up interface %q: %w", p.Name, err), h.handle.LinkDel(made))
	}
	return nil
}

// vlanOf reads the name of a VLAN interface, "eth0.10".
func vlanOf(name string) (below string, id int, err error) {
	below, text, ok := strings.Cut(name, ".")
	if !ok || below == "" || strings.Contains(text, ".") {
		return "", 0, fmt.Errorf("invalid subinterface vlan name %s, example formatting is eth0.10: %w", name, errdefs.ErrInvalidArgument)
	}
	if id, err = strconv.Atoi(text); err != nil {
		return "", 0, fmt.Errorf("invalid subinterface vlan name %s, example formatting is eth0.10: %w", name, errdefs.ErrInvalidArgument)
	}
	if id < 1 || id > 4094 { // IEEE 802.1Q, 9.6
		return "", 0, fmt.Errorf("vlan id must be between 1-4094, received: %d: %w", id, errdefs.ErrInvalidArgument)
	}
	return below, id, nil
}

// MAC returns the hardware address of the interface called name.
func (h *Host) MAC(name string) (net.HardwareAddr, error) {
	link, err := h.find(name)
	if err != nil {
		return nil, err
	}
	return link.Attrs().HardwareAddr, nil
}

// Uplink is an interface of a container that shares the wire of an interface of the host.
type Uplink struct {
	Parent string
	// Driver is macvlan or ipvlan; Mode and Flag are docker's words, see CheckUplink.
	Driver, Mode, Flag string

	Name      string // in the container
	MTU       int    // bytes; 0: the parent's
	MAC       net.HardwareAddr
	Addresses []netip.Prefix
}

// The modes of the drivers, by docker's words.
var (
	macvlanModes = map[string]netlink.MacvlanMode{
		"bridge": netlink.MACVLAN_MODE_BRIDGE, "private": netlink.MACVLAN_MODE_PRIVATE, "vepa": netlink.MACVLAN_MODE_VEPA, "passthru": netlink.MACVLAN_MODE_PASSTHRU,
	}
	ipvlanModes = map[string]netlink.IPVlanMode{"l2": netlink.IPVLAN_MODE_L2, "l3": netlink.IPVLAN_MODE_L3, "l3s": netlink.IPVLAN_MODE_L3S}
	ipvlanFlags = map[string]netlink.IPVlanFlag{"bridge": netlink.IPVLAN_FLAG_BRIDGE, "private": netlink.IPVLAN_FLAG_PRIVATE, "vepa": netlink.IPVLAN_FLAG_VEPA}
)

// CheckUplink refuses modes that a driver does not have, in dockerd's words.
func CheckUplink(driver, mode, flag string) error {
	_, macMode := macvlanModes[mode]
	_, ipMode := ipvlanModes[mode]
	_, ipFlag := ipvlanFlags[flag]
	switch {
	case driver == "macvlan" && !macMode:
		return fmt.Errorf("requested macvlan mode '%s' is not valid, 'bridge' mode is the macvlan driver default: %w", mode, errdefs.ErrInvalidArgument)
	case driver == "ipvlan" && !ipMode:
		return fmt.Errorf("requested ipvlan mode '%s' is not valid, 'l2' mode is the ipvlan driver default: %w", mode, errdefs.ErrInvalidArgument)
	case driver == "ipvlan" && !ipFlag:
		return fmt.Errorf("requested ipvlan flag '%s' is not valid, 'bridge' flag is the ipvlan driver default: %w", flag, errdefs.ErrInvalidArgument)
	}
	return nil
}

// PlugUplink makes the interface in the container's netns.
func (h *Host) PlugUplink(in *Inside, u Uplink) error {
	parent, err := h.find(u.Parent)
	if err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.ParentIndex, attrs.Namespace = u.Name, u.MTU, parent.Attrs().Index, netlink.NsFd(in.ns.Fd())
	var link netlink.Link
	if u.Driver == "macvlan" {
		attrs.HardwareAddr = u.MAC
		link = &netlink.Macvlan{LinkAttrs: attrs, Mode: macvlanModes[u.Mode]}
	} else {
		link = &netlink.IPVlan{LinkAttrs: attrs, Mode: ipvlanModes[u.Mode], Flag: ipvlanFlags[u.Flag]}
	}
	if err := h.handle.LinkAdd(link); err != nil {
		switch {
		case errors.Is(err, unix.EOPNOTSUPP):
			err = fmt.Errorf("%w (the kernel has no %s interfaces): %w", err, u.Driver, errdefs.ErrNotImplemented)
		case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL):
			err = fmt.Errorf("%w (the parent may be in use in another way): %w", err, errdefs.ErrConflict)
		}
		return fmt.Errorf("make %s interface on %q: %w", u.Driver, u.Parent, err)
	}
	index, err := in.rt.Index(u.Name)
	if err != nil {
		return err
	}
	if err := in.up(u.Name, index, u.Addresses); err != nil {
		return errors.Join(err, in.Remove(u.Name))
	}
	return nil
}
