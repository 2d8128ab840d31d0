package networks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"strata/engined/internal/networks/bridge"
	"strata/engined/internal/networks/firewall"
	"strata/pkg/linux/netns"
	"strata/pkg/names"
)

// Object is one thing in the kernel or on disk.
type Object struct {
	Kind   string // netns, veth, bridge, macvlan, ipvlan, parent, address, route, rule, port, name, obstacle, file
	ID     string
	Detail string
}

// explanation collects the objects of one container.
type explanation struct {
	m   *Manager
	box Sandbox
	out []Object
}

func (x *explanation) add(kind, id, format string, args ...any) {
	x.out = append(x.out, Object{kind, id, fmt.Sprintf(format, args...)})
}

// Explain lists the objects that make up a container's network, in the order in which packets
// meet them, and says of each whether the kernel has it as it should be.
func (m *Manager) Explain(containerID string) []Object {
	box, ok := m.Sandbox(containerID)
	if !ok {
		return nil
	}
	x := &explanation{m: m, box: box}
	if box.NetnsPath != "" {
		inode, err := netns.Inode(box.NetnsPath)
		if err != nil {
			x.add("netns", box.NetnsPath, "missing: %v", err)
		} else {
			x.add("netns", box.NetnsPath, "net:[%d]", inode)
		}
	}
	for _, e := range box.Endpoints {
		x.endpoint(e)
	}
	x.routes()
	x.ports()
	x.names()
	on := func(n *network) bool {
		return slices.ContainsFunc(box.Endpoints, func(e Endpoint) bool { return e.NetworkID == n.ID })
	}
	for _, o := range m.obstacles(on) {
		x.add("obstacle", o.Rule, "stops packets; to let them through: %s", o.Remedy)
	}
	return x.out
}

func (x *explanation) endpoint(e Endpoint) {
	n, err := x.m.find(e.NetworkID)
	if err != nil || e.Interface == "" {
		x.add("endpoint", e.ID, "network %s", e.NetworkName)
		return
	}
	state := x.m.host.State
	if n.uplinked() {
		u := n.options.uplink
		x.add("parent", u.parent, "%s, network %s (%s)", state(u.parent), n.Name, n.ID)
		x.add(n.Driver, e.Interface, "inside, mode %s, MAC %s, on %s", u.mode, e.MAC, u.parent)
	} else {
		x.add("bridge", n.options.bridge, "%s, network %s (%s)", state(n.options.bridge), n.Name, n.ID)
		x.add("rule", n.options.bridge, "%s", n.policy(x.m.firewall != nil))
		x.add("veth", e.HostVeth, "%s, peer %s inside, MAC %s, on %s", state(e.HostVeth), e.Interface, e.MAC, n.options.bridge)
	}
	for _, a := range []struct {
		p  netip.Prefix
		gw netip.Addr
	}{{e.IPv4, e.Gateway4}, {e.IPv6, e.Gateway6}} {
		switch {
		case a.p.IsValid() && a.gw.IsValid():
			x.add("address", a.p.String(), "on %s, gateway %s", e.Interface, a.gw)
		case a.p.IsValid():
			x.add("address", a.p.String(), "on %s, no gateway", e.Interface)
		}
	}
}

// policy says what the firewall does with packets of a bridge network.
func (n *network) policy(managed bool) string {
	if !managed {
		return "none: the firewall is left alone"
	}
	r := n.rules()
	words := []string{"isolated from other networks"}
	if r.Internal {
		words = append(words, "no way out or in")
	}
	if !r.ICC {
		words = append(words, "neighbours do not reach each other")
	}
	for _, f := range []struct {
		name       string
		masquerade bool
		mode       firewall.Mode
		on         bool
	}{{"IPv4", r.Masquerade4, r.Mode4, n.EnableIPv4}, {"IPv6", r.Masquerade6, r.Mode6, n.EnableIPv6}} {
		if f.on && !r.Internal {
			words = append(words, f.name+" "+string(f.mode)+map[bool]string{true: ", masqueraded", false: ", not masqueraded"}[f.masquerade])
		}
	}
	return strings.Join(words, "; ")
}

// routes says which gateways are the default ones.
func (x *explanation) routes() {
	if x.box.NetnsPath == "" {
		return
	}
	v4, v6 := defaultRoutes(x.box.Endpoints)
	for _, r := range []bridge.Route{v4, v6} {
		if r.Interface != "" {
			x.add("route", "default", "%s", strings.TrimPrefix(fmt.Sprintf("via %s dev %s", r.Gateway, r.Interface), "via invalid IP "))
		}
	}
}

// ports says what leads to each published port.
func (x *explanation) ports() {
	missing := map[string]bool{}
	differences, err := x.m.differences()
	for _, d := range differences {
		missing[d.ID] = true
	}
	for _, p := range x.m.publishedPlan(&sandbox{request: Request{ContainerID: x.box.ContainerID}, endpoints: x.box.Endpoints}, x.box.Ports) {
		for _, r := range append(p.opened, p.planned()...) {
			host := p.mapping.HostIP
			switch {
			case host.IsValid():
			case r.To.Addr().Is4():
				host = netip.IPv4Unspecified()
			default:
				host = netip.IPv6Unspecified()
			}
			id := fmt.Sprintf("%s/%s", netip.AddrPortFrom(host, p.mapping.HostPort), p.mapping.Proto)
			set, element, eerr := r.Element()
			switch {
			case eerr != nil || err != nil:
				x.add("port", id, "to %s, unknown whether: %v", r.To, errors.Join(eerr, err))
			case p.wish.RelayAll && !r.Routed:
				x.add("port", id, "to %s, relayed by engined", r.To)
			case missing[element]:
				x.add("port", id, "to %s, missing in table inet %s: %s { %s }", r.To, x.m.cfg.FirewallTable, set, element)
			default:
				x.add("port", id, "to %s by table inet %s: %s { %s }", r.To, x.m.cfg.FirewallTable, set, element)
			}
		}
	}
}

// names says what peers call the container, and where its own questions are answered.
func (x *explanation) names() {
	for _, e := range x.box.Endpoints {
		if named(e) {
			x.add("name", strings.Join(e.DNSNames, " "), "on network %s", e.NetworkName)
		}
	}
	if x.box.NamesPath != "" {
		x.add("file", x.box.NamesPath, "the shim answers DNS from it at %s", names.Addr)
	}
	x.m.mu.Lock()
	sb := x.m.sandboxes[x.box.ContainerID]
	x.m.mu.Unlock()
	if sb != nil && sb.request.Dir != "" {
		for _, f := range []string{hostsFile, hostnameFile, resolvFile} {
			x.add("file", filepath.Join(sb.request.Dir, f), "mounted on /etc/%s", f)
		}
	}
}

// Obstacle is something of another program that stops packets of containers.
type Obstacle struct {
	Rule   string
	Remedy string // commands
}

// Obstacles lists rules of other programs' firewalls that stop packets between containers
// and the outside, and what to do about them. It writes nothing.
func (m *Manager) Obstacles() []Obstacle {
	return m.obstacles(func(*network) bool { return true })
}

// obstacles lists those of the networks that match.
func (m *Manager) obstacles(match func(*network) bool) []Obstacle {
	if !m.cfg.IPTables {
		return nil // then nothing is promised
	}
	var out []Obstacle
	for _, o := range firewall.Obstacles() {
		var stopped []string
		for _, n := range m.sorted() {
			if n.Driver == DriverBridge && !n.ConfigOnly && !n.Internal && match(n) && o.Stops(n.options.bridge) {
				stopped = append(stopped, n.options.bridge)
			}
		}
		if len(stopped) > 0 {
			out = append(out, Obstacle{o.Rule, o.Remedy(stopped...)})
		}
	}
	return out
}

// Leaks lists objects that belong to no container or network of this engine: netns files,
// bridges, and interfaces on our bridges. Interfaces of containers that left a moment ago
// may be among them until the kernel has deleted them.
func (m *Manager) Leaks(context.Context) ([]Object, error) {
	var out []Object
	files, err := os.ReadDir(m.cfg.netnsDir())
	if err != nil {
		return nil, fmt.Errorf("list netns: %w", err)
	}
	veths := map[string]bool{}
	for _, sb := range m.all() {
		m.mu.Lock()
		for _, e := range sb.endpoints {
			veths[e.HostVeth] = true
		}
		m.mu.Unlock()
	}
	for _, f := range files {
		m.mu.Lock()
		known := m.sandboxes[f.Name()] != nil
		m.mu.Unlock()
		if !known {
			out = append(out, Object{"netns", filepath.Join(m.cfg.netnsDir(), f.Name()), "no container has it"})
		}
	}
	owned, err := m.host.Owned(m.instance + ":")
	if err != nil {
		return nil, err
	}
	for name, networkID := range owned {
		if networkID == parentOwned {
			if !m.parentUsed(name) {
				out = append(out, Object{"parent", name, "no network has it"})
			}
			continue
		}
		if _, err := m.find(networkID); err != nil {
			out = append(out, Object{"bridge", name, "no network has it"})
		}
		ports, perr := m.host.Ports(name)
		err = errors.Join(err, perr)
		for _, p := range ports {
			if strings.HasPrefix(p, "veth") && !veths[p] {
				out = append(out, Object{"veth", p, "on " + name + ", no container has it"})
			}
		}
	}
	slices.SortFunc(out, func(a, b Object) int { return strings.Compare(a.Kind+a.ID, b.Kind+b.ID) })
	return out, err
}
