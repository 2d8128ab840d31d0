package networks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"strata/engined/internal/networks/bridge"
	"strata/engined/internal/networks/dnsport"
	"strata/engined/internal/networks/etcfiles"
	"strata/pkg/ctxlog"
	"strata/pkg/names"
)

// The files of strata/pkg/names: one of each container whose shim answers DNS, one of each
// user-defined network, which its members' files name.

func (c Config) namesDir(kind string) string { return filepath.Join(c.ExecRoot, "names", kind) }

func (c Config) namesPath(containerID string) string {
	return filepath.Join(c.namesDir("containers"), containerID)
}

func (c Config) memberPath(networkID string) string {
	return filepath.Join(c.namesDir("networks"), networkID)
}

// named reports whether peers of an endpoint know it by name.
func named(e Endpoint) bool { return e.DNSNames != nil }

// resolvers returns what the container, or else the engine, or else the host says about DNS.
// wish is the part that is not the host's.
func (m *Manager) resolvers(sb *sandbox) (host, wish etcfiles.Resolver, file []byte, err error) {
	file, err = os.ReadFile(m.hostResolvConf())
	if err != nil && !os.IsNotExist(err) {
		return host, wish, nil, fmt.Errorf("read the host's resolv.conf: %w", err)
	}
	own := etcfiles.Resolver{Servers: sb.request.DNS, Search: sb.request.DNSSearch, Options: sb.request.DNSOptions}
	engine := etcfiles.Resolver{Servers: m.cfg.DNS, Search: m.cfg.DNSSearch, Options: m.cfg.DNSOptions}
	return etcfiles.ParseResolv(file), engine.Override(own), file, nil
}

func (m *Manager) hostResolvConf() string {
	return m.cfg.hostFile("/etc/resolv.conf", m.cfg.HostFiles.ResolvConf)
}

// ownResolvConf renders the resolv.conf of a container whose shim answers DNS.
func ownResolvConf(host, wish etcfiles.Resolver) []byte {
	r := host.Override(wish)
	upstreams := r.Servers
	r.Servers = []netip.Addr{names.Addr}
	if !slices.ContainsFunc(r.Options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
		r.Options = append(slices.Clone(r.Options), "ndots:0") // our names have no dots
	}
	out := append(r.Bytes(), "\n# ExtServers: ["...)
	for i, a := range upstreams {
		if i > 0 {
			out = append(out, ' ')
		}
		out = append(out, "host("+a.String()+")"...)
	}
	return append(out, "]\n"...)
}

// leadDNS keeps port 53 free for a container's own DNS server, and returns where its shim is
// to listen instead. Where nftables cannot translate inside, that is port 53 all the same.
func (m *Manager) leadDNS(ctx context.Context, in *bridge.Inside) uint16 {
	if err := dnsport.Lead(in.File(), netip.AddrPortFrom(names.Addr, names.Port)); err != nil {
		ctxlog.From(ctx).Debug("port 53 of the container is taken by its names", ctxlog.Error, err)
		return names.Port
	}
	return dnsport.Port
}

// writeNames writes the file that a container's shim answers DNS from.
func (m *Manager) writeNames(sb *sandbox) error {
	if !sb.request.Resolver {
		return nil
	}
	_, wish, _, err := m.resolvers(sb)
	if err != nil {
		return err
	}
	f := names.File{Listen: netip.AddrPortFrom(names.Addr, sb.dnsPort)}
	m.mu.Lock()
	outside := false
	for _, e := range sb.endpoints {
		if n := m.networks[e.NetworkID]; n != nil && !n.Internal && n.Driver != DriverNone {
			outside = true
		}
		if !named(e) {
			continue
		}
		member := names.Membership{Path: m.cfg.memberPath(e.NetworkID)}
		for name, aliases := range linkAliases(e.Links) {
			if member.Links == nil {
				member.Links = map[string]string{}
			}
			for _, alias := range aliases {
				member.Links[alias] = name
			}
		}
		f.Networks = append(f.Networks, member)
	}
	m.mu.Unlock()
	// Who is kept from the outside must not reach it by DNS either (CVE-2024-29018).
	if outside {
		for _, a := range wish.Servers {
			f.Upstreams = append(f.Upstreams, netip.AddrPortFrom(a, names.Port))
		}
		f.ResolvConf = m.hostResolvConf()
	}
	return names.Write(m.cfg.namesPath(sb.request.ContainerID), f)
}

// tellMembers writes the files of the endpoints' networks, unless somebody has since they
// became outdated. When it returns, members know each other.
func (m *Manager) tellMembers(ctx context.Context, endpoints []Endpoint) {
	for _, e := range endpoints {
		m.mu.Lock()
		n := m.networks[e.NetworkID]
		m.mu.Unlock()
		if n == nil || !named(e) {
			continue
		}
		if err := m.writeMembers(n); err != nil {
			ctxlog.From(ctx).Error("names on a network were not updated", ctxlog.Network, n.Name, ctxlog.Error, err)
		}
	}
}

func (m *Manager) writeMembers(n *network) error {
	n.naming.Lock()
	defer n.naming.Unlock()
	m.mu.Lock()
	if !n.outdated {
		m.mu.Unlock()
		return nil
	}
	n.outdated = false
	file := m.membersLocked(n)
	m.mu.Unlock()
	err := names.Write(m.cfg.memberPath(n.ID), file)
	if err != nil {
		m.mu.Lock()
		n.outdated = true
		m.mu.Unlock()
	}
	return err
}

// Preconditions: mu is held.
func (m *Manager) membersLocked(n *network) names.Network {
	out := names.Network{Name: n.Name}
	for _, p := range n.IPAM.Pools {
		out.Subnets = append(out.Subnets, p.Subnet)
	}
	for _, sb := range m.sandboxes {
		if !sb.ready {
			continue
		}
		for _, e := range sb.endpoints {
			if e.NetworkID != n.ID || len(e.DNSNames) == 0 {
				continue
			}
			h := names.Host{ID: sb.request.ContainerID, Names: e.DNSNames, Ports: sb.request.Services}
			for _, a := range []netip.Prefix{e.IPv4, e.IPv6} {
				if a.IsValid() {
					h.Addrs = append(h.Addrs, a.Addr())
				}
			}
			out.Hosts = append(out.Hosts, h)
		}
	}
	slices.SortFunc(out.Hosts, func(a, b names.Host) int {
		return cmp.Or(strings.Compare(a.Names[0], b.Names[0]), strings.Compare(a.ID, b.ID))
	})
	return out
}

// openNames makes the files of names true after a restart: those of what is here are written,
// those of what is gone are removed.
func (m *Manager) openNames(ctx context.Context) {
	for _, sb := range m.all() {
		if err := m.writeNames(sb); err != nil {
			ctxlog.From(ctx).Error("names for a container were not updated", ctxlog.ContainerID, sb.request.ContainerID, ctxlog.Error, err)
		}
		m.tellMembers(ctx, sb.endpoints)
	}
	m.sweepNames(ctx, m.cfg.namesDir("containers"), func(id string) bool { return m.sandboxes[id] != nil && m.sandboxes[id].request.Resolver })
	m.sweepNames(ctx, m.cfg.namesDir("networks"), func(id string) bool { return m.networks[id] != nil })
}

func (m *Manager) sweepNames(ctx context.Context, dir string, known func(id string) bool) {
	files, err := os.ReadDir(dir)
	if err != nil {
		ctxlog.From(ctx).Warn("files of names were not looked through", ctxlog.Error, err)
	}
	for _, f := range files {
		m.mu.Lock()
		keep := known(f.Name())
		m.mu.Unlock()
		if !keep {
			_ = os.Remove(filepath.Join(dir, f.Name())) // the next start will try again
		}
	}
}

// forgetMembers removes the file of a network that was removed.
func (m *Manager) forgetMembers(n *network) error {
	n.naming.Lock()
	defer n.naming.Unlock()
	if err := os.Remove(m.cfg.memberPath(n.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove names: %w", err)
	}
	return nil
}
