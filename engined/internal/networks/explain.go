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

	"strata/engined/internal/networks/firewall"
	"strata/pkg/linux/netns"
	"strata/pkg/names"
)

// Object is one thing in the kernel or on disk.
type Object struct {
	Kind   string // netns, veth, bridge, macvlan, ipvlan, parent, address, port, file
	ID     string
	Detail string
}

// Explain lists the objects that make up a container's network.
func (m *Manager) Explain(containerID string) []Object {
	box, ok := m.Sandbox(containerID)
	if !ok {
		return nil
	}
	var out []Object
	add := func(kind, id, format string, args ...any) {
		out = append(out, Object{kind, id, fmt.Sprintf(format, args...)})
	}
	if box.NetnsPath != "" {
		inode, err := netns.Inode(box.NetnsPath)
		if err != nil {
			add("netns", box.NetnsPath, "missing: %v", err)
		} else {
			add("netns", box.NetnsPath, "net:[%d]", inode)
		}
	}
	for _, e := range box.Endpoints {
		n, err := m.find(e.NetworkID)
		if err != nil || e.Interface == "" {
			add("endpoint", e.ID, "network %s", e.NetworkName)
			continue
		}
		if n.uplinked() {
			add("parent", n.options.uplink.parent, "network %s (%s)", n.Name, n.ID)
			add(n.Driver, e.Interface, "inside, mode %s, MAC %s, on %s", n.options.uplink.mode, e.MAC, n.options.uplink.parent)
		} else {
			add("bridge", n.options.bridge, "network %s (%s)", n.Name, n.ID)
			add("veth", e.HostVeth, "peer %s inside, MAC %s, on %s", e.Interface, e.MAC, n.options.bridge)
		}
		for _, a := range []struct {
			p  netip.Prefix
			gw netip.Addr
		}{{e.IPv4, e.Gateway4}, {e.IPv6, e.Gateway6}} {
			if a.p.IsValid() {
				add("address", a.p.String(), "on %s, gateway %s", e.Interface, a.gw)
			}
		}
	}
	for _, p := range box.Ports {
		host := "every address"
		if p.HostIP.IsValid() {
			host = p.HostIP.String()
		}
		add("port", fmt.Sprintf("%d/%s", p.ContainerPort, p.Proto), "port %d of %s, element of table inet %s", p.HostPort, host, m.cfg.FirewallTable)
	}
	if box.NamesPath != "" {
		add("file", box.NamesPath, "the shim answers DNS from it at %s", names.Addr)
	}
	m.mu.Lock()
	sb := m.sandboxes[containerID]
	m.mu.Unlock()
	if sb != nil && sb.request.Dir != "" {
		for _, f := range []string{hostsFile, hostnameFile, resolvFile} {
			add("file", filepath.Join(sb.request.Dir, f), "mounted on /etc/%s", f)
		}
	}
	return out
}

// Obstacle is something of another program that stops packets of containers.
type Obstacle struct {
	Rule   string
	Remedy string // commands
}

// Obstacles lists rules of other programs' firewalls that stop packets between containers
// and the outside, and what to do about them. It writes nothing.
func (m *Manager) Obstacles() []Obstacle {
	if !m.cfg.IPTables {
		return nil // then nothing is promised
	}
	var out []Obstacle
	for _, o := range firewall.Obstacles() {
		var stopped []string
		for _, n := range m.sorted() {
			if n.Driver == DriverBridge && !n.ConfigOnly && !n.Internal && o.Stops(n.options.bridge) {
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
