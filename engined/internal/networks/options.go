package networks

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/containerd/errdefs"

	"strata/engined/internal/networks/firewall"
)

// Driver options of a bridge network. Source: docker's bridge driver.
const (
	optBridgeName   = "com.docker.network.bridge.name"
	optICC          = "com.docker.network.bridge.enable_icc"
	optMasquerade   = "com.docker.network.bridge.enable_ip_masquerade"
	optHostBinding4 = "com.docker.network.bridge.host_binding_ipv4"
	optHostBinding6 = "com.docker.network.bridge.host_binding_ipv6"
	optGatewayMode4 = "com.docker.network.bridge.gateway_mode_ipv4"
	optGatewayMode6 = "com.docker.network.bridge.gateway_mode_ipv6"
	optMTU          = "com.docker.network.driver.mtu"
	optHostIPv4     = "com.docker.network.host_ipv4"
	optHostIPv6     = "com.docker.network.host_ipv6"
	optPrefix       = "com.docker.network.container_iface_prefix"
	optDefault      = "com.docker.network.bridge.default_bridge"

	// Of macvlan and ipvlan networks. Source: docker's drivers of these names.
	optParent      = "parent"
	optMacvlanMode = "macvlan_mode"
	optIPvlanMode  = "ipvlan_mode"
	optIPvlanFlag  = "ipvlan_flag"
)

// options are a network's driver options, read.
type options struct {
	bridge       string
	prefix       string // of interface names inside
	icc          bool
	masquerade   bool
	mtu          int
	binding4     netip.Addr
	binding6     netip.Addr
	mode4, mode6 firewall.Mode
	host4, host6 netip.Addr // masquerade as
	uplink       uplink     // of macvlan and ipvlan
}

func parseOptions(n Network) (options, error) {
	o := options{bridge: "br-" + n.ID[:min(12, len(n.ID))], prefix: "eth", icc: true, masquerade: true, mode4: firewall.NAT, mode6: firewall.NAT}
	var err error
	switch n.Driver {
	case DriverBridge:
	case DriverMacvlan, DriverIPvlan:
		if o.uplink, err = parseUplink(n); err != nil {
			return o, err
		}
	default:
		return o, nil
	}
	for key, value := range n.Options {
		bad := func(cause error) error {
			return fmt.Errorf("invalid value %q of option %s: %w: %w", value, key, cause, errdefs.ErrInvalidArgument)
		}
		var cause error
		switch key {
		case optBridgeName:
			o.bridge, cause = value, validInterface(value)
		case optPrefix:
			o.prefix, cause = value, validInterface(value+"0")
		case optICC:
			o.icc, cause = strconv.ParseBool(value)
		case optMasquerade:
			o.masquerade, cause = strconv.ParseBool(value)
		case optMTU:
			if o.mtu, cause = strconv.Atoi(value); cause == nil && (o.mtu < 0 || o.mtu > 65535) {
				cause = fmt.Errorf("out of range")
			}
		case optHostBinding4:
			o.binding4, cause = netip.ParseAddr(value)
		case optHostBinding6:
			o.binding6, cause = netip.ParseAddr(value)
		case optHostIPv4:
			o.host4, cause = netip.ParseAddr(value)
		case optHostIPv6:
			o.host6, cause = netip.ParseAddr(value)
		case optGatewayMode4:
			o.mode4, cause = gatewayMode(value)
		case optGatewayMode6:
			o.mode6, cause = gatewayMode(value)
		}
		if cause != nil {
			err = bad(cause)
		}
	}
	if err == nil && !n.Internal && (o.mode4 == firewall.Isolated || o.mode6 == firewall.Isolated) {
		err = fmt.Errorf("gateway mode 'isolated' can only be used for an internal network: %w", errdefs.ErrInvalidArgument)
	}
	return o, err
}

func gatewayMode(s string) (firewall.Mode, error) {
	switch m := firewall.Mode(s); m {
	case "":
		return firewall.NAT, nil
	case firewall.NAT, firewall.Routed, firewall.Unprotected, firewall.Isolated:
		return m, nil
	}
	return "", fmt.Errorf("unknown gateway mode")
}

// validInterface checks the name of an interface. Source: Linux net/core/dev.c,
// dev_valid_name.
func validInterface(name string) error {
	if name == "" || len(name) > 15 || name == "." || name == ".." {
		return fmt.Errorf("interface name %q must have 1 to 15 characters: %w", name, errdefs.ErrInvalidArgument)
	}
	for _, c := range name {
		if c <= ' ' || c > '~' || c == '/' || c == ':' || c == '"' {
			return fmt.Errorf("interface name %q has a character that is not allowed: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// rules is what the firewall has to know of a bridge network.
func (n *network) rules() firewall.Network {
	nat4, nat6 := n.options.mode4 != firewall.Routed, n.options.mode6 != firewall.Routed
	masquerade := n.options.masquerade && !n.Internal
	f := firewall.Network{
		Bridge: n.options.bridge, Internal: n.Internal, ICC: n.options.icc,
		Masquerade4: masquerade && nat4, Masquerade6: masquerade && nat6 && n.EnableIPv6,
		Mode4: n.options.mode4, Mode6: n.options.mode6,
	}
	for _, p := range n.IPAM.Pools {
		f.Subnets = append(f.Subnets, p.Subnet)
	}
	if f.Masquerade4 {
		f.SNAT4 = n.options.host4
	}
	if f.Masquerade6 {
		f.SNAT6 = n.options.host6
	}
	return f
}
