package networks

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"strata/pkg/linux/netns"
)

func v6(c *Config) { c.IPv6 = true }

// TestPublishedPortIsReachedFromEverywhere walks every path to a published port, on a host
// whose bridges br_netfilter looks into (Docker and Kubernetes do that) and on one where not.
func TestPublishedPortIsReachedFromEverywhere(t *testing.T) {
	for _, filtered := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+filtered, func(t *testing.T) {
			filterBridges(t, filtered)
			walkPaths(t)
		})
	}
}

func walkPaths(t *testing.T) {
	l := newLab(t, v6)
	lan := l.lan()
	web := l.container("web", publish(
		PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}, PortMapping{Proto: "udp", ContainerPort: 80, HostPort: 8080},
		PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8081, HostIP: netip.MustParseAddr("127.0.0.1")},
		PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8082, HostIP: netip.MustParseAddr("192.0.2.1")},
		PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8083, HostIP: netip.IPv6Loopback()},
	))
	neighbour := l.container("neighbour")
	l.network(CreateRequest{Name: "other"})
	stranger := l.container("stranger", on("other"))
	serve(t, web.NetnsPath, 80)
	ip4, ip6 := web.Endpoints[0].IPv4.Addr(), web.Endpoints[0].IPv6.Addr()
	gateway4, gateway6 := web.Endpoints[0].Gateway4.String(), web.Endpoints[0].Gateway6.String()
	for _, proto := range []string{"tcp", "udp"} {
		reach(t, "host to 127.0.0.1", "", proto, "127.0.0.1:8080", gateway4)
		reach(t, "host to its LAN address", "", proto, "192.0.2.1:8080", "")
		reach(t, "host to ::1", "", proto, "[::1]:8080", gateway6) // relayed where br_netfilter keeps the kernel from it
		reach(t, "host to its IPv6 address", "", proto, "[2001:db8::1]:8080", "")
		reach(t, "LAN", lan, proto, "192.0.2.1:8080", "192.0.2.2")
		reach(t, "LAN, IPv6", lan, proto, "[2001:db8::1]:8080", "2001:db8::2")
		reach(t, "neighbour directly", neighbour.NetnsPath, proto, netip.AddrPortFrom(ip4, 80).String(), neighbour.Endpoints[0].IPv4.Addr().String())
		reach(t, "neighbour directly, IPv6", neighbour.NetnsPath, proto, netip.AddrPortFrom(ip6, 80).String(), neighbour.Endpoints[0].IPv6.Addr().String())
		reach(t, "neighbour by the host's address", neighbour.NetnsPath, proto, "192.0.2.1:8080", gateway4)
		reach(t, "neighbour by the gateway", neighbour.NetnsPath, proto, gateway4+":8080", gateway4)
		reach(t, "itself by the host's address", web.NetnsPath, proto, "192.0.2.1:8080", gateway4)
		reach(t, "itself by the host's IPv6 address", web.NetnsPath, proto, "[2001:db8::1]:8080", gateway6)
		reach(t, "another network by the host's address", stranger.NetnsPath, proto, "192.0.2.1:8080", stranger.Endpoints[0].IPv4.Addr().String())
		reach(t, "host directly", "", proto, netip.AddrPortFrom(ip4, 80).String(), gateway4)
		unreachable(t, "another network directly", stranger.NetnsPath, proto, netip.AddrPortFrom(ip4, 80).String())
		unreachable(t, "LAN directly, although it has a route", lan, proto, netip.AddrPortFrom(ip4, 80).String())
		unreachable(t, "LAN directly, IPv6", lan, proto, netip.AddrPortFrom(ip6, 80).String())
	}
	reach(t, "port on 127.0.0.1", "", "tcp", "127.0.0.1:8081", gateway4)
	unreachable(t, "port on 127.0.0.1 by the LAN address", "", "tcp", "192.0.2.1:8081")
	unreachable(t, "port on 127.0.0.1 from the LAN", lan, "tcp", "192.0.2.1:8081")
	reach(t, "port on the LAN address", lan, "tcp", "192.0.2.1:8082", "192.0.2.2")
	unreachable(t, "port on the LAN address by 127.0.0.1", "", "tcp", "127.0.0.1:8082")
	reach(t, "port on ::1", "", "tcp", "[::1]:8083", gateway6)
	unreachable(t, "port on ::1 by 127.0.0.1", "", "tcp", "127.0.0.1:8083")
}

func TestOutwardTrafficIsMasqueraded(t *testing.T) {
	l := newLab(t, v6)
	lan := l.lan()
	serve(t, lan, 7)
	c := l.container("c")
	reach(t, "container to LAN", c.NetnsPath, "tcp", "192.0.2.2:7", "192.0.2.1")
	reach(t, "container to LAN, UDP", c.NetnsPath, "udp", "192.0.2.2:7", "192.0.2.1")
	reach(t, "container to LAN, IPv6", c.NetnsPath, "tcp", "[2001:db8::2]:7", "2001:db8::1")
}

func TestIPv6ClientReachesAnIPv4OnlyContainer(t *testing.T) {
	l := newLab(t)
	lan := l.lan()
	web := l.container("web", publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}, PortMapping{Proto: "udp", ContainerPort: 80, HostPort: 8080}))
	serve(t, web.NetnsPath, 80)
	gateway := web.Endpoints[0].Gateway4.String()
	for _, proto := range []string{"tcp", "udp"} {
		reach(t, "host to ::1", "", proto, "[::1]:8080", gateway)
		reach(t, "host to 127.0.0.1", "", proto, "127.0.0.1:8080", gateway)
		reach(t, "LAN, IPv6", lan, proto, "[2001:db8::1]:8080", gateway)
	}
}

func TestNetworksAreIsolated(t *testing.T) {
	for _, filtered := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+filtered, func(t *testing.T) {
			filterBridges(t, filtered)
			frontendBackend(t)
		})
	}
}

// frontendBackend is the classic lab: nginx must not reach the database, the API reaches
// both.
func frontendBackend(t *testing.T) {
	l := newLab(t)
	lan := l.lan()
	serve(t, lan, 7)
	l.network(CreateRequest{Name: "front"})
	l.network(CreateRequest{Name: "back", Internal: true})
	l.network(CreateRequest{Name: "quiet", Options: map[string]string{optICC: "false"}})
	nginx := l.container("nginx", on("front"))
	api := l.container("api", on("front", "back"))
	db := l.container("db", on("back"))
	a, b := l.container("a", on("quiet")), l.container("b", on("quiet"), publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8090}))
	for _, box := range []Sandbox{nginx, api, db, a, b} {
		serve(t, box.NetnsPath, 80)
	}
	at := func(box Sandbox, i int) string { return netip.AddrPortFrom(box.Endpoints[i].IPv4.Addr(), 80).String() }
	reach(t, "nginx to api", nginx.NetnsPath, "tcp", at(api, 0), "")
	reach(t, "api to db", api.NetnsPath, "tcp", at(db, 0), api.Endpoints[1].IPv4.Addr().String())
	unreachable(t, "nginx to db", nginx.NetnsPath, "tcp", at(db, 0))
	unreachable(t, "db to nginx", db.NetnsPath, "tcp", at(nginx, 0))
	unreachable(t, "db to the LAN", db.NetnsPath, "tcp", "192.0.2.2:7")
	unreachable(t, "LAN to db", lan, "tcp", at(db, 0))
	reach(t, "host to db", "", "tcp", at(db, 0), "")
	unreachable(t, "a to b without inter-container communication", a.NetnsPath, "tcp", at(b, 0))
	reach(t, "a to the published port of b", a.NetnsPath, "tcp", "192.0.2.1:8090", "")
	reach(t, "a to the LAN", a.NetnsPath, "tcp", "192.0.2.2:7", "192.0.2.1")
	unreachable(t, "container to the host's loopback", a.NetnsPath, "tcp", "127.0.0.1:8090")
}

func TestGatewayModes(t *testing.T) {
	l := newLab(t)
	lan := l.lan()
	l.network(CreateRequest{Name: "routed", Options: map[string]string{optGatewayMode4: "routed"}})
	l.network(CreateRequest{Name: "open", Options: map[string]string{optGatewayMode4: "nat-unprotected"}})
	r := l.container("r", on("routed"), publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}))
	o := l.container("o", on("open"))
	for _, box := range []Sandbox{r, o} {
		serve(t, box.NetnsPath, 80)
		serve(t, box.NetnsPath, 81)
	}
	addr := func(box Sandbox, port uint16) string { return fmt.Sprintf("%s:%d", box.Endpoints[0].IPv4.Addr(), port) }
	reach(t, "routed: published port by the container's address", lan, "tcp", addr(r, 80), "192.0.2.2")
	unreachable(t, "routed: another port", lan, "tcp", addr(r, 81))
	unreachable(t, "routed: the host's port", lan, "tcp", "192.0.2.1:8080")
	reach(t, "unprotected: any port", lan, "tcp", addr(o, 81), "192.0.2.2")
}

// heard waits until a container hears those who ask for the MAC of its IPv6 address, which
// the kernel sees to in the background, and long before a process could start in it. Source:
// RFC 4291, 2.7.1.
func heard(t *testing.T, box Sandbox) {
	t.Helper()
	a := box.Endpoints[0].IPv6.Addr().As16()
	group := fmt.Sprintf("ff0200000000000000000001ff%x", a[13:])
	eventually(t, "the container hears neighbours", func() error {
		return netns.DoPath(box.NetnsPath, func() error {
			groups, err := os.ReadFile("/proc/thread-self/net/igmp6")
			if err == nil && !strings.Contains(string(groups), group) {
				err = fmt.Errorf("%s is not in\n%s", group, groups)
			}
			return err
		})
	})
}

// TestTheFirstPacketArrives asks once, at once, after the first container has joined a new
// network: a question for a neighbour's MAC that is lost then is asked again after a second.
func TestTheFirstPacketArrives(t *testing.T) {
	l := newLab(t, v6)
	lan := l.lan()
	serve(t, lan, 7)
	eventually(t, "the LAN has IPv6", func() error { _, err := ask("", "tcp", "[2001:db8::2]:7"); return err })
	for i, path := range []func(box Sandbox) (from, network, to string){
		func(Sandbox) (string, string, string) { return lan, "tcp", "192.0.2.1:8080" },
		func(Sandbox) (string, string, string) { return lan, "tcp", "[2001:db8::1]:8080" },
		func(Sandbox) (string, string, string) { return lan, "udp", "192.0.2.1:8080" },
		func(Sandbox) (string, string, string) { return "", "tcp", "127.0.0.1:8080" },
		func(Sandbox) (string, string, string) { return "", "udp", "[::1]:8080" },
		func(box Sandbox) (string, string, string) { return "", "udp", at(box.Endpoints[0], 80) },
		func(box Sandbox) (string, string, string) { return box.NetnsPath, "udp", "192.0.2.2:7" },
		func(box Sandbox) (string, string, string) { return box.NetnsPath, "udp", "[2001:db8::2]:7" },
	} {
		name := fmt.Sprint("n", i)
		l.network(CreateRequest{Name: name, EnableIPv6: new(true)})
		box := l.container(name, on(name), publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}, PortMapping{Proto: "udp", ContainerPort: 80, HostPort: 8080}))
		serve(t, box.NetnsPath, 80)
		heard(t, box)
		from, network, to := path(box)
		begin := time.Now()
		if _, err := ask(from, network, to); err != nil {
			t.Errorf("from %q to %s %s: %v after %v", from, network, to, err, time.Since(begin))
		}
		if err := l.Leave(t.Context(), box.ContainerID); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInterfacesWithoutAnIPv6AddressHaveNoIPv6 joins networks with and without IPv6, in both
// orders, and looks at every interface.
func TestInterfacesWithoutAnIPv6AddressHaveNoIPv6(t *testing.T) {
	l := newLab(t)
	l.network(CreateRequest{Name: "four"})
	l.network(CreateRequest{Name: "six", EnableIPv6: new(true)})
	want := func(box Sandbox, name string, ipv6 bool) {
		t.Helper()
		eventually(t, "interface "+name, func() error {
			return netns.DoPath(box.NetnsPath, func() error {
				link, err := net.InterfaceByName(name)
				if err != nil {
					return err
				}
				addrs, err := link.Addrs()
				if err != nil {
					return err
				}
				found := slices.ContainsFunc(addrs, func(a net.Addr) bool { return strings.Contains(a.String(), ":") })
				if found != ipv6 {
					return fmt.Errorf("addresses %v, want IPv6: %v", addrs, ipv6)
				}
				return nil
			})
		})
	}
	both := l.container("both", on("four", "six"))
	want(both, "eth0", false)
	want(both, "eth1", true)
	later := l.container("later", on("four"))
	for _, network := range []string{"six", "bridge"} {
		if _, err := l.Connect(t.Context(), later.ContainerID, EndpointRequest{Network: network}); err != nil {
			t.Fatal(err)
		}
	}
	want(later, "eth0", false)
	want(later, "eth1", true)
	want(later, "eth2", false)
}

// TestGatewayModesOfIPv6 has a network whose IPv4 is translated and whose IPv6 is routed, and
// an internal one without a gateway.
func TestGatewayModesOfIPv6(t *testing.T) {
	l := newLab(t)
	lan := l.lan()
	serve(t, lan, 7)
	l.network(CreateRequest{Name: "routed6", EnableIPv6: new(true), Options: map[string]string{optGatewayMode6: "routed"}})
	l.network(CreateRequest{Name: "sealed", Internal: true, EnableIPv6: new(true), Options: map[string]string{optGatewayMode4: "isolated", optGatewayMode6: "isolated"}})
	web := l.container("web", on("routed6"), publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}))
	serve(t, web.NetnsPath, 80)
	serve(t, web.NetnsPath, 81)
	e := web.Endpoints[0]
	reach(t, "IPv4, translated", lan, "tcp", "192.0.2.1:8080", "192.0.2.2")
	unreachable(t, "IPv4, by the container's address", lan, "tcp", at(e, 80))
	reach(t, "IPv6, by the container's address", lan, "tcp", netip.AddrPortFrom(e.IPv6.Addr(), 80).String(), "2001:db8::2")
	unreachable(t, "IPv6, another port", lan, "tcp", netip.AddrPortFrom(e.IPv6.Addr(), 81).String())
	reach(t, "outward by IPv6, with its own address", web.NetnsPath, "tcp", "[2001:db8::2]:7", e.IPv6.Addr().String())

	a, b := l.container("a", on("sealed")), l.container("b", on("sealed"))
	serve(t, a.NetnsPath, 80)
	reach(t, "sealed: a neighbour", b.NetnsPath, "tcp", at(a.Endpoints[0], 80), b.Endpoints[0].IPv4.Addr().String())
	unreachable(t, "sealed: the host", "", "tcp", at(a.Endpoints[0], 80))
	if _, err := netlink.RouteGet(a.Endpoints[0].IPv4.Addr().AsSlice()); err == nil {
		t.Error("the host has a route to an isolated network")
	}
}

// filterBridges switches br_netfilter's look into bridges on or off in our netns.
func filterBridges(t *testing.T, value string) {
	t.Helper()
	for _, key := range []string{"iptables", "ip6tables"} {
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+key, []byte(value), 0)
		if errors.Is(err, os.ErrNotExist) && value == "0" {
			continue // no br_netfilter
		}
		if errors.Is(err, os.ErrNotExist) {
			t.Skip("needs the kernel module br_netfilter")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestFirewallIsLeftAloneIfToldSo also checks what is left of published ports then: TCP and
// UDP, relayed.
func TestFirewallIsLeftAloneIfToldSo(t *testing.T) {
	l := newLab(t, func(c *Config) { c.IPTables = false })
	web := l.container("web", publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}, PortMapping{Proto: "udp", ContainerPort: 80, HostPort: 8080}))
	serve(t, web.NetnsPath, 80)
	for _, proto := range []string{"tcp", "udp"} {
		reach(t, "host to 127.0.0.1", "", proto, "127.0.0.1:8080", web.Endpoints[0].Gateway4.String())
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	if tables, err := conn.ListTables(); err != nil || len(tables) != 0 {
		t.Errorf("tables: %v, %v, want none", tables, err)
	}
}
