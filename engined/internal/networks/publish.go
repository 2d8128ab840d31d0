package networks

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"strata/engined/internal/networks/firewall"
	"strata/engined/internal/networks/ports"
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
			HostIP: p.HostIP, First: p.HostPort, Last: p.HostPortEnd, RelayAll: !m.cfg.IPTables,
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

// lead returns where host ports lead: to the address, or nowhere if it is opened itself.
func (p *publication) lead(to netip.AddrPort, mode firewall.Mode) netip.AddrPort {
	if mode != firewall.Routed {
		return to
	}
	p.opened = append(p.opened, firewall.Port{Proto: p.mapping.Proto, To: to, Routed: true})
	return netip.AddrPort{}
}

// publishPorts reserves the host ports of a sandbox and makes them lead to it, in one
// firewall transaction. On an error nothing is published. Preconditions: the container's
// lock is held; no port of the sandbox is published.
func (m *Manager) publishPorts(sb *sandbox, mappings []PortMapping) (err error) {
	var leases []*ports.Lease
	var rules []firewall.Port
	var mapped []PortMapping
	defer func() {
		if err != nil {
			for _, l := range leases {
				m.ledger.Release(l)
			}
		}
	}()
	for _, p := range m.publishedPlan(sb, mappings) {
		rules = append(rules, p.opened...)
		done := p.mapping
		if p.translated() {
			lease, err := m.ledger.Reserve(p.wish)
			if err != nil {
				return m.portError(sb, err)
			}
			leases = append(leases, lease)
			rules = append(rules, p.rules(lease)...)
			done.HostIP, done.HostPort, done.HostPortEnd = lease.HostIP, lease.Port, 0
		} else {
			done.HostPort, done.HostPortEnd = 0, 0
		}
		mapped = append(mapped, done)
	}
	if m.firewall != nil && len(rules) > 0 {
		if err := m.host.ForgetFlows(udpPorts(mapped)); err != nil {
			return err
		}
		if err := m.firewall.Add(firewall.Change{Ports: rules}); err != nil {
			return err
		}
	}
	sb.leases, sb.rules, sb.mapped = leases, rules, mapped
	return nil
}

// withdrawPorts takes back what publishPorts did. Preconditions: the container's lock is
// held.
func (m *Manager) withdrawPorts(sb *sandbox) error {
	var err error
	if m.firewall != nil && len(sb.rules) > 0 {
		err = m.firewall.Remove(firewall.Change{Ports: sb.rules})
	}
	for _, l := range sb.leases {
		m.ledger.Release(l)
	}
	if ferr := m.host.ForgetFlows(udpPorts(sb.mapped)); err == nil {
		err = ferr
	}
	sb.leases, sb.rules, sb.mapped = nil, nil, nil
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
