package containers

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"strata/engined/internal/networks"
	"strata/engined/internal/store"
	"strata/pkg/api"
	"strata/pkg/ctxlog"
)

// PortMatch chooses published ports. Zero fields match everything.
type PortMatch struct {
	Proto         string
	ContainerPort uint16
	HostIP        netip.Addr
	First, Last   uint16 // host ports; Last 0 is First alone
}

// String returns the words that ask for it.
func (p PortMatch) String() string {
	s := hostPort(p.First, p.Last)
	if p.HostIP.IsValid() {
		s = p.HostIP.String() + ":" + s
	}
	if p.ContainerPort != 0 {
		s += ":" + strconv.Itoa(int(p.ContainerPort))
	}
	if p.Proto != "" {
		s += "/" + p.Proto
	}
	return s
}

func (p PortMatch) matches(m networks.PortMapping) bool {
	last, mLast := max(p.Last, p.First), max(m.HostPortEnd, m.HostPort)
	return (p.Proto == "" || p.Proto == m.Proto) && (p.ContainerPort == 0 || p.ContainerPort == m.ContainerPort) &&
		(!p.HostIP.IsValid() || p.HostIP == m.HostIP) && (p.First == 0 || p.First <= mLast && m.HostPort <= last && m.HostPort != 0)
}

// UpdatePorts withdraws published ports of a container and publishes others, at once if it
// runs and for all its later starts. Either all of it happens or nothing. Connections that
// exist go on.
//
// Errors are of class ErrNotFound (nothing is published there), ErrInvalidArgument, or a
// *ports.ConflictError that names who has the port.
func (s *Service) UpdatePorts(ctx context.Context, ref string, remove []PortMatch, add []networks.PortMapping) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	old := c.Definition()
	mode := old.Host.NetworkMode
	if mode.IsContainer() || mode.IsHost() || mode.IsNone() {
		return invalid("conflicting options: port publishing and the network mode %s", mode)
	}
	now, err := portMappings(old)
	if err != nil {
		return err
	}
	sb, joined := s.Networks.Sandbox(c.ID)
	if joined {
		now = sb.Ports
	}
	gone, err := matched(old.Name, now, remove)
	if err != nil {
		return err
	}
	d := withPorts(old, gone, add)
	if err := validatePorts(d.Host); err != nil {
		return err
	}
	if joined {
		if sb, err = s.Networks.UpdatePorts(ctx, c.ID, gone, add); err != nil {
			return err
		}
	}
	if err := s.Store.Update(d); err != nil {
		if joined {
			added := slices.DeleteFunc(slices.Clone(sb.Ports), func(m networks.PortMapping) bool { return slices.Contains(now, m) })
			if _, uerr := s.Networks.UpdatePorts(ctx, c.ID, added, gone); uerr != nil {
				ctxlog.From(ctx).Warn("published ports are not as the definition says until the next start", ctxlog.ContainerID, c.ID, ctxlog.Error, uerr)
			}
		}
		return err
	}
	c.def.Store(d) // Point of no return: the ports are stored.
	s.publish(c, "update")
	return nil
}

// matched returns the mappings that are chosen; each choice must find one.
func matched(name string, now []networks.PortMapping, remove []PortMatch) ([]networks.PortMapping, error) {
	var gone []networks.PortMapping
	for _, r := range remove {
		found := false
		for _, m := range now {
			if r.matches(m) {
				found = true
				if !slices.Contains(gone, m) {
					gone = append(gone, m)
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("no port %s of container %s is published: %w", r, name, errdefs.ErrNotFound)
		}
	}
	return gone, nil
}

// withPorts returns a copy of a definition without the mappings gone and with add.
func withPorts(old *store.Definition, gone, add []networks.PortMapping) *store.Definition {
	d, host, config := *old, *old.Host, *old.Config
	d.Host, d.Config = &host, &config
	bindings, exposed := maps.Clone(host.PortBindings), maps.Clone(config.ExposedPorts)
	if bindings == nil {
		bindings = network.PortMap{}
	}
	if exposed == nil {
		exposed = network.PortSet{}
	}
	host.PortBindings, config.ExposedPorts = bindings, exposed
	if host.PublishAllPorts && len(gone) > 0 { // say it port by port, so that one can go
		host.PublishAllPorts = false
		for p := range exposed {
			if _, ok := bindings[p]; !ok {
				bindings[p] = []network.PortBinding{{}}
			}
		}
	}
	for _, m := range gone {
		p, ok := network.PortFrom(m.ContainerPort, network.IPProtocol(m.Proto))
		if !ok {
			continue
		}
		rest := withoutBinding(bindings[p], m)
		if bindings[p] = rest; len(rest) == 0 {
			delete(bindings, p)
		}
	}
	for _, m := range add {
		p, ok := network.PortFrom(m.ContainerPort, network.IPProtocol(m.Proto))
		if !ok {
			continue
		}
		exposed[p] = struct{}{}
		bindings[p] = append(slices.Clone(bindings[p]), network.PortBinding{HostIP: m.HostIP, HostPort: hostPort(m.HostPort, m.HostPortEnd)})
	}
	return &d
}

// withoutBinding leaves out the binding that a mapping most likely came from: one that names
// its port, then one of a range with it, then one that leaves the port open.
func withoutBinding(bindings []network.PortBinding, m networks.PortMapping) []network.PortBinding {
	best, at := 0, -1
	for i, b := range bindings {
		first, last, err := parseHostPort(b.HostPort)
		if err != nil || b.HostIP.IsValid() && b.HostIP != m.HostIP {
			continue
		}
		score := 0
		switch {
		case first == m.HostPort && max(first, last) == max(m.HostPort, m.HostPortEnd):
			score = 3
		case first <= m.HostPort && m.HostPort <= last:
			score = 2
		case first == 0:
			score = 1
		}
		if score > best {
			best, at = score, i
		}
	}
	if at < 0 {
		return bindings
	}
	return slices.Delete(slices.Clone(bindings), at, at+1)
}

// hostPort is the inverse of parseHostPort.
func hostPort(first, last uint16) string {
	switch {
	case first == 0:
		return ""
	case last > first:
		return fmt.Sprintf("%d-%d", first, last)
	}
	return strconv.Itoa(int(first))
}

// ParsePortMatch reads "[IP:]HOSTPORT[-HOSTPORT][:CONTAINERPORT][/PROTOCOL]".
func ParsePortMatch(text string) (PortMatch, error) {
	bad := invalid("invalid published port %q: want [IP:]HOSTPORT[:CONTAINERPORT][/PROTOCOL]", text)
	rest, proto, _ := strings.Cut(text, "/")
	p := PortMatch{Proto: strings.ToLower(proto)}
	if i := strings.LastIndex(rest, "]:"); strings.HasPrefix(rest, "[") && i > 0 {
		addr, err := netip.ParseAddr(rest[1:i])
		if err != nil {
			return p, bad
		}
		p.HostIP, rest = addr, rest[i+2:]
	} else if addr, ports, ok := strings.Cut(rest, ":"); ok && strings.Contains(addr, ".") {
		a, err := netip.ParseAddr(addr)
		if err != nil {
			return p, bad
		}
		p.HostIP, rest = a, ports
	}
	host, ctr, two := strings.Cut(rest, ":")
	var err error
	if p.First, p.Last, err = parseHostPort(host); err != nil || p.First == 0 {
		return p, bad
	}
	if two {
		n, err := strconv.ParseUint(ctr, 10, 16)
		if err != nil || n == 0 {
			return p, bad
		}
		p.ContainerPort = uint16(n)
	}
	return p, nil
}

// PortMapping reads a wish for a port.
func PortMapping(p api.PublishedPort) (networks.PortMapping, error) {
	m := networks.PortMapping{Proto: p.Proto, ContainerPort: p.ContainerPort}
	var err error
	if m.HostPort, m.HostPortEnd, err = parseHostPort(p.HostPort); err != nil {
		return m, invalid("invalid host port %q: %v", p.HostPort, err)
	}
	if p.HostIP != "" {
		if m.HostIP, err = netip.ParseAddr(p.HostIP); err != nil {
			return m, invalid("invalid host address %q", p.HostIP)
		}
	}
	return m, nil
}
