package networks

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"strata/pkg/linux/netns"
)

// mtu returns the MTU of an interface; nsPath "" is the host.
func mtu(t *testing.T, nsPath, name string) int {
	t.Helper()
	out := 0
	look := func() error {
		link, err := net.InterfaceByName(name)
		if err == nil {
			out = link.MTU
		}
		return err
	}
	err := look
	if nsPath != "" {
		err = func() error { return netns.DoPath(nsPath, look) }
	}
	if err := err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDriverOptionsReachTheKernel(t *testing.T) {
	l := newLab(t)
	lan := l.lan()
	serve(t, lan, 7)
	if err := address("lan0", "192.0.2.9/24"); err != nil {
		t.Fatal(err)
	}
	l.network(CreateRequest{Name: "named", Options: map[string]string{optBridgeName: "mine0", optMTU: "1400", optPrefix: "wire"}})
	named := l.container("named", on("named"))
	if got := mtu(t, "", "mine0"); got != 1400 {
		t.Errorf("MTU of the bridge = %d", got)
	}
	if got := mtu(t, named.NetnsPath, "wire0"); got != 1400 {
		t.Errorf("MTU inside = %d", got)
	}
	l.network(CreateRequest{Name: "plain", Options: map[string]string{optMasquerade: "false"}})
	plain := l.container("plain", on("plain"))
	reach(t, "outward without masquerade", plain.NetnsPath, "tcp", "192.0.2.2:7", plain.Endpoints[0].IPv4.Addr().String())
	l.network(CreateRequest{Name: "other", Options: map[string]string{optHostIPv4: "192.0.2.9"}})
	reach(t, "outward as another address of the host", l.container("other", on("other")).NetnsPath, "tcp", "192.0.2.2:7", "192.0.2.9")
	l.network(CreateRequest{Name: "bound", Options: map[string]string{optHostBinding4: "192.0.2.9"}})
	bound := l.container("bound", on("bound"), publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}))
	serve(t, bound.NetnsPath, 80)
	reach(t, "port on the address of the network's ports", lan, "tcp", "192.0.2.9:8080", "192.0.2.2")
	unreachable(t, "that port on another address", lan, "tcp", "192.0.2.1:8080")
	unreachable(t, "that port on 127.0.0.1", "", "tcp", "127.0.0.1:8080")
}

func TestNetworksTakeTheirConfigurationFromAnother(t *testing.T) {
	l := newLab(t)
	subnet := netip.MustParsePrefix("10.55.0.0/24")
	l.network(CreateRequest{Name: "template", ConfigOnly: true, IPAM: IPAM{Pools: []Pool{{Subnet: subnet}}}, Options: map[string]string{optMTU: "1300"}})
	if _, err := l.tryContainer("c", on("template")); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a container on a configuration network: %v", err)
	}
	n := l.network(CreateRequest{Name: "real", ConfigFrom: "template"})
	box := l.container("c", on("real"))
	if n.IPAM.Pools[0].Subnet != subnet || mtu(t, box.NetnsPath, "eth0") != 1300 {
		t.Errorf("network = %+v", n)
	}
	if err := l.Remove(t.Context(), "template"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("removal of a template in use: %v", err)
	}
	if err := errors.Join(l.Leave(t.Context(), box.ContainerID), l.Remove(t.Context(), "real")); err != nil {
		t.Error(err)
	}
}

func TestSubnetsComeFromTheConfiguredPoolsUntilTheyRunOut(t *testing.T) {
	l := newLab(t, func(c *Config) {
		c.DefaultAddressPools = []AddressPool{{netip.MustParsePrefix("10.200.0.0/22"), 24}, {netip.MustParsePrefix("fd42::/62"), 64}}
	})
	for i := range 3 { // the default bridge has the first
		n := l.network(CreateRequest{Name: fmt.Sprint("n", i), EnableIPv6: new(true)})
		want4, want6 := fmt.Sprintf("10.200.%d.0/24", i+1), []string{"fd42::/64", "fd42:0:0:1::/64", "fd42:0:0:2::/64"}[i]
		if got := n.IPAM.Pools; got[0].Subnet.String() != want4 || got[1].Subnet.String() != want6 {
			t.Errorf("network %d has %v, want %s and %s", i, got, want4, want6)
		}
	}
	if _, _, err := l.Create(t.Context(), CreateRequest{Name: "more"}); err == nil || !strings.Contains(err.Error(), "all predefined address pools have been fully subnetted") {
		t.Errorf("Create beyond the pools: %v", err)
	}
}

func TestRandomPortsComeFromTheEphemeralRange(t *testing.T) {
	l := newLab(t)
	var many []PortMapping
	for i := range 50 {
		many = append(many, PortMapping{Proto: []string{"tcp", "udp"}[i%2], ContainerPort: uint16(80 + i)})
	}
	seen := map[string]bool{}
	for _, p := range l.container("c", publish(many...)).Ports {
		key := fmt.Sprint(p.Proto, p.HostPort)
		if p.HostPort < 32768 || p.HostPort > 60999 || seen[key] {
			t.Errorf("port %s, want one of the ephemeral range, given once", key)
		}
		seen[key] = true
	}
}

// TestContainersDoNotReachTheHostsLoopback is the attack of a container that may change its
// own routes, on a bridge with route_localnet: packets for 127.0.0.1 sent through its gateway
// (CVE-2020-8558). Without the chain that drops them they arrive.
func TestContainersDoNotReachTheHostsLoopback(t *testing.T) {
	l := newLab(t)
	serve(t, "/proc/self/ns/net", 7777)
	box := l.container("c")
	err := netns.DoPath(box.NetnsPath, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		_, loopback, _ := net.ParseCIDR("127.0.0.0/8") // it is one
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0),
			netlink.AddrDel(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}),
			netlink.RouteAdd(&netlink.Route{Dst: loopback, Gw: box.Endpoints[0].Gateway4.AsSlice(), LinkIndex: eth0.Attrs().Index}),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	unreachable(t, "the host's loopback", box.NetnsPath, "tcp", "127.0.0.1:7777")
	l.stop() // nobody puts the chain back
	defer l.open()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	conn.FlushChain(&nftables.Chain{Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: l.cfg.FirewallTable}, Name: "guard"})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	reach(t, "the host's loopback, without the guard", box.NetnsPath, "tcp", "127.0.0.1:7777", "")
}

// TestNetworksComeBackAfterAReboot takes away what a reboot takes: tmpfs, netns, interfaces,
// tables, forwarding.
func TestNetworksComeBackAfterAReboot(t *testing.T) {
	l := newLab(t, v6)
	l.network(CreateRequest{Name: "app", EnableIPv6: new(true), IPAM: IPAM{Pools: []Pool{{Subnet: netip.MustParsePrefix("10.66.0.0/24")}}}})
	wish := func(r *Request) {
		r.Endpoints = []EndpointRequest{{Network: "app", IPv4: netip.MustParseAddr("10.66.0.7")}, {Network: "bridge"}}
		r.Ports = []PortMapping{{Proto: "tcp", ContainerPort: 80, HostPort: 8080}}
	}
	before := l.container("web", wish)
	l.stop()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	conn.FlushRuleset()
	if err := errors.Join(conn.Flush(), netns.Delete(before.NetnsPath), os.RemoveAll(l.cfg.ExecRoot)); err != nil {
		t.Fatal(err)
	}
	for _, n := range l.Networks() {
		if n.Driver == DriverBridge {
			link, err := netlink.LinkByName(bridgeOf(t, l, n))
			if err == nil {
				err = netlink.LinkDel(link)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	l.open()
	if got := l.ContainerIDs(); len(got) != 0 {
		t.Errorf("sandboxes after a reboot: %v", got)
	}
	lan := l.lan()
	web := l.container("web", wish)
	if web.Endpoints[0].IPv4 != before.Endpoints[0].IPv4 {
		t.Errorf("address = %v, want %v", web.Endpoints[0].IPv4, before.Endpoints[0].IPv4)
	}
	serve(t, web.NetnsPath, 80)
	reach(t, "the published port", lan, "tcp", "192.0.2.1:8080", "192.0.2.2")
	reach(t, "the published port, IPv6", lan, "tcp", "[2001:db8::1]:8080", "2001:db8::2")
}

func bridgeOf(t *testing.T, l *lab, n Network) string {
	t.Helper()
	found, err := l.find(n.ID)
	if err != nil {
		t.Fatal(err)
	}
	return found.options.bridge
}
