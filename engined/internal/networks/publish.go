package networks

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"strata/engined/internal/networks/firewall"
	"strata/engined/internal/networks/ports"
	"strata/pkg/ctxlog"
	"strata/pkg/identifiers"
)

// publication is one port mapping on its way to a lease and rules.
type publication struct {
	mapping PortMapping
	wish    ports.Wish
	// opened are the container's own addresses that the port is opened on, in networks of
	// the gateway mode routed.
	opened []firewall.Port
}

// translated reports whether a port of the host leads to the container.
func (p publication) translated() bool { return p.wish.To4.IsValid() || p.wish.To6.IsValid() }

// published are the endpoints through which ports are published, per family: the ones that
// hold the default routes.
func (m *Manager) published(sb *sandbox) (via4, via6 *Endpoint, n4, n6 *network) {
	for _, e := range byGatewayPriority(sb.endpoints) {
		n, err := m.find(e.NetworkID)
		if err != nil || n.Driver != DriverBridge || n.Internal {
			continue
		}
		if via4 == nil && e.IPv4.IsValid() {
			via4, n4 = &e, n
		}
		if via6 == nil && e.IPv6.IsValid() {
			via6, n6 = &e, n
		}
	}
	return via4, via6, n4, n6
}

// byGatewayPriority orders endpoints as docker does: the highest priority, then the network's
// name.
func byGatewayPriority(endpoints []Endpoint) []Endpoint {
	out := slices.Clone(endpoints)
	slices.SortStableFunc(out, func(a, b Endpoint) int {
		switch {
		case a.GwPriority != b.GwPriority:
			return b.GwPriority - a.GwPriority
		case a.NetworkName < b.NetworkName:
			return -1
		case a.NetworkName > b.NetworkName:
			return 1
		}
		return 0
	})
	return out
}

// publishedPlan says for each mapping where it leads. Without an endpoint that could take
// them nothing is published, as with docker.
func (m *Manager) publishedPlan(sb *sandbox, mappings []PortMapping) []publication {
	via4, via6, n4, n6 := m.published(sb)
	var out []publication
	for _, p := range mappings {
		pub := publication{mapping: p, wish: ports.Wish{
			Owner: sb.request.ContainerID, Name: sb.request.ContainerName, Proto: p.Proto,
			HostIP: p.HostIP, First: p.HostPort, Last: p.HostPortEnd, RelayAll: !m.cfg.IPTables || m.cfg.RespectHost,
		}}
		if via4 != nil {
			pub.wish.To4 = pub.lead(netip.AddrPortFrom(via4.IPv4.Addr(), p.ContainerPort), n4.options.mode4)
		}
		if via6 != nil {
			pub.wish.To6 = pub.lead(netip.AddrPortFrom(via6.IPv6.Addr(), p.ContainerPort), n6.options.mode6)
		}
		if !p.HostIP.IsValid() {
			pub.wish.HostIP = m.bindAddress(n4, n6)
		}
		if via4 == nil && via6 == nil {
			continue
		}
		out = append(out, pub)
	}
	return out
}

// bindAddress is where ports without an address are published.
func (m *Manager) bindAddress(n4, n6 *network) netip.Addr {
	if n4 != nil && n4.options.binding4.IsValid() && !n4.options.binding4.IsUnspecified() {
		return n4.options.binding4
	}
	if n6 != nil && n6.options.binding6.IsValid() && !n6.options.binding6.IsUnspecified() {
		return n6.options.binding6
	}
	return m.cfg.BindIP
}

// rules is what the firewall does for a lease.
func (p publication) rules(l *ports.Lease) []firewall.Port {
	var out []firewall.Port
	for _, f := range []struct {
		on bool
		to netip.AddrPort
	}{{l.NAT4, p.wish.To4}, {l.NAT6, p.wish.To6}} {
		if f.on {
			out = append(out, firewall.Port{Proto: p.mapping.Proto, HostIP: l.HostIP, HostPort: l.Port, To: f.to})
		}
	}
	return out
}

// planned is what rules does, for a mapping whose port is known.
func (p publication) planned() []firewall.Port {
	var out []firewall.Port
	for _, to := range []netip.AddrPort{p.wish.To4, p.wish.To6} {
		if to.IsValid() && (!p.wish.HostIP.IsValid() || p.wish.HostIP.Is4() == to.Addr().Is4()) {
			out = append(out, firewall.Port{Proto: p.mapping.Proto, HostIP: p.wish.HostIP, HostPort: p.mapping.HostPort, To: to})
		}
	}
	return out
}

// lead returns where host ports lead: to the address, or nowhere if it is opened itself.
func (p *publication) lead(to netip.AddrPort, mode firewall.Mode) netip.AddrPort {
	if mode != firewall.Routed {
		return to
	}
	p.opened = append(p.opened, firewall.Port{Proto: p.mapping.Proto, To: to, Routed: true})
	return netip.AddrPort{}
}

// published ports of a sandbox: what is held, what the firewall does, and what both mean.
type publishedPorts struct {
	leases []*ports.Lease
	rules  []firewall.Port
	mapped []PortMapping
}

// and returns both, and changes neither: readers have slices of them.
func (p publishedPorts) and(q publishedPorts) publishedPorts {
	return publishedPorts{slices.Concat(p.leases, q.leases), slices.Concat(p.rules, q.rules), slices.Concat(p.mapped, q.mapped)}
}

// split parts the ports of a sandbox in those of remove and the others. Preconditions: the
// container's lock is held.
func (sb *sandbox) split(remove []PortMapping) (gone, kept publishedPorts) {
	host := map[PortMapping]bool{}   // of translated ports
	inside := map[PortMapping]bool{} // of opened ones
	for _, p := range sb.mapped {
		if !slices.Contains(remove, p) {
			kept.mapped = append(kept.mapped, p)
			continue
		}
		gone.mapped = append(gone.mapped, p)
		if p.HostPort != 0 {
			host[PortMapping{Proto: p.Proto, HostIP: p.HostIP, HostPort: p.HostPort}] = true
		} else {
			inside[PortMapping{Proto: p.Proto, ContainerPort: p.ContainerPort}] = true
		}
	}
	for _, l := range sb.leases {
		if host[PortMapping{Proto: l.Proto, HostIP: l.HostIP, HostPort: l.Port}] {
			gone.leases = append(gone.leases, l)
		} else {
			kept.leases = append(kept.leases, l)
		}
	}
	for _, r := range sb.rules {
		if r.Routed && inside[PortMapping{Proto: r.Proto, ContainerPort: r.To.Port()}] || !r.Routed && host[PortMapping{Proto: r.Proto, HostIP: r.HostIP, HostPort: r.HostPort}] {
			gone.rules = append(gone.rules, r)
		} else {
			kept.rules = append(kept.rules, r)
		}
	}
	return gone, kept
}

// reserve takes host ports for a sandbox and makes them lead to it, in one firewall
// transaction. On an error nothing is published. Preconditions: the container's lock is
// held; none of mappings is published.
func (m *Manager) reserve(sb *sandbox, mappings []PortMapping) (out publishedPorts, err error) {
	defer func() {
		if err != nil {
			for _, l := range out.leases {
				m.ledger.Release(l)
			}
			out = publishedPorts{}
		}
	}()
	for _, p := range m.publishedPlan(sb, mappings) {
		if m.cfg.RespectHost && p.translated() && !ports.Relayed(p.mapping.Proto) {
			return out, fmt.Errorf("publish port %d/%s: with publish=respect-host only tcp and udp ports can be published: %w", p.mapping.ContainerPort, p.mapping.Proto, errdefs.ErrNotImplemented)
		}
		out.rules = append(out.rules, p.opened...)
		done := p.mapping
		if p.translated() {
			lease, err := m.ledger.Reserve(p.wish)
			if err != nil {
				return out, m.portError(sb, err)
			}
			out.leases = append(out.leases, lease)
			out.rules = append(out.rules, p.rules(lease)...)
			done.HostIP, done.HostPort, done.HostPortEnd = lease.HostIP, lease.Port, 0
		} else {
			done.HostPort, done.HostPortEnd = 0, 0
		}
		out.mapped = append(out.mapped, done)
	}
	if m.firewall != nil && len(out.rules) > 0 {
		if err := m.host.ForgetFlows(udpPorts(out.mapped)); err != nil {
			return out, err
		}
		if err := m.firewall.Add(firewall.Change{Ports: out.rules}); err != nil {
			return out, err
		}
	}
	return out, nil
}

// publishPorts publishes the ports of a sandbox that has none. Preconditions: the
// container's lock is held.
func (m *Manager) publishPorts(sb *sandbox, mappings []PortMapping) error {
	p, err := m.reserve(sb, mappings)
	if err == nil {
		sb.publishedPorts = p
	}
	return err
}

// withdrawPorts takes back what publishPorts did. Preconditions: the container's lock is
// held.
func (m *Manager) withdrawPorts(sb *sandbox) error {
	p := sb.publishedPorts
	sb.publishedPorts = publishedPorts{}
	return m.unpublish(p)
}

// unpublish takes ports back, as far as it can be done if there is an error.
func (m *Manager) unpublish(p publishedPorts) error {
	var err error
	if m.firewall != nil && len(p.rules) > 0 {
		err = m.firewall.Remove(firewall.Change{Ports: p.rules})
	}
	for _, l := range p.leases {
		m.ledger.Release(l)
	}
	if ferr := m.host.ForgetFlows(udpPorts(p.mapped)); err == nil {
		err = ferr
	}
	return err
}

// udpPorts are the host ports whose flows outlive their meaning: connection tracking
// remembers where a UDP flow went for as long as packets come.
func udpPorts(mappings []PortMapping) []uint16 {
	var out []uint16
	for _, p := range mappings {
		if p.Proto == "udp" && p.HostPort != 0 {
			out = append(out, p.HostPort)
		}
	}
	return out
}

// portError says in dockerd's words what could not be published.
func (m *Manager) portError(sb *sandbox, err error) error {
	via, via6, _, _ := m.published(sb)
	if via == nil {
		via = via6
	}
	return fmt.Errorf("driver failed programming external connectivity on endpoint %s (%s): %w", sb.request.ContainerName, via.ID, err)
}

// checkPorts refuses mappings that mean nothing.
func checkPorts(mappings []PortMapping) error {
	for _, p := range mappings {
		switch {
		case p.Proto != "tcp" && p.Proto != "udp" && p.Proto != "sctp":
			return fmt.Errorf("invalid protocol %q of port %d: %w", p.Proto, p.ContainerPort, errdefs.ErrInvalidArgument)
		case p.ContainerPort == 0:
			return fmt.Errorf("invalid container port 0: %w", errdefs.ErrInvalidArgument)
		case p.HostPortEnd != 0 && p.HostPortEnd < p.HostPort:
			return fmt.Errorf("invalid host port range %d-%d: %w", p.HostPort, p.HostPortEnd, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// newEndpointID returns the id of an endpoint, and the name of its interface on the host.
func newEndpointID() (id, veth string) {
	id = identifiers.New()
	return id, "veth" + id[:7]
}

// UpdatePorts withdraws ports of a running container, as Sandbox lists them, and publishes
// others. Ports in neither list are not touched. On an error all is as before, if nobody took
// a withdrawn port meanwhile. Errors are those of Join about ports, and of class ErrNotFound
// for a container that has no network.
func (m *Manager) UpdatePorts(ctx context.Context, containerID string, remove, add []PortMapping) (Sandbox, error) {
	if err := checkPorts(add); err != nil {
		return Sandbox{}, err
	}
	unlock := m.locks.Lock(containerID)
	defer unlock()
	m.mu.Lock()
	sb := m.sandboxes[containerID]
	m.mu.Unlock()
	if sb == nil {
		return Sandbox{}, fmt.Errorf("network of container %s: %w", containerID, errdefs.ErrNotFound)
	}
	gone, kept := sb.split(remove)
	if err := m.unpublish(gone); err != nil {
		return Sandbox{}, err
	}
	sb.publishedPorts = kept
	fresh, err := m.reserve(sb, add)
	if err != nil {
		// The ports were ours a moment ago.
		old, rerr := m.reserve(sb, gone.mapped)
		if sb.publishedPorts = kept.and(old); rerr != nil {
			ctxlog.From(ctx).Warn("withdrawn ports could not be published again", ctxlog.ContainerID, containerID, ctxlog.Error, rerr)
		}
		return Sandbox{}, err
	}
	sb.publishedPorts = kept.and(fresh)
	sb.request.Ports = sb.mapped // what the next change of networks publishes again
	box := m.show(sb)
	return box, m.save(sb)
}
