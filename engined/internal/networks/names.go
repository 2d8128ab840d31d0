package networks

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/engined/internal/networks/etcfiles"
	"strata/pkg/ctxlog"
	"strata/pkg/identifiers"
)

// The files of Request.Dir.
const (
	hostsFile    = "hosts"
	hostnameFile = "hostname"
	resolvFile   = "resolv.conf"
)

// resolvedFile holds the upstreams of systemd-resolved, whose own address is a loopback one.
const resolvedFile = "/run/systemd/resolve/resolv.conf"

// dnsNames are the names that a container has for its peers on a user-defined network.
func dnsNames(r Request, aliases []string) []string {
	var out []string
	for _, name := range slices.Concat([]string{r.ContainerName}, aliases, []string{identifiers.Short(r.ContainerID), r.Hostname}) {
		if name != "" && !slices.Contains(out, name) && validName(name) {
			out = append(out, name)
		}
	}
	return out
}

// validName keeps what would break a hosts file out of it.
func validName(name string) bool {
	return !strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c == '#' || c == 0x7f })
}

// writeFiles writes the files of a container that is about to start.
func (m *Manager) writeFiles(sb *sandbox) error {
	dir := sb.request.Dir
	if dir == "" {
		return nil
	}
	own, err := m.ownLines(sb)
	if err != nil {
		return err
	}
	peers := m.peerLines(sb)
	var hosts []byte
	if sb.request.Mode == NetworkHost {
		host, err := os.ReadFile(m.cfg.hostFile("/etc/hosts", m.cfg.HostFiles.Hosts))
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("read the host's hosts file: %w", err)
		}
		hosts = etcfiles.HostsOver(host, own)
	} else {
		hosts = etcfiles.Hosts(append(own, peers...))
	}
	resolv, err := m.resolvConf(sb)
	if err != nil {
		return err
	}
	sb.filesMu.Lock()
	defer sb.filesMu.Unlock()
	sb.peers = peers
	if len(peers) > 0 {
		if err := m.savePeers(sb, peers); err != nil {
			return err
		}
	}
	for name, data := range map[string][]byte{hostsFile: hosts, resolvFile: resolv, hostnameFile: []byte(sb.request.Hostname + "\n")} {
		if err := etcfiles.Write(filepath.Join(dir, name), data); err != nil {
			return err
		}
	}
	return nil
}

// ownLines are the lines about the container itself, its links and extra hosts.
func (m *Manager) ownLines(sb *sandbox) ([]etcfiles.Line, error) {
	lines, err := m.extraHosts(sb.request.ExtraHosts)
	if err != nil {
		return nil, err
	}
	links, err := m.linkLines(sb)
	if err != nil {
		return nil, err
	}
	return append(append(lines, links...), hostnameLines(sb.request, sb.endpoints)...), nil
}

// hostnameLines give the container's addresses its hostname.
func hostnameLines(r Request, endpoints []Endpoint) []etcfiles.Line {
	names := []string{r.Hostname}
	if r.Domainname != "" {
		names = []string{r.Hostname + "." + r.Domainname, r.Hostname}
	}
	if r.Hostname == "" || !validName(names[0]) {
		return nil
	}
	var out []etcfiles.Line
	for _, e := range endpoints {
		for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
			if p.IsValid() {
				out = append(out, etcfiles.Line{Addr: p.Addr(), Names: names})
			}
		}
	}
	return out
}

// extraHosts reads "name:IP" and "name:host-gateway".
func (m *Manager) extraHosts(specs []string) ([]etcfiles.Line, error) {
	var out []etcfiles.Line
	for _, s := range specs {
		name, target, ok := strings.Cut(s, ":")
		if !ok || name == "" || !validName(name) {
			return nil, fmt.Errorf("bad format for add-host: %q: %w", s, errdefs.ErrInvalidArgument)
		}
		addrs := m.hostGateway()
		if target != "host-gateway" {
			a, err := netip.ParseAddr(strings.Trim(target, "[]"))
			if err != nil {
				return nil, fmt.Errorf("invalid IP address in add-host: %q: %w", target, errdefs.ErrInvalidArgument)
			}
			addrs = []netip.Addr{a}
		} else if len(addrs) == 0 {
			return nil, fmt.Errorf("unable to derive the IP value for host-gateway: %w", errdefs.ErrInvalidArgument)
		}
		for _, a := range addrs {
			out = append(out, etcfiles.Line{Addr: a, Names: []string{name}})
		}
	}
	return out, nil
}

// HostGateway is what "host-gateway" means, or "" if it means nothing.
func (m *Manager) HostGateway() string {
	for _, a := range m.hostGateway() {
		if a.IsValid() {
			return a.String()
		}
	}
	return ""
}

// hostGateway is what "host-gateway" means.
func (m *Manager) hostGateway() []netip.Addr {
	if m.cfg.HostGateway != nil {
		return m.cfg.HostGateway
	}
	n, err := m.byName(NetworkBridge)
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, p := range n.IPAM.Pools {
		out = append(out, p.Gateway)
	}
	return out
}

// linkLines are the lines of links on the default bridge: "alias hostname name".
func (m *Manager) linkLines(sb *sandbox) ([]etcfiles.Line, error) {
	var out []etcfiles.Line
	for _, l := range sb.request.Links {
		ref, alias, ok := strings.Cut(l, ":")
		if !ok {
			alias = ref
		}
		peer, endpoints, ok := m.byRef(ref)
		if !ok {
			return nil, fmt.Errorf("Cannot link to a non running container: /%s AS /%s/%s: %w", ref, sb.request.ContainerName, alias, errdefs.ErrInvalidArgument) //nolint:staticcheck // dockerd's words
		}
		for _, e := range endpoints {
			if e.NetworkName == NetworkBridge {
				out = append(out, linesFor(e, alias, peer.Hostname, peer.ContainerName)...)
			}
		}
	}
	return out, nil
}

// byRef finds a sandbox by the container's name, or by its id or the beginning of it, and
// returns what its peers may know of it.
func (m *Manager) byRef(ref string) (r Request, endpoints []Endpoint, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ref = strings.TrimPrefix(ref, "/")
	for id, s := range m.sandboxes {
		if s.request.ContainerName == ref || id == ref || len(ref) >= 12 && strings.HasPrefix(id, ref) {
			return s.request, s.endpoints, true
		}
	}
	return Request{}, nil, false
}

func linesFor(e Endpoint, names ...string) []etcfiles.Line {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" || !validName(n) })
	var out []etcfiles.Line
	for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
		if p.IsValid() && len(names) > 0 {
			out = append(out, etcfiles.Line{Addr: p.Addr(), Names: names})
		}
	}
	return out
}

// peerLines name everybody on the container's user-defined networks, itself included, and
// its links there. They are how names resolve under a shim that answers no DNS: with both
// daemons dead, they still do.
func (m *Manager) peerLines(sb *sandbox) []etcfiles.Line {
	if sb.request.Resolver {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []etcfiles.Line
	for _, mine := range sb.endpoints {
		if !named(mine) {
			continue
		}
		links := linkAliases(mine.Links)
		for _, peer := range m.sandboxes {
			for _, e := range peer.endpoints {
				if e.NetworkID != mine.NetworkID || !peer.ready && peer != sb {
					continue
				}
				out = append(out, linesFor(e, append(slices.Clone(e.DNSNames), links[peer.request.ContainerName]...)...)...)
			}
		}
	}
	slices.SortFunc(out, func(a, b etcfiles.Line) int { return a.Addr.Compare(b.Addr) })
	return out
}

// linkAliases reads "container:alias".
func linkAliases(links []string) map[string][]string {
	out := map[string][]string{}
	for _, l := range links {
		if name, alias, ok := strings.Cut(strings.TrimPrefix(l, "/"), ":"); ok {
			out[name] = append(out[name], alias)
		}
	}
	return out
}

// peersChanged makes everybody on the endpoints' networks see who is there: by DNS when it
// returns, in hosts files soon and in the background.
func (m *Manager) peersChanged(ctx context.Context, endpoints []Endpoint) {
	m.outdate(endpoints)
	m.tellMembers(ctx, endpoints)
}

// outdate marks the endpoints' networks as ones whose names are not right everywhere.
func (m *Manager) outdate(endpoints []Endpoint) {
	m.mu.Lock()
	for _, e := range endpoints {
		if n := m.networks[e.NetworkID]; n != nil && named(e) {
			n.stale, n.outdated = true, true
		}
	}
	m.mu.Unlock()
	select {
	case m.names <- struct{}{}:
	default: // a wake-up is pending
	}
}

// keepNames brings hosts files up to date until ctx is done.
func (m *Manager) keepNames(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.names:
			m.updateNames(ctx)
		}
	}
}

// updateNames rewrites the peers' lines in the hosts files on stale networks.
func (m *Manager) updateNames(ctx context.Context) {
	for _, sb := range m.onStaleNetworks() {
		if err := m.updatePeers(sb); err != nil {
			ctxlog.From(ctx).Warn("names of peers were not updated", ctxlog.ContainerID, sb.request.ContainerID, ctxlog.Error, err)
		}
	}
}

// onStaleNetworks returns the sandboxes whose files may be wrong, and marks their networks
// as seen to.
func (m *Manager) onStaleNetworks() []*sandbox {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*sandbox
	for _, sb := range m.sandboxes {
		stale := slices.ContainsFunc(sb.endpoints, func(e Endpoint) bool {
			n := m.networks[e.NetworkID]
			return n != nil && n.stale
		})
		if stale && sb.ready {
			out = append(out, sb)
		}
	}
	for _, n := range m.networks {
		n.stale = false
	}
	return out
}

func (m *Manager) updatePeers(sb *sandbox) error {
	if sb.request.Dir == "" {
		return nil
	}
	sb.filesMu.Lock()
	defer sb.filesMu.Unlock()
	fresh := m.peerLines(sb)
	old := sb.peers
	if slices.EqualFunc(old, fresh, func(a, b etcfiles.Line) bool { return a.String() == b.String() }) {
		return nil
	}
	// Both are ours until the next change: a crash may come before or after the edit.
	if err := m.savePeers(sb, append(slices.Clone(old), fresh...)); err != nil {
		return err
	}
	sb.peers = fresh
	return etcfiles.Edit(filepath.Join(sb.request.Dir, hostsFile), func(file []byte) []byte { return etcfiles.Replace(file, old, fresh) })
}

// writeOwnNames makes a running container's own lines follow a change of its endpoints.
func (m *Manager) writeOwnNames(sb *sandbox, before []Endpoint) error {
	if sb.request.Dir == "" {
		return m.writeNames(sb)
	}
	sb.filesMu.Lock()
	err := etcfiles.Edit(filepath.Join(sb.request.Dir, hostsFile), func(file []byte) []byte {
		return etcfiles.Replace(file, hostnameLines(sb.request, before), hostnameLines(sb.request, sb.endpoints))
	})
	sb.filesMu.Unlock()
	if err != nil {
		return err
	}
	if err := m.writeNames(sb); err != nil {
		return err
	}
	return m.updatePeers(sb)
}

// resolvConf renders a container's resolv.conf.
func (m *Manager) resolvConf(sb *sandbox) ([]byte, error) {
	host, wish, data, err := m.resolvers(sb)
	if err != nil {
		return nil, err
	}
	if sb.request.Resolver {
		return ownResolvConf(host, wish), nil
	}
	if sb.request.Mode == NetworkHost {
		if len(wish.Servers)+len(wish.Search)+len(wish.Options) == 0 {
			return data, nil
		}
		return host.Override(wish).Bytes(), nil
	}
	if host.OnlyLoopback() && m.cfg.HostFiles.ResolvConf == "" {
		if data, err := os.ReadFile(resolvedFile); err == nil {
			host = etcfiles.ParseResolv(data)
		}
	}
	ipv6 := slices.ContainsFunc(sb.endpoints, func(e Endpoint) bool { return e.IPv6.IsValid() })
	return host.Reachable(ipv6).Override(wish).Bytes(), nil
}

func (c Config) hostFile(def, configured string) string {
	if configured != "" {
		return configured
	}
	return def
}
