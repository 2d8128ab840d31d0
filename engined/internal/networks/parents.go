package networks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/containerd/errdefs"

	"strata/engined/internal/networks/bridge"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/identifiers"
	"strata/pkg/linux/netns"
)

// uplink is what the options of a macvlan or ipvlan network say.
type uplink struct {
	parent string
	dummy  bool // no parent was named: containers see only each other
	mode   string
	flag   string
}

// passthru gives the whole parent to one container.
const passthru = "passthru"

// parseUplink reads the options of a macvlan or ipvlan network.
func parseUplink(n Network) (uplink, error) {
	u := uplink{parent: n.Options[optParent], mode: "bridge", flag: "bridge"}
	mode := n.Options[optMacvlanMode]
	if n.Driver == DriverIPvlan {
		u.mode, mode = "l2", n.Options[optIPvlanMode]
		if f := n.Options[optIPvlanFlag]; f != "" {
			u.flag = f
		}
	}
	if mode != "" {
		u.mode = mode
	}
	if err := bridge.CheckUplink(n.Driver, u.mode, u.flag); err != nil {
		return u, err
	}
	if u.parent == "" {
		u.parent, u.dummy = "dm-"+identifiers.Short(n.ID), true // docker's name for it
	}
	return u, validInterface(u.parent)
}

// routesItself reports whether containers on n route onto the link: there is no gateway to
// ask in ipvlan's modes l3 and l3s.
func (n *network) routesItself() bool {
	return n.Driver == DriverIPvlan && n.options.uplink.mode != "l2"
}

// uplinked reports whether n hangs on an interface of the host.
func (n *network) uplinked() bool { return n.Driver == DriverMacvlan || n.Driver == DriverIPvlan }

// parentOwner marks parents that we made, of whatever network: several share a VLAN.
func (m *Manager) parentOwner() string { return m.instance + ":" + parentOwned }

const parentOwned = "parent"

// parent makes the parent of a network if it is one that we may make. undo may be nil.
func (m *Manager) parent(n *network, undo *cleanup.Stack) error {
	u := n.options.uplink
	made, err := m.host.EnsureParent(bridge.Parent{Name: u.parent, Owner: m.parentOwner(), Dummy: u.dummy})
	if err != nil {
		return err
	}
	if made && undo != nil {
		undo.Add(func() { _ = m.host.Delete(u.parent, m.parentOwner()) })
	}
	return nil
}

// checkParent refuses a parent that another network has in a way that excludes this one.
func (m *Manager) checkParent(n *network) error {
	for _, other := range m.sorted() {
		a, b := n.options.uplink, other.options.uplink
		if !other.uplinked() || other.ConfigOnly || other.ID == n.ID || a.parent != b.parent {
			continue
		}
		// One parent carries macvlan or ipvlan, and ipvlan in one mode. Source: Linux
		// drivers/net/{macvlan,ipvlan}, netdev_rx_handler_register, ipvlan_set_port_mode.
		if a.mode == passthru || b.mode == passthru || n.Driver != other.Driver || n.Driver == DriverIPvlan && (a.mode != b.mode || a.flag != b.flag) {
			return fmt.Errorf("network %s is already using parent interface %s: %w", other.Name, a.parent, errdefs.ErrPermissionDenied)
		}
	}
	return nil
}

// removeParent deletes the parent of a network that is gone, if we made it and no other
// network has it.
func (m *Manager) removeParent(n *network) error {
	if m.parentUsed(n.options.uplink.parent) {
		return nil
	}
	return m.host.Delete(n.options.uplink.parent, m.parentOwner())
}

func (m *Manager) parentUsed(parent string) bool {
	for _, n := range m.sorted() {
		if n.uplinked() && !n.ConfigOnly && n.options.uplink.parent == parent {
			return true
		}
	}
	return false
}

// plugUplink makes an endpoint's interface on the parent of its network.
func (m *Manager) plugUplink(ctx context.Context, in *bridge.Inside, n *network, e Endpoint) error {
	u := n.options.uplink
	up := bridge.Uplink{Parent: u.parent, Driver: n.Driver, Mode: u.mode, Flag: u.flag, Name: e.Interface, MTU: n.options.mtu, MAC: e.MAC}
	if u.mode == passthru {
		up.MAC = nil // the parent's
	}
	for _, a := range []netip.Prefix{e.IPv4, e.IPv6} {
		if a.IsValid() {
			up.Addresses = append(up.Addresses, a)
		}
	}
	err := m.host.PlugUplink(in, up)
	if errdefs.IsNotFound(err) {
		ctxlog.From(ctx).Debug("parent is missing and made again", ctxlog.Network, n.Name, ctxlog.Error, err)
		if err := m.parent(n, nil); err != nil {
			return fmt.Errorf("connect to network %s: %w", n.Name, err)
		}
		err = m.host.PlugUplink(in, up)
	}
	if err != nil {
		return fmt.Errorf("connect to network %s: %w", n.Name, err)
	}
	return nil
}

// unplugUplinks deletes what endpoints have on interfaces of the host: with the netns it
// would go too, but later, and until then its MAC address is taken.
func (m *Manager) unplugUplinks(containerID string, endpoints []Endpoint) error {
	var names []string
	for _, e := range endpoints {
		if e.HostVeth == "" && e.Interface != "" {
			names = append(names, e.Interface)
		}
	}
	if len(names) == 0 || !netns.Is(m.cfg.netnsPath(containerID)) {
		return nil
	}
	in, err := bridge.EnterNetns(m.cfg.netnsPath(containerID))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		err = errors.Join(err, in.Remove(name))
	}
	return errors.Join(err, in.Close())
}
