package networks

import (
	"net"
	"net/netip"

	"strata/pkg/names"
)

// Request is the whole network wish of one container.
type Request struct {
	ContainerID   string
	ContainerName string // without the leading slash
	Hostname      string
	Domainname    string
	// Mode is HostConfig.NetworkMode resolved: "none", "host", or anything else for the
	// networks of Endpoints (without any, the default bridge). "container:ID" is the caller's business: it uses the other's netns.
	Mode      string
	Endpoints []EndpointRequest
	Ports     []PortMapping
	// Dir is where Join writes hosts, hostname and resolv.conf, and keeps them true.
	Dir        string
	DNS        []netip.Addr
	DNSSearch  []string
	DNSOptions []string
	ExtraHosts []string // "name:IP", "name:host-gateway"
	// Resolver says that the container's shim answers DNS from the file Sandbox.NamesPath.
	// Without, names of peers are written into the hosts file.
	Resolver bool
	Services []names.Service // for SRV queries: the ports that are published or exposed
	Links    []string        // "container:alias", default bridge only
}

// EndpointRequest is the wish to be on one network. Zero values are chosen by the engine.
type EndpointRequest struct {
	Network    string // name or id
	IPv4       netip.Addr
	IPv6       netip.Addr
	MAC        net.HardwareAddr
	Aliases    []string
	Links      []string
	DriverOpts map[string]string
	GwPriority int
	// Interface is the name in the container; "ethN" if empty.
	Interface string
}

// PortMapping publishes a container's port on the host.
type PortMapping struct {
	Proto         string // tcp, udp, sctp
	ContainerPort uint16
	HostIP        netip.Addr // zero: every address, IPv4 and IPv6
	// HostPort is the port, or the first of a range up to HostPortEnd of which any may be
	// taken; zero for one of the ephemeral range. In a Sandbox it is the port in use.
	HostPort    uint16
	HostPortEnd uint16
}

// Endpoint is a container's presence on one network.
type Endpoint struct {
	ID          string
	NetworkID   string
	NetworkName string
	Interface   string // in the container
	HostVeth    string
	IPv4        netip.Prefix
	IPv6        netip.Prefix
	Gateway4    netip.Addr
	Gateway6    netip.Addr
	MAC         net.HardwareAddr
	Aliases     []string
	Links       []string
	DNSNames    []string
	DriverOpts  map[string]string
	GwPriority  int
	// OnLink says that the default route has no gateway (ipvlan l3).
	OnLink bool `json:",omitempty"`
}

// Sandbox is what a container got.
type Sandbox struct {
	ContainerID string
	NetnsPath   string // "" for host
	NamesPath   string // of a names.File for the shim; "" without Request.Resolver or names
	Endpoints   []Endpoint
	Ports       []PortMapping
}
