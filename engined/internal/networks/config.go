package networks

import (
	"net/netip"

	"strata/engined/internal/events"
)

// Config says where the manager keeps its things and what the engine's configuration
// wants. Start from DefaultConfig: the zero value switches everything off.
type Config struct {
	ExecRoot string // run-time state on tmpfs: netns files, sandboxes
	Events   events.Publisher

	// BridgeName is the interface of the network "bridge"; "none" leaves that network out.
	BridgeName string
	// Bip is the default bridge's own address and subnet; zero takes a pool.
	Bip       netip.Prefix
	Bip6      netip.Prefix
	FixedCIDR netip.Prefix // the range of the default bridge
	IPv6      bool         // the default bridge has IPv6
	MTU       int          // bytes; 0 is the kernel's 1500
	ICC       bool         // containers of the default bridge may talk
	IPMasq    bool
	BindIP    netip.Addr // where ports without an address are published; zero: everywhere

	DefaultAddressPools []AddressPool // nil takes docker's

	DNS        []netip.Addr
	DNSSearch  []string
	DNSOptions []string
	// HostGateway is what "host-gateway" means; nil takes the default bridge's addresses.
	HostGateway []netip.Addr
	// HostFiles are the host's files, for tests; the zero value is /etc.
	HostFiles HostFiles

	// RespectHost leaves packets for published ports to the host's own INPUT rules: what they
	// accept is relayed by this process: TCP and UDP.
	RespectHost bool

	IPTables      bool   // manage our nftables table; false leaves the firewall alone
	FirewallTable string // its name
	IPForward     bool   // switch forwarding on where a network needs it
	// IPForwardNoDrop leaves forwarding between foreign interfaces open when it was us who
	// switched forwarding on; false drops it, so that the host does not become a router.
	IPForwardNoDrop bool
}

// AddressPool is a prefix that is cut into subnets of Size bits.
type AddressPool struct {
	Base netip.Prefix
	Size int
}

// HostFiles are the host's files that containers' files are made from.
type HostFiles struct {
	Hosts      string
	ResolvConf string
}

// DefaultConfig returns the configuration of an engine without a configuration file.
func DefaultConfig() Config {
	return Config{BridgeName: "strata0", ICC: true, IPMasq: true, IPTables: true, FirewallTable: "strata", IPForward: true}
}
