package runspec

import (
	"encoding/csv"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// attachment is one --network.
type attachment struct {
	name       string
	aliases    []string
	driverOpts map[string]string
	ip, ip6    string
	linkLocal  []string
	mac        string
	gwPriority int
	links      []string
}

// networking reads --network and the options of its first endpoint. It sets the network mode.
func (p *parser) networking(h *container.HostConfig) *network.NetworkingConfig {
	var atts []attachment
	for _, s := range p.f.StringSlice("network") {
		atts = append(atts, try(parseNetwork(s)).in(p))
	}
	if len(atts) == 0 {
		atts = []attachment{{name: network.NetworkDefault}}
	}
	p.firstEndpoint(&atts[0], h)
	h.NetworkMode = container.NetworkMode(atts[0].name)
	out := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
	p.checkModes(atts)
	for _, a := range atts {
		if _, twice := out.EndpointsConfig[a.name]; twice {
			p.fail(invalid("network %q is specified multiple times", a.name))
			continue
		}
		ep := try(a.settings()).in(p)
		if len(atts) == 1 && a.plain() && p.f.IsSet("network") {
			continue // the network mode says it all
		}
		out.EndpointsConfig[a.name] = ep
	}
	return out
}

// checkModes refuses several networks where one of them is no network.
func (p *parser) checkModes(atts []attachment) {
	if len(atts) < 2 {
		return
	}
	for _, a := range atts {
		mode := container.NetworkMode(a.name)
		if mode.IsHost() || mode.IsNone() || mode.IsContainer() {
			p.fail(invalid("conflicting options: cannot attach both user-defined and non-user-defined network-modes"))
			return
		}
	}
}

// firstEndpoint adds the options that docker had before --network could carry them.
func (p *parser) firstEndpoint(a *attachment, h *container.HostConfig) {
	f := p.f
	mode := container.NetworkMode(a.name)
	aliases := f.StringSlice("network-alias")
	if len(a.aliases) > 0 && len(aliases) > 0 {
		p.fail(invalid("conflicting options: cannot specify both --network-alias and per-network alias"))
	}
	a.aliases = append(a.aliases, aliases...)
	if len(a.aliases) > 0 && !mode.IsUserDefined() {
		p.fail(invalid("network-scoped aliases are only supported for user-defined networks"))
	}
	p.single(&a.ip, "ip", "IPv4 address")
	p.single(&a.ip6, "ip6", "IPv6 address")
	p.single(&a.mac, "mac-address", "mac-address")
	a.linkLocal = append(a.linkLocal, f.StringSlice("link-local-ip")...)
	if mode.IsUserDefined() {
		a.links = h.Links
	}
	if a.mac != "" {
		if _, err := net.ParseMAC(strings.TrimSpace(a.mac)); err != nil {
			p.fail(invalid("%s is not a valid mac address", a.mac))
		}
		p.mac = a.mac
	}
}

// single lets an option fill a field that --network has left empty.
func (p *parser) single(field *string, flag, what string) {
	v := p.f.String(flag)
	if v == "" {
		return
	}
	if *field != "" {
		p.fail(invalid("conflicting options: cannot specify both --%s and per-network %s", flag, what))
		return
	}
	*field = v
}

func (a attachment) plain() bool {
	return len(a.aliases) == 0 && len(a.driverOpts) == 0 && a.ip == "" && a.ip6 == "" &&
		len(a.linkLocal) == 0 && a.mac == "" && a.gwPriority == 0 && len(a.links) == 0
}

func (a attachment) settings() (*network.EndpointSettings, error) {
	ep := &network.EndpointSettings{Aliases: a.aliases, DriverOpts: a.driverOpts, Links: a.links, GwPriority: a.gwPriority}
	if a.ip != "" || a.ip6 != "" || len(a.linkLocal) > 0 {
		ipam, err := EndpointIPAM(a.ip, a.ip6, a.linkLocal)
		if err != nil {
			return nil, err
		}
		ep.IPAMConfig = ipam
	}
	if a.mac != "" {
		if mac, err := net.ParseMAC(strings.TrimSpace(a.mac)); err == nil { // an error was reported by firstEndpoint
			ep.MacAddress = network.HardwareAddr(mac)
		}
	}
	return ep, nil
}

// EndpointIPAM reads the addresses that a user wants for an endpoint.
func EndpointIPAM(ip, ip6 string, linkLocal []string) (*network.EndpointIPAMConfig, error) {
	out := &network.EndpointIPAMConfig{}
	var err error
	if ip != "" {
		if out.IPv4Address, err = netip.ParseAddr(ip); err != nil {
			return nil, invalid("invalid IPv4 address: %s", ip)
		}
	}
	if ip6 != "" {
		if out.IPv6Address, err = netip.ParseAddr(ip6); err != nil {
			return nil, invalid("invalid IPv6 address: %s", ip6)
		}
	}
	for _, s := range linkLocal {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, invalid("%s is not an ip address", s)
		}
		out.LinkLocalIPs = append(out.LinkLocalIPs, a)
	}
	return out, nil
}

// parseNetwork reads a name, or name=…,alias=…,ip=… fields.
func parseNetwork(s string) (attachment, error) {
	if !strings.Contains(s, "=") || strings.HasPrefix(s, "container:") {
		return attachment{name: s}, nil
	}
	var a attachment
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return a, invalid("invalid network %q: %v", s, err)
	}
	for _, field := range fields {
		k, v, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok || k == "" {
			return a, invalid("invalid value for --network: field %q must be a key=value pair", field)
		}
		if err := a.set(strings.ToLower(k), v); err != nil {
			return a, err
		}
	}
	if a.name == "" {
		return a, invalid("network name/id is not specified")
	}
	return a, nil
}

func (a *attachment) set(key, value string) error {
	switch key {
	case "name":
		a.name = value
	case "alias":
		a.aliases = append(a.aliases, strings.ToLower(value))
	case "driver-opt":
		k, v, ok := strings.Cut(value, "=")
		if !ok || k == "" {
			return invalid("invalid key value pair format in driver options")
		}
		setPair(&a.driverOpts, strings.ToLower(k), strings.ToLower(v))
	case "ip":
		a.ip = value
	case "ip6":
		a.ip6 = value
	case "mac-address":
		a.mac = value
	case "link-local-ip":
		a.linkLocal = append(a.linkLocal, value)
	case "gw-priority":
		n, err := strconv.Atoi(value)
		if err != nil {
			return invalid("invalid gw-priority (%s): value must be an integer", value)
		}
		a.gwPriority = n
	default:
		return invalid("invalid field key %s", key)
	}
	return nil
}
