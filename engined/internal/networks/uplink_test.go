package networks

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"strata/pkg/linux/netns"
)

// wire skips the test if the kernel cannot make interfaces of a kind, which is tried on the
// wire to the LAN, and returns the LAN.
func wire(t *testing.T, l *lab, kind string) string {
	t.Helper()
	lan := l.lan()
	parent, err := netlink.LinkByName("lan0")
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "probe", parent.Attrs().Index
	var link netlink.Link
	switch kind {
	case "macvlan":
		link = &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
	case "ipvlan":
		link = &netlink.IPVlan{LinkAttrs: attrs}
	case "vlan":
		link = &netlink.Vlan{LinkAttrs: attrs, VlanId: 4000, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	case "dummy":
		link = &netlink.Dummy{LinkAttrs: attrs}
	}
	err = netlink.LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("needs a kernel with %s interfaces", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	return lan
}

// uplinkRequest asks for a network on the LAN.
func uplinkRequest(name, driver string, options ...string) CreateRequest {
	r := CreateRequest{
		Name: name, Driver: driver, Options: map[string]string{},
		IPAM: IPAM{Pools: []Pool{{Subnet: netip.MustParsePrefix("192.0.2.0/24"), Range: netip.MustParsePrefix("192.0.2.128/25"), Gateway: netip.MustParseAddr("192.0.2.2")}}},
	}
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		r.Options[key] = value
	}
	return r
}

func at(e Endpoint, port uint16) string { return netip.AddrPortFrom(e.IPv4.Addr(), port).String() }

func TestMacvlanModes(t *testing.T) {
	tests := []struct {
		mode      string
		neighbour bool // containers reach each other
		many      bool
	}{{"", true, true}, {"bridge", true, true}, {"private", false, true}, {"vepa", false, true}, {"passthru", false, false}}
	for _, tt := range tests {
		t.Run("mode "+tt.mode, func(t *testing.T) {
			l := newLab(t)
			lan := wire(t, l, "macvlan")
			options := []string{"parent=lan0"}
			if tt.mode != "" {
				options = append(options, "macvlan_mode="+tt.mode)
			}
			l.network(uplinkRequest("wire", DriverMacvlan, options...))
			a := l.container("a", on("wire"))
			ea := a.Endpoints[0]
			serve(t, a.NetnsPath, 80)
			if ea.HostVeth != "" || ea.Interface != "eth0" || ea.IPv4.String() != "192.0.2.128/24" || ea.Gateway4.String() != "192.0.2.2" {
				t.Errorf("endpoint = %+v", ea)
			}
			inside(t, a.NetnsPath, func() error {
				link, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				if link.Type() != "macvlan" || link.Attrs().HardwareAddr.String() != ea.MAC.String() {
					return fmt.Errorf("eth0 is a %s with %s, want macvlan with %s", link.Type(), link.Attrs().HardwareAddr, ea.MAC)
				}
				return nil
			})
			reach(t, "LAN", lan, "tcp", at(ea, 80), "192.0.2.2")
			serve(t, lan, 8000)
			reach(t, "container to LAN", a.NetnsPath, "tcp", "192.0.2.2:8000", "192.0.2.128")
			b, err := l.tryContainer("b", on("wire"))
			if !tt.many {
				if !errdefs.IsConflict(err) {
					t.Errorf("second container on a parent that was passed through: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.neighbour {
				reach(t, "neighbour", b.NetnsPath, "tcp", at(ea, 80), "192.0.2.129")
			} else {
				unreachable(t, "neighbour", b.NetnsPath, "tcp", at(ea, 80))
			}
			// The address and the MAC are free at once.
			for range 5 {
				if err := l.Leave(t.Context(), b.ContainerID); err != nil {
					t.Fatal(err)
				}
				b = l.container("b", func(r *Request) {
					r.Endpoints = []EndpointRequest{{Network: "wire", IPv4: netip.MustParseAddr("192.0.2.129")}}
				})
			}
		})
	}
}

func TestUplinksComeAndGoOnARunningContainer(t *testing.T) {
	l := newLab(t)
	lan := wire(t, l, "macvlan")
	l.network(uplinkRequest("wire", DriverMacvlan, "parent=lan0"))
	web := l.container("web", on("bridge"), publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}))
	serve(t, web.NetnsPath, 80)
	mac, _ := net.ParseMAC("02:42:00:00:00:99")
	e, err := l.Connect(t.Context(), web.ContainerID, EndpointRequest{Network: "wire", IPv4: netip.MustParseAddr("192.0.2.200"), MAC: mac})
	if err != nil {
		t.Fatal(err)
	}
	if e.Interface != "eth1" || e.MAC.String() != mac.String() {
		t.Errorf("endpoint = %+v", e)
	}
	reach(t, "LAN", lan, "tcp", "192.0.2.200:80", "192.0.2.2")
	reach(t, "published port stays on the bridge", "", "tcp", "127.0.0.1:8080", "")
	l.restart()
	if attached, err := l.Disconnect(t.Context(), web.ContainerID, "wire"); err != nil || !attached {
		t.Errorf("Disconnect = %v, %v", attached, err)
	}
	unreachable(t, "after Disconnect", lan, "tcp", "192.0.2.200:80")
	reach(t, "published port after Disconnect", lan, "tcp", "192.0.2.1:8080", "")
}

func TestInternalUplinkHasNoWayOut(t *testing.T) {
	l := newLab(t)
	lan := wire(t, l, "macvlan")
	r := uplinkRequest("wire", DriverMacvlan, "parent=lan0")
	r.Internal = true
	l.network(r)
	box := l.container("c", on("wire"))
	inside(t, box.NetnsPath, func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if err == nil && len(routes) != 1 {
			err = fmt.Errorf("routes: %v, want only the subnet's", routes)
		}
		return err
	})
	_ = lan
}

func TestVLANComesAndGoesWithItsNetworks(t *testing.T) {
	l := newLab(t)
	lan := wire(t, l, "vlan")
	inside(t, lan, func() error { // the neighbour on VLAN 10
		parent, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = "v10", parent.Attrs().Index
		if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: 10, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}); err != nil {
			return err
		}
		return address("v10", "198.51.100.2/24")
	})
	request := func(name, subnet string) CreateRequest {
		return CreateRequest{Name: name, Driver: DriverMacvlan, Options: map[string]string{"parent": "lan0.10"}, IPAM: IPAM{Pools: []Pool{{Subnet: netip.MustParsePrefix(subnet)}}}}
	}
	l.network(request("ten", "198.51.100.0/24"))
	l.network(request("too", "203.0.113.0/24"))
	box := l.container("c", func(r *Request) {
		r.Endpoints = []EndpointRequest{{Network: "ten", IPv4: netip.MustParseAddr("198.51.100.9")}}
	})
	serve(t, box.NetnsPath, 80)
	reach(t, "neighbour on the VLAN", lan, "tcp", "198.51.100.9:80", "198.51.100.2")
	if err := l.Leave(t.Context(), box.ContainerID); err != nil {
		t.Fatal(err)
	}
	if err := l.Remove(t.Context(), "ten"); err != nil {
		t.Fatal(err)
	}
	if !l.host.Exists("lan0.10") {
		t.Error("the VLAN went although a network has it")
	}
	// A reboot: the VLAN is made again.
	link, err := netlink.LinkByName("lan0.10")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	l.restart()
	if !l.host.Exists("lan0.10") {
		t.Error("the VLAN is not there after a restart")
	}
	if err := l.Remove(t.Context(), "too"); err != nil {
		t.Fatal(err)
	}
	if l.host.Exists("lan0.10") {
		t.Error("the VLAN is left after its last network")
	}
	if !l.host.Exists("lan0") {
		t.Error("the operator's interface was removed")
	}
}

func TestUplinkWithoutParentLeadsNowhere(t *testing.T) {
	l := newLab(t)
	wire(t, l, "dummy")
	n := l.network(CreateRequest{Name: "island", Driver: DriverMacvlan})
	a, b := l.container("a", on("island")), l.container("b", on("island"))
	serve(t, a.NetnsPath, 80)
	reach(t, "neighbour", b.NetnsPath, "tcp", at(a.Endpoints[0], 80), "")
	for _, c := range []Sandbox{a, b} {
		if err := l.Leave(t.Context(), c.ContainerID); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Remove(t.Context(), "island"); err != nil {
		t.Fatal(err)
	}
	if l.host.Exists("dm-" + n.ID[:12]) {
		t.Error("the parent that we made is left")
	}
}

func TestIPvlanModes(t *testing.T) {
	for _, mode := range []string{"", "l2", "l3", "l3s"} {
		t.Run("mode "+mode, func(t *testing.T) {
			l := newLab(t)
			lan := wire(t, l, "ipvlan")
			options := []string{"parent=lan0"}
			if mode != "" {
				options = append(options, "ipvlan_mode="+mode)
			}
			l.network(uplinkRequest("wire", DriverIPvlan, options...))
			a, b := l.container("a", on("wire")), l.container("b", on("wire"))
			serve(t, a.NetnsPath, 80)
			reach(t, "neighbour", b.NetnsPath, "tcp", at(a.Endpoints[0], 80), "192.0.2.129")
			if mode == "l3" || mode == "l3s" {
				// The LAN must know the way: the parent answers no ARP for it.
				inside(t, lan, func() error {
					return netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(192, 0, 2, 128), Mask: net.CIDRMask(25, 32)}, Gw: net.ParseIP("192.0.2.1")})
				})
				if a.Endpoints[0].Gateway4.IsValid() || !a.Endpoints[0].OnLink {
					t.Errorf("endpoint = %+v, want none but the link", a.Endpoints[0])
				}
			}
			reach(t, "LAN", lan, "tcp", at(a.Endpoints[0], 80), "192.0.2.2")
			serve(t, lan, 8000)
			reach(t, "container to LAN", a.NetnsPath, "tcp", "192.0.2.2:8000", "192.0.2.128")
		})
	}
}

func TestUplinksAreRefusedInDockerdsWords(t *testing.T) {
	l := newLab(t)
	wire(t, l, "macvlan")
	l.network(uplinkRequest("whole", DriverMacvlan, "parent=lan0", "macvlan_mode=passthru"))
	other := func(driver string, options ...string) CreateRequest {
		r := uplinkRequest("n", driver, options...)
		r.IPAM = IPAM{}
		return r
	}
	tests := []struct {
		name    string
		request CreateRequest
		class   error
		text    string
	}{
		{"macvlan mode", other(DriverMacvlan, "parent=lan0", "macvlan_mode=l2"), errdefs.ErrInvalidArgument, "requested macvlan mode 'l2' is not valid, 'bridge' mode is the macvlan driver default"},
		{"ipvlan mode", other(DriverIPvlan, "parent=lan0", "ipvlan_mode=bridge"), errdefs.ErrInvalidArgument, "requested ipvlan mode 'bridge' is not valid, 'l2' mode is the ipvlan driver default"},
		{"ipvlan flag", other(DriverIPvlan, "parent=lan0", "ipvlan_flag=x"), errdefs.ErrInvalidArgument, "requested ipvlan flag 'x' is not valid, 'bridge' flag is the ipvlan driver default"},
		{"loopback", other(DriverMacvlan, "parent=lo"), errdefs.ErrInvalidArgument, "loopback interface is not a valid parent link"},
		{"no VLAN", other(DriverMacvlan, "parent=absent"), errdefs.ErrInvalidArgument, "invalid subinterface vlan name absent, example formatting is eth0.10"},
		{"VLAN id", other(DriverMacvlan, "parent=lan0.4095"), errdefs.ErrInvalidArgument, "vlan id must be between 1-4094, received: 4095"},
		{"below the VLAN", other(DriverMacvlan, "parent=absent.10"), errdefs.ErrNotFound, "absent"},
		{"passed through", other(DriverMacvlan, "parent=lan0"), errdefs.ErrPermissionDenied, "network whole is already using parent interface lan0"},
		{"overlap", uplinkRequest("n", DriverMacvlan, "parent=lan0"), errdefs.ErrPermissionDenied, "Pool overlaps with other one on this address space"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if n, _, err := l.Create(t.Context(), tt.request); !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Create = %+v, %v, want class %v and %q", n, err, tt.class, tt.text)
			}
		})
	}
}

func inside(t *testing.T, nsPath string, fn func() error) {
	t.Helper()
	if err := netns.DoPath(nsPath, fn); err != nil {
		t.Error(err)
	}
}
