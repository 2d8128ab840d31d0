package networks

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"time"

	"strata/engined/internal/networks/bridge"
	"strata/engined/internal/networks/firewall"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/identifiers"
)

// owner marks the bridge of a network of ours.
func (m *Manager) owner(n *network) string { return m.instance + ":" + n.ID }

// bridge makes the bridge of a network as it should be. undo may be nil.
func (m *Manager) bridge(ctx context.Context, n *network, undo *cleanup.Stack) error {
	n.bridging.Lock()
	defer n.bridging.Unlock()
	spec := bridge.Spec{Name: n.options.bridge, Owner: m.owner(n), MTU: n.options.mtu}
	for _, p := range n.IPAM.Pools {
		mode := n.options.mode4
		if p.Subnet.Addr().Is6() {
			mode = n.options.mode6
		}
		if mode != firewall.Isolated && p.Gateway.IsValid() {
			spec.Addresses = append(spec.Addresses, netip.PrefixFrom(p.Gateway, p.Subnet.Bits()))
		}
	}
	index, made, err := m.host.Ensure(spec)
	if err != nil {
		return err
	}
	if made && undo != nil {
		undo.Add(func() { _ = m.host.Delete(spec.Name, spec.Owner) })
	}
	n.index.Store(int64(index))
	if made {
		m.reattach(ctx, n)
	}
	if m.cfg.IPTables {
		// Without our table nobody would stop packets for 127.0.0.1 from outside.
		if err := bridge.RouteLocalnet(ctx, spec.Name); err != nil {
			return err
		}
	}
	return m.forward(ctx, n)
}

// predefine makes the records of bridge, host and none, and brings that of bridge in line
// with the configuration.
func (m *Manager) predefine(ctx context.Context) error {
	for _, def := range []Network{{Name: NetworkHost, Driver: DriverHost}, {Name: NetworkNone, Driver: DriverNone}} {
		if _, err := m.byName(def.Name); err == nil {
			continue
		}
		def.EnableIPv4 = true
		if err := m.define(def); err != nil {
			return err
		}
	}
	old, err := m.byName(NetworkBridge)
	if m.cfg.BridgeName == "none" {
		if err == nil {
			m.mu.Lock()
			delete(m.networks, old.ID)
			m.mu.Unlock()
			return m.records.Delete(old.ID)
		}
		return nil
	}
	def := m.defaultBridge()
	if err == nil {
		if m.unchanged(old.Network, def) {
			return nil
		}
		ctxlog.From(ctx).Info("default bridge follows the configuration", ctxlog.Network, NetworkBridge)
		def.ID, def.Created = old.ID, old.Created
		if !m.cfg.Bip.IsValid() && old.options.bridge == m.cfg.BridgeName {
			def.IPAM = old.IPAM // the subnet stays
		}
	}
	return m.define(def)
}

// define completes and stores a predefined network.
func (m *Manager) define(def Network) error {
	if def.ID == "" {
		def.ID, def.Created = identifiers.New(), time.Now().UTC()
	}
	if def.Driver == DriverBridge {
		if err := m.complete(&def); err != nil {
			return fmt.Errorf("default bridge: %w", err)
		}
	} else {
		def.IPAM.Driver = "default"
	}
	n, err := newNetwork(def)
	if err != nil {
		return err
	}
	if err := m.records.Put(def.ID, def); err != nil {
		return err
	}
	m.mu.Lock()
	m.networks[def.ID] = n
	m.mu.Unlock()
	return nil
}

// defaultBridge is the network "bridge" as configured, without subnets that are to be
// chosen.
func (m *Manager) defaultBridge() Network {
	c := m.cfg
	mtu := c.MTU
	if mtu == 0 {
		mtu = 1500
	}
	def := Network{Name: NetworkBridge, Driver: DriverBridge, EnableIPv4: true, EnableIPv6: c.IPv6, Options: map[string]string{
		optDefault: "true", optICC: strconv.FormatBool(c.ICC), optMasquerade: strconv.FormatBool(c.IPMasq),
		optHostBinding4: "0.0.0.0", optBridgeName: c.BridgeName, optMTU: strconv.Itoa(mtu),
	}}
	if c.BindIP.Is4() {
		def.Options[optHostBinding4] = c.BindIP.String()
	}
	for _, p := range []netip.Prefix{c.Bip, c.Bip6} {
		if !p.IsValid() {
			continue
		}
		pool := Pool{Subnet: p.Masked(), Gateway: p.Addr()}
		if c.FixedCIDR.IsValid() && c.FixedCIDR.Addr().Is4() == p.Addr().Is4() {
			pool.Range = c.FixedCIDR
		}
		def.IPAM.Pools = append(def.IPAM.Pools, pool)
	}
	return def
}

// unchanged reports whether a stored default bridge is what the configuration wants.
func (m *Manager) unchanged(old, want Network) bool {
	if old.EnableIPv6 != want.EnableIPv6 || !maps.Equal(old.Options, want.Options) {
		return false
	}
	for _, p := range want.IPAM.Pools {
		found := false
		for _, o := range old.IPAM.Pools {
			found = found || o.Subnet == p.Subnet && o.Gateway == p.Gateway && o.Range == p.Range
		}
		if !found {
			return false
		}
	}
	return true
}
