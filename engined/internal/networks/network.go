package networks

import (
	"net/netip"
	"time"
)

// The drivers.
const (
	DriverBridge  = "bridge"
	DriverHost    = "host"
	DriverNone    = "null"
	DriverMacvlan = "macvlan"
	DriverIPvlan  = "ipvlan"
)

// The predefined networks. They cannot be removed, and no other network may take their
// names.
const (
	NetworkBridge = "bridge"
	NetworkHost   = "host"
	NetworkNone   = "none"
)

// Network is a definition: what `network create` was told, completed with what the engine
// chose.
type Network struct {
	ID         string
	Name       string
	Created    time.Time
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       IPAM
	Internal   bool
	Attachable bool
	ConfigOnly bool
	ConfigFrom string // the name of a ConfigOnly network
	Options    map[string]string
	Labels     map[string]string
}

// Predefined reports whether n is bridge, host or none.
func (n Network) Predefined() bool {
	return n.Name == NetworkBridge || n.Name == NetworkHost || n.Name == NetworkNone
}

// IPAM is the address management of a network.
type IPAM struct {
	Driver  string // "default" or "null"
	Options map[string]string
	Pools   []Pool
}

// Pool is one subnet of a network.
type Pool struct {
	Subnet  netip.Prefix
	Range   netip.Prefix // zero: all of Subnet
	Gateway netip.Addr
	Aux     map[string]netip.Addr `json:",omitempty"` // addresses that are taken by others
}

// CreateRequest asks for a network. Nil EnableIPv4 and EnableIPv6 take the default: IPv4
// without IPv6.
type CreateRequest struct {
	Name       string
	Driver     string // "" is bridge
	EnableIPv4 *bool
	EnableIPv6 *bool
	IPAM       IPAM
	Internal   bool
	Attachable bool
	ConfigOnly bool
	ConfigFrom string
	Options    map[string]string
	Labels     map[string]string
}

// Attachment is a container's endpoint as seen from a network.
type Attachment struct {
	ContainerID   string
	ContainerName string
	Endpoint      Endpoint
}
