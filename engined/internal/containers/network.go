package containers

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"strata/engined/internal/networks"
	"strata/engined/internal/spec"
	"strata/engined/internal/store"
	"strata/pkg/names"
)

// networkRequest is the container's whole network wish.
func (s *Service) networkRequest(d *store.Definition) (networks.Request, error) {
	h := d.Host
	r := networks.Request{
		ContainerID: d.ID, ContainerName: d.Name, Hostname: d.Config.Hostname, Domainname: d.Config.Domainname,
		Dir: s.dir(d.ID), DNS: h.DNS, DNSSearch: h.DNSSearch, DNSOptions: h.DNSOptions, ExtraHosts: h.ExtraHosts,
		Resolver: d.Runtime == shimRuntime, Services: services(d),
	}
	for _, l := range h.Links {
		name, alias, ok := strings.Cut(l, ":")
		if !ok {
			alias = name
		}
		r.Links = append(r.Links, strings.TrimPrefix(name, "/")+":"+filepath.Base(alias))
	}
	switch {
	case h.NetworkMode.IsHost():
		r.Mode = networks.NetworkHost
		return r, nil
	case h.NetworkMode.IsNone(), d.Config.NetworkDisabled:
		r.Mode = networks.NetworkNone
		return r, nil
	}
	r.Mode = networks.NetworkBridge
	for _, name := range endpointOrder(d) {
		r.Endpoints = append(r.Endpoints, EndpointRequest(name, d.Endpoints[name]))
	}
	var err error
	r.Ports, err = portMappings(d)
	return r, err
}

// endpointOrder returns the networks of a container, that of NetworkMode first.
func endpointOrder(d *store.Definition) []string {
	var names []string
	for name := range d.Endpoints {
		names = append(names, name)
	}
	main := func(name string) bool {
		return name == string(d.Host.NetworkMode) || d.Endpoints[name] != nil && d.Endpoints[name].NetworkID == string(d.Host.NetworkMode)
	}
	slices.SortFunc(names, func(a, b string) int {
		switch {
		case main(a) == main(b):
			return strings.Compare(a, b)
		case main(a):
			return -1
		default:
			return 1
		}
	})
	return names
}

// EndpointRequest turns the API's wish for an endpoint into the network manager's.
func EndpointRequest(name string, ep *network.EndpointSettings) networks.EndpointRequest {
	r := networks.EndpointRequest{Network: name}
	if ep == nil {
		return r
	}
	r.Aliases, r.Links, r.DriverOpts, r.GwPriority = ep.Aliases, ep.Links, ep.DriverOpts, ep.GwPriority
	r.MAC = net.HardwareAddr(ep.MacAddress)
	r.Interface = ep.DriverOpts["com.docker.network.endpoint.ifname"]
	if ep.IPAMConfig != nil {
		r.IPv4, r.IPv6 = ep.IPAMConfig.IPv4Address, ep.IPAMConfig.IPv6Address
	}
	return r
}

// portMappings are the published ports: HostConfig.PortBindings, and with PublishAllPorts
// every exposed port that has none.
func portMappings(d *store.Definition) ([]networks.PortMapping, error) {
	var out []networks.PortMapping
	for port, bindings := range d.Host.PortBindings {
		if len(bindings) == 0 {
			bindings = []network.PortBinding{{}}
		}
		for _, b := range bindings {
			first, last, err := parseHostPort(b.HostPort)
			if err != nil {
				return nil, invalid("invalid port specification: %q", b.HostPort)
			}
			out = append(out, networks.PortMapping{Proto: string(port.Proto()), ContainerPort: port.Num(), HostIP: b.HostIP, HostPort: first, HostPortEnd: last})
		}
	}
	if d.Host.PublishAllPorts {
		for port := range d.Config.ExposedPorts {
			if _, ok := d.Host.PortBindings[port]; !ok {
				out = append(out, networks.PortMapping{Proto: string(port.Proto()), ContainerPort: port.Num(), HostIP: netip.Addr{}})
			}
		}
	}
	slices.SortFunc(out, func(a, b networks.PortMapping) int {
		return strings.Compare(fmt.Sprintf("%05d/%s/%s/%05d", a.ContainerPort, a.Proto, a.HostIP, a.HostPort), fmt.Sprintf("%05d/%s/%s/%05d", b.ContainerPort, b.Proto, b.HostIP, b.HostPort))
	})
	return out, nil
}

// services are the ports that are exposed or published.
func services(d *store.Definition) []names.Service {
	var out []names.Service
	add := func(p network.Port) {
		s := names.Service{Proto: string(p.Proto()), Port: p.Num()}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	for p := range d.Config.ExposedPorts {
		add(p)
	}
	for p := range d.Host.PortBindings {
		add(p)
	}
	slices.SortFunc(out, func(a, b names.Service) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), strings.Compare(a.Proto, b.Proto))
	})
	return out
}

// shareNetwork uses the network of another container, which must run.
func (s *Service) shareNetwork(d *store.Definition) (spec.Network, error) {
	peer, err := s.Get(d.Host.NetworkMode.ConnectedContainer())
	if err != nil {
		return spec.Network{}, err
	}
	st := peer.State()
	if !st.Status.HasTask() {
		return spec.Network{}, fmt.Errorf("cannot join network of a non running container: %s: %w", peer.ID, errdefs.ErrConflict)
	}
	pd := peer.Definition()
	n := spec.Network{NetnsPath: fmt.Sprintf("/proc/%d/ns/net", st.PID), Host: pd.Host.NetworkMode.IsHost()}
	if sb, ok := s.Networks.Sandbox(peer.ID); ok && sb.NetnsPath != "" {
		n.NetnsPath = sb.NetnsPath
	}
	out := s.networkFiles(d, peer.ID, n)
	out.Hostname, out.Domainname = pd.Config.Hostname, pd.Config.Domainname
	return out, nil
}

// networkFiles adds the files of the container that owns the network.
func (s *Service) networkFiles(d *store.Definition, owner string, n spec.Network) spec.Network {
	dir := s.dir(owner)
	n.Hostname, n.Domainname = d.Config.Hostname, d.Config.Domainname
	n.HostnamePath, n.HostsPath, n.ResolvConfPath = filepath.Join(dir, "hostname"), filepath.Join(dir, "hosts"), filepath.Join(dir, "resolv.conf")
	return n
}

// Files returns the paths of a container's resolv.conf, hostname and hosts.
func (s *Service) Files(containerID string) (resolvConf, hostname, hosts string) {
	dir := s.dir(containerID)
	return filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hostname"), filepath.Join(dir, "hosts")
}

// peers returns the namespaces of other containers that this one joins, and the directory
// on /dev/shm if it is shared.
func (s *Service) peers(d *store.Definition) (spec.Peers, string, error) {
	var p spec.Peers
	var shm string
	if d.Host.PidMode.IsContainer() {
		peer, st, err := s.runningPeer(d.Host.PidMode.Container(), "PID")
		if err != nil {
			return p, "", err
		}
		_ = peer
		p.PID = fmt.Sprintf("/proc/%d/ns/pid", st.PID)
	}
	switch {
	case d.Host.IpcMode.IsContainer():
		peer, st, err := s.runningPeer(d.Host.IpcMode.Container(), "IPC")
		if err != nil {
			return p, "", err
		}
		p.IPC, shm = fmt.Sprintf("/proc/%d/ns/ipc", st.PID), s.shmDir(peer.ID)
	case d.Host.IpcMode.IsShareable():
		shm = s.shmDir(d.ID)
		if err := mountShm(shm, d.Host.ShmSize); err != nil {
			return p, "", err
		}
	}
	return p, shm, nil
}

func (s *Service) runningPeer(ref, what string) (*Container, State, error) {
	peer, err := s.Get(ref)
	if err != nil {
		return nil, State{}, err
	}
	st := peer.State()
	if !st.Status.HasTask() {
		return nil, st, fmt.Errorf("cannot join %s of a non running container: %s: %w", what, peer.ID, errdefs.ErrConflict)
	}
	return peer, st, nil
}
