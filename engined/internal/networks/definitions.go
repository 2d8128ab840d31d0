package networks

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strata/engined/internal/events"
	"strata/engined/internal/networks/firewall"
	"strata/engined/internal/networks/ipam"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/identifiers"
)

// Create makes a network. The warning is for the user, and usually empty.
func (m *Manager) Create(ctx context.Context, r CreateRequest) (def Network, warning string, err error) {
	if err := m.checkRequest(&r); err != nil {
		return Network{}, "", err
	}
	unlock := m.locks.Lock("create network") // one at a time: names and subnets are unique
	defer unlock()
	if _, err := m.byName(r.Name); err == nil {
		return Network{}, "", fmt.Errorf("network with name %s already exists: %w", r.Name, errdefs.ErrAlreadyExists)
	}
	def = Network{
		ID: identifiers.New(), Name: r.Name, Created: time.Now().UTC(), Driver: r.Driver, EnableIPv4: value(r.EnableIPv4, true), EnableIPv6: value(r.EnableIPv6, false),
		IPAM: r.IPAM, Internal: r.Internal, Attachable: r.Attachable, ConfigOnly: r.ConfigOnly, ConfigFrom: r.ConfigFrom,
		Options: maps.Clone(r.Options), Labels: maps.Clone(r.Labels),
	}
	if err := m.complete(&def); err != nil {
		return Network{}, "", err
	}
	n, err := newNetwork(def)
	if err != nil {
		return Network{}, "", err
	}
	if err := m.establish(ctx, n); err != nil {
		return Network{}, "", err
	}
	ctxlog.From(ctx).Info("network created", ctxlog.Network, n.Name, "driver", n.Driver)
	m.publish(n.Network, "create", nil)
	return n.Network, m.stopped(ctx, n), nil
}

// stopped warns of other firewalls that stop the packets of a new network.
func (m *Manager) stopped(ctx context.Context, n *network) string {
	if n.Driver != DriverBridge || n.ConfigOnly || n.Internal || m.firewall == nil {
		return ""
	}
	for _, o := range firewall.Obstacles() {
		if o.Stops(n.options.bridge) {
			remedy := o.Remedy(n.options.bridge)
			ctxlog.From(ctx).Warn("another program's firewall rules stop containers' packets; our table cannot overrule them", ctxlog.Network, n.Name, "rule", o.Rule, "remedy", remedy)
			return fmt.Sprintf("another firewall stops packets of this network (%s); to let them through: %s", o.Rule, remedy)
		}
	}
	return ""
}

// checkRequest refuses what cannot be, and fills in the driver.
func (m *Manager) checkRequest(r *CreateRequest) error {
	switch {
	case strings.TrimSpace(r.Name) == "":
		return fmt.Errorf("invalid name: name is empty: %w", errdefs.ErrInvalidArgument)
	case strings.ContainsFunc(r.Name, func(c rune) bool { return c < ' ' || c == 0x7f || c == '/' }):
		return fmt.Errorf("invalid name: %q has characters that a name must not have: %w", r.Name, errdefs.ErrInvalidArgument)
	case (Network{Name: r.Name}).Predefined() || r.Name == "default":
		return fmt.Errorf("operation is not permitted on predefined %s network: %w", r.Name, errdefs.ErrPermissionDenied)
	}
	if r.Driver == "" {
		r.Driver = DriverBridge
	}
	switch r.Driver {
	case DriverBridge, DriverMacvlan, DriverIPvlan:
	case DriverHost, DriverNone:
		return fmt.Errorf("only one instance of \"%s\" network is allowed: %w", r.Driver, errdefs.ErrPermissionDenied)
	case "overlay":
		return fmt.Errorf("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.: %w", errdefs.ErrUnavailable) //nolint:staticcheck // dockerd's words
	default:
		return fmt.Errorf("could not find plugin %s in v1 plugin registry: plugin not found: %w", r.Driver, errdefs.ErrNotFound)
	}
	if d := r.IPAM.Driver; d != "" && d != "default" {
		return fmt.Errorf("IPAM driver %q: %w", d, errdefs.ErrNotImplemented)
	}
	if r.ConfigOnly && r.ConfigFrom != "" {
		return fmt.Errorf("a configuration network cannot depend on another configuration network: %w", errdefs.ErrPermissionDenied)
	}
	if value(r.EnableIPv4, true) || value(r.EnableIPv6, false) {
		return nil
	}
	return fmt.Errorf("IPv4 or IPv6 must be enabled: %w", errdefs.ErrInvalidArgument)
}

// complete fills in what the request left open: the configuration network's part, subnets,
// gateways. Preconditions: no other network is being created.
func (m *Manager) complete(def *Network) error {
	if def.ConfigFrom != "" {
		from, err := m.byName(def.ConfigFrom)
		if err != nil {
			return err
		}
		if !from.ConfigOnly {
			return fmt.Errorf("network %s is not a configuration network: %w", def.ConfigFrom, errdefs.ErrPermissionDenied)
		}
		def.IPAM, def.Options, def.EnableIPv6, def.Internal = from.IPAM, maps.Clone(from.Options), from.EnableIPv6, from.Internal
	}
	if def.IPAM.Driver == "" {
		def.IPAM.Driver = "default"
	}
	if def.ConfigOnly {
		return nil
	}
	if m.cfg.MTU != 0 && def.Options[optMTU] == "" && def.Name == NetworkBridge {
		def.Options[optMTU] = strconv.Itoa(m.cfg.MTU)
	}
	taken, others, err := m.taken(def)
	if err != nil {
		return err
	}
	def.IPAM.Pools = slices.Clone(def.IPAM.Pools)
	if err := m.choosePools(def, append(taken, others...)); err != nil {
		return err
	}
	for i := range def.IPAM.Pools {
		if err := completePool(&def.IPAM.Pools[i], others); err != nil {
			return err
		}
		if p := def.IPAM.Pools[i].Subnet; p.Addr().Is6() {
			def.EnableIPv6 = true
		}
		others = append(others, def.IPAM.Pools[i].Subnet)
	}
	return nil
}

// choosePools adds a subnet for each family that is wanted and has none.
func (m *Manager) choosePools(def *Network, taken []netip.Prefix) error {
	for _, ipv6 := range []bool{false, true} {
		wanted := def.EnableIPv4
		if ipv6 {
			wanted = def.EnableIPv6
		}
		unset := slices.IndexFunc(def.IPAM.Pools, func(p Pool) bool { return !p.Subnet.IsValid() })
		has := slices.ContainsFunc(def.IPAM.Pools, func(p Pool) bool { return p.Subnet.IsValid() && p.Subnet.Addr().Is6() == ipv6 })
		if !wanted || has {
			continue
		}
		subnet, err := ipam.Choose(m.sources(), taken, ipv6)
		if err != nil {
			return err
		}
		if unset >= 0 && !ipv6 {
			def.IPAM.Pools[unset].Subnet = subnet
			continue
		}
		def.IPAM.Pools = append(def.IPAM.Pools, Pool{Subnet: subnet})
	}
	if slices.ContainsFunc(def.IPAM.Pools, func(p Pool) bool { return !p.Subnet.IsValid() }) {
		return fmt.Errorf("invalid pool: a pool without a subnet beside others: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// completePool checks a pool and gives it a gateway.
func completePool(p *Pool, others []netip.Prefix) error {
	if p.Subnet != p.Subnet.Masked() {
		return fmt.Errorf("invalid network config:\ninvalid subnet %s: it should be %s: %w", p.Subnet, p.Subnet.Masked(), errdefs.ErrInvalidArgument)
	}
	if _, overlaps := ipam.Overlapping(p.Subnet, others); overlaps {
		return fmt.Errorf("invalid pool request: Pool overlaps with other one on this address space: %w", errdefs.ErrPermissionDenied)
	}
	probe, err := ipam.NewPool(p.Subnet, p.Range)
	if err != nil {
		return err
	}
	for name, a := range p.Aux {
		if err := probe.Take(a); err != nil {
			return fmt.Errorf("auxiliary address %s: %w", name, err)
		}
	}
	if p.Gateway.IsValid() {
		if err := probe.Take(p.Gateway); err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		return nil
	}
	// docker takes the first address of the subnet, or of the range.
	if p.Gateway, err = probe.Next(); err != nil {
		return err
	}
	return nil
}

// sources are the prefixes that subnets are cut from: the configured ones (docker's by
// default), and for IPv6 a unique local prefix of this engine (RFC 4193).
func (m *Manager) sources() []ipam.Source {
	var out []ipam.Source
	for _, p := range m.cfg.DefaultAddressPools {
		out = append(out, ipam.Source(p))
	}
	if out == nil {
		out = ipam.DefaultSources()
	}
	if slices.ContainsFunc(out, func(s ipam.Source) bool { return s.Base.Addr().Is6() }) {
		return out
	}
	id, _ := hex.DecodeString(m.instance) // we made it: 12 hexadecimal digits
	ula := [16]byte{0xfd}
	copy(ula[1:6], id)
	return append(out, ipam.Source{Base: netip.PrefixFrom(netip.AddrFrom16(ula), 48), Size: 64})
}

// taken returns what the host uses, without the bridges of def and of ours, and what other
// networks use.
func (m *Manager) taken(def *Network) (host, networks []netip.Prefix, err error) {
	host, err = m.host.Taken()
	if err != nil {
		return nil, nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.networks {
		if n.ID == def.ID || n.ConfigOnly {
			continue
		}
		for _, p := range n.IPAM.Pools {
			networks = append(networks, p.Subnet)
		}
	}
	return host, networks, nil
}

// establish makes a new network real: bridge, firewall, record.
func (m *Manager) establish(ctx context.Context, n *network) error {
	var undo cleanup.Stack
	defer undo.Clean()
	if n.Driver == DriverBridge && !n.ConfigOnly {
		if err := m.checkBridgeName(n); err != nil {
			return err
		}
		if err := m.bridge(ctx, n, &undo); err != nil {
			return err
		}
		if m.firewall != nil {
			change := firewall.Change{Networks: []firewall.Network{n.rules()}}
			if err := m.firewall.Add(change); err != nil {
				return err
			}
			undo.Add(func() { _ = m.firewall.Remove(change) })
		}
	}
	if n.uplinked() && !n.ConfigOnly {
		if err := m.checkParent(n); err != nil {
			return err
		}
		if err := m.parent(n, &undo); err != nil {
			return err
		}
	}
	if err := failpoint.Hit("networks/create/built"); err != nil {
		return err
	}
	if err := m.records.Put(n.ID, n.Network); err != nil {
		return err
	}
	// Point of no return: the record is durable.
	failpoint.Pass("networks/create/recorded")
	undo.Release()
	m.mu.Lock()
	m.networks[n.ID] = n
	m.mu.Unlock()
	return nil
}

// checkBridgeName refuses a bridge that another network of this engine has.
func (m *Manager) checkBridgeName(n *network) error {
	for _, other := range m.sorted() {
		if other.Driver == DriverBridge && other.ID != n.ID && other.options.bridge == n.options.bridge {
			return fmt.Errorf("networks have same bridge name %q: %w", n.options.bridge, errdefs.ErrPermissionDenied)
		}
	}
	return nil
}

// byName finds a network by its exact name.
func (m *Manager) byName(name string) (*network, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.networks {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("network %s not found: %w", name, errdefs.ErrNotFound)
}

// find finds a network by id, name or unambiguous prefix of an id, in this order.
func (m *Manager) find(ref string) (*network, error) {
	if ref == "default" {
		ref = NetworkBridge
	}
	m.mu.Lock()
	n, ok := m.networks[ref]
	m.mu.Unlock()
	if ok {
		return n, nil
	}
	if n, err := m.byName(ref); err == nil {
		return n, nil
	}
	var found []*network
	m.mu.Lock()
	for id, n := range m.networks {
		if ref != "" && strings.HasPrefix(id, ref) {
			found = append(found, n)
		}
	}
	m.mu.Unlock()
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("network %s not found: %w", ref, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("network %s is ambiguous (%d matches found based on ID prefix): %w", ref, len(found), errdefs.ErrInvalidArgument)
}

// Network finds a network by id, name or unambiguous prefix of an id, in this order.
// "default" means bridge.
func (m *Manager) Network(ref string) (Network, error) {
	n, err := m.find(ref)
	if err != nil {
		return Network{}, err
	}
	return n.Network, nil
}

// Networks returns all networks, the newest last.
func (m *Manager) Networks() []Network {
	var out []Network
	for _, n := range m.sorted() {
		out = append(out, n.Network)
	}
	return out
}

// Attached returns the endpoints on a network, by container id.
func (m *Manager) Attached(networkID string) []Attachment {
	var out []Attachment
	m.mu.Lock()
	for id, sb := range m.sandboxes {
		for _, e := range sb.endpoints {
			if e.NetworkID == networkID && sb.ready {
				out = append(out, Attachment{id, sb.request.ContainerName, e})
			}
		}
	}
	m.mu.Unlock()
	slices.SortFunc(out, func(a, b Attachment) int { return strings.Compare(a.ContainerID, b.ContainerID) })
	return out
}

// Remove deletes a network that has no endpoints.
func (m *Manager) Remove(ctx context.Context, ref string) error {
	n, err := m.find(ref)
	if err != nil {
		return err
	}
	if n.Predefined() {
		return fmt.Errorf("%s is a pre-defined network and cannot be removed: %w", n.Name, errdefs.ErrPermissionDenied)
	}
	unlock := m.locks.Lock("create network")
	defer unlock()
	if err := m.unlist(n); err != nil {
		return fmt.Errorf("error while removing network: %w", err)
	}
	failpoint.Pass("networks/remove/unlisted")
	if n.Driver == DriverBridge && !n.ConfigOnly {
		if m.firewall != nil {
			err = m.firewall.Remove(firewall.Change{Networks: []firewall.Network{n.rules()}})
		}
		if err := errors.Join(err, m.host.Delete(n.options.bridge, m.owner(n))); err != nil {
			ctxlog.From(ctx).Warn("network was removed, but something of it is left", ctxlog.Network, n.Name, ctxlog.Error, err)
		}
	}
	if n.uplinked() && !n.ConfigOnly {
		if err := m.removeParent(n); err != nil {
			ctxlog.From(ctx).Warn("network was removed, but its parent interface is left", ctxlog.Network, n.Name, ctxlog.Error, err)
		}
	}
	if err := m.forgetMembers(n); err != nil {
		ctxlog.From(ctx).Warn("network was removed, but its file of names is left until the engine starts again", ctxlog.Network, n.Name, ctxlog.Error, err)
	}
	ctxlog.From(ctx).Info("network removed", ctxlog.Network, n.Name)
	m.publish(n.Network, "destroy", nil)
	return nil
}

// unlist takes a network without endpoints off the list and deletes its record: from then
// on no container can join, and what is left of it in the kernel is a leak to be cleaned.
func (m *Manager) unlist(n *network) error {
	if err := m.retire(n); err != nil {
		return err
	}
	err := m.records.Delete(n.ID)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		n.retired = false
		return err
	}
	delete(m.networks, n.ID)
	return nil
}

// retire keeps containers from joining a network, unless some are there.
func (m *Manager) retire(n *network) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var users []string
	for _, sb := range m.sandboxes {
		for _, e := range sb.endpoints {
			if e.NetworkID == n.ID {
				users = append(users, fmt.Sprintf("name:%q id:%q", sb.request.ContainerName, identifiers.Short(e.ID)))
			}
		}
	}
	if len(users) > 0 {
		slices.Sort(users)
		return fmt.Errorf("network %s has active endpoints (%s): %w", n.Name, strings.Join(users, ", "), errdefs.ErrPermissionDenied)
	}
	for _, other := range m.networks {
		if n.ConfigOnly && other.ConfigFrom == n.Name {
			return fmt.Errorf("configuration network %q is in use: %w", n.Name, errdefs.ErrPermissionDenied)
		}
	}
	n.retired = true
	return nil
}

// Prune removes the networks without endpoints that match, and returns their names.
func (m *Manager) Prune(ctx context.Context, match func(Network) bool) ([]string, error) {
	var names []string
	for _, n := range m.Networks() {
		if n.Predefined() || !match(n) {
			continue
		}
		err := m.Remove(ctx, n.ID)
		if errdefs.IsPermissionDenied(err) || errdefs.IsNotFound(err) {
			continue // in use, or gone already
		}
		if err != nil {
			return names, err
		}
		names = append(names, n.Name)
	}
	if m.cfg.Events != nil {
		m.cfg.Events.Publish(events.Event{Type: "network", Action: "prune", Attributes: map[string]string{"reclaimed": "0"}})
	}
	return names, nil
}

func value(p *bool, def bool) bool {
	if p == nil {
		return def
	}
	return *p
}
