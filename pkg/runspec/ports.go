package runspec

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
)

// ParsePorts reads --publish items: [[IP:][HOST]:]CONTAINER[/PROTO], where HOST and CONTAINER are a
// port or a range of equal length (or HOST a longer range for a single CONTAINER), and IP may be an
// IPv6 address in brackets; or published=HOST,target=CONTAINER,protocol=PROTO.
func ParsePorts(items []string) (network.PortMap, error) {
	out := network.PortMap{}
	for _, item := range items {
		if strings.Contains(item, "=") {
			var err error
			if item, err = plainNotation(item); err != nil {
				return nil, err
			}
		}
		if err := parsePort(out, item); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func plainNotation(item string) (string, error) {
	proto, published, target := "tcp", "", ""
	for field := range strings.SplitSeq(item, ",") {
		k, v, ok := strings.Cut(field, "=")
		if !ok || k == "" {
			return "", invalid("invalid publish opts format (should be name=value but got '%s')", field)
		}
		switch k {
		case "protocol":
			proto = v
		case "published":
			published = v
		case "target":
			target = v
		}
	}
	return published + ":" + target + "/" + proto, nil
}

// span is a range of ports; an absent one has start 0 and end 0.
type span struct{ start, end int }

func (s span) len() int { return s.end - s.start + 1 }

func (s span) String() string {
	if s.start == s.end {
		return strconv.Itoa(s.start)
	}
	return strconv.Itoa(s.start) + "-" + strconv.Itoa(s.end)
}

func parseSpan(s string) (span, bool) {
	a, b, ranged := strings.Cut(s, "-")
	if !ranged {
		b = a
	}
	start, err1 := strconv.ParseUint(a, 10, 16)
	end, err2 := strconv.ParseUint(b, 10, 16)
	return span{int(start), int(end)}, err1 == nil && err2 == nil && start <= end
}

func parsePort(out network.PortMap, item string) error {
	rest, proto, _ := strings.Cut(item, "/")
	if proto = strings.ToLower(proto); proto == "" {
		proto = "tcp"
	}
	ip, host, ctr := splitPort(rest)
	if ctr == "" {
		return invalid("no port specified: %s<empty>", rest)
	}
	ctrPorts, ok := parseSpan(ctr)
	if !ok {
		return invalid("invalid containerPort: %s", ctr)
	}
	addr, err := parseHostIP(ip)
	if err != nil {
		return err
	}
	var hostPorts span
	if host != "" {
		if hostPorts, ok = parseSpan(host); !ok {
			return invalid("invalid hostPort: %s", host)
		}
		if hostPorts.len() != ctrPorts.len() && ctrPorts.len() != 1 {
			return invalid("invalid ranges specified for container and host Ports: %s and %s", ctr, host)
		}
	}
	if proto != "tcp" && proto != "udp" && proto != "sctp" {
		return invalid("invalid proto: %s", proto)
	}
	for i := range ctrPorts.len() {
		b := network.PortBinding{HostIP: addr}
		switch {
		case host == "":
		case ctrPorts.len() == 1:
			b.HostPort = hostPorts.String()
		default:
			b.HostPort = strconv.Itoa(hostPorts.start + i)
		}
		port, _ := network.PortFrom(uint16(ctrPorts.start+i), network.IPProtocol(proto))
		out[port] = append(out[port], b)
	}
	return nil
}

// splitPort cuts IP:HOST:CONTAINER from the right, because an address may hold colons.
func splitPort(s string) (ip, host, ctr string) {
	parts := strings.Split(s, ":")
	n := len(parts)
	ctr = parts[n-1]
	if n > 1 {
		host = parts[n-2]
	}
	if n > 2 {
		ip = strings.Join(parts[:n-2], ":")
	}
	return ip, host, ctr
}

func parseHostIP(ip string) (netip.Addr, error) {
	if ip == "" {
		return netip.Addr{}, nil
	}
	bare := ip
	if strings.HasPrefix(ip, "[") && strings.HasSuffix(ip, "]") {
		bare = ip[1 : len(ip)-1]
	}
	a, err := netip.ParseAddr(bare)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, invalid("invalid IP address: %s", ip)
	}
	return a, nil
}

// ParseExpose reads --expose items, PORT[-PORT][/PROTO], and adds the ports that are published.
func ParseExpose(items []string, published network.PortMap) (network.PortSet, error) {
	out := network.PortSet{}
	for port := range published {
		out[port] = struct{}{}
	}
	for _, item := range items {
		if strings.Contains(item, ":") {
			return nil, invalid("invalid port format for --expose: %s", item)
		}
		ports, proto, _ := strings.Cut(item, "/")
		if proto == "" {
			proto = "tcp"
		}
		r, ok := parseSpan(ports)
		if !ok {
			return nil, invalid("invalid range format for --expose: %s: want PORT[-PORT][/PROTO]", item)
		}
		for n := r.start; n <= r.end; n++ {
			port, _ := network.PortFrom(uint16(n), network.IPProtocol(strings.ToLower(proto)))
			out[port] = struct{}{}
		}
	}
	return out, nil
}
