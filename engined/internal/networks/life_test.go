package networks

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"strata/engined/internal/networks/ports"
	"strata/pkg/linux/netns"
	"strata/pkg/names"
)

func TestRestartKeepsNetnsAddressesPortsAndConnections(t *testing.T) {
	l := newLab(t)
	l.network(CreateRequest{Name: "app"})
	web := l.container("web", on("app"), publish(PortMapping{Proto: "tcp", ContainerPort: 80}))
	serve(t, web.NetnsPath, 80)
	inode, err := netns.Inode(web.NetnsPath)
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("127.0.0.1:%d", web.Ports[0].HostPort)
	l.stop()
	reach(t, "with the engine dead", "", "tcp", at, "")
	l.open()
	reach(t, "after the restart", "", "tcp", at, "")
	again, ok := l.Sandbox(web.ContainerID)
	if !ok || fmt.Sprint(again) != fmt.Sprint(web) {
		t.Errorf("Sandbox after a restart = %+v, want %+v", again, web)
	}
	if now, err := netns.Inode(web.NetnsPath); err != nil || now != inode {
		t.Errorf("netns = %d, %v, want %d", now, err, inode)
	}
	l.log.take()
	if box, err := l.Join(t.Context(), Request{ContainerID: web.ContainerID}); err != nil || fmt.Sprint(box) != fmt.Sprint(web) {
		t.Errorf("second Join = %+v, %v, want the same sandbox", box, err)
	}
	if got := l.log.take(); got != "" {
		t.Errorf("events of a Join that changes nothing: %s", got)
	}
	// The address is taken, and the port.
	if other := l.container("other", on("app")); other.Endpoints[0].IPv4 == web.Endpoints[0].IPv4 {
		t.Errorf("both containers have %v", other.Endpoints[0].IPv4)
	}
	var conflict *ports.ConflictError
	_, err = l.tryContainer("thief", on("app"), publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: web.Ports[0].HostPort}))
	if !errors.As(err, &conflict) || !strings.Contains(err.Error(), "port is already allocated by container web") {
		t.Errorf("Join with a taken port = %v", err)
	}
	if ln, err := net.Listen("tcp4", fmt.Sprintf(":%d", web.Ports[0].HostPort)); err == nil {
		_ = ln.Close()
		t.Error("another process could bind the published port")
	}
}

// TestJoinThatFailsOrDiesLeavesNothing stops Join after the intent was written and parts
// were made, as a kill would, and lets it fail at its last steps.
func TestJoinThatFailsOrDiesLeavesNothing(t *testing.T) {
	l := newLab(t)
	// Killed: the record says what was about to be made, and half of it is there.
	sb := &sandbox{request: Request{ContainerID: strings.Repeat("a", 64), ContainerName: "dead", Mode: NetworkBridge}}
	if err := l.allocate(sb); err != nil {
		t.Fatal(err)
	}
	if err := l.save(sb); err != nil {
		t.Fatal(err)
	}
	if err := l.build(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
	if err := l.publishPorts(sb, []PortMapping{{Proto: "tcp", ContainerPort: 80, HostPort: 8080}}); err != nil {
		t.Fatal(err)
	}
	l.restart()
	leaks, err := l.Leaks(t.Context())
	if err != nil || len(leaks) != 0 || len(l.ContainerIDs()) != 0 {
		t.Errorf("after the crash: leaks %v, %v, sandboxes %v", leaks, err, l.ContainerIDs())
	}
	if text := l.firewall.Text(); strings.Contains(text, "8080") {
		t.Error("the firewall still has the port")
	}
	// Failed: the second port is taken.
	busy, err := net.Listen("tcp4", ":8081")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	ports := publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}, PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8081})
	if _, err := l.tryContainer("c", ports); err == nil || !strings.Contains(err.Error(), "address already in use by ") {
		t.Errorf("Join = %v, want the process that has the port", err)
	}
	_ = busy.Close()
	box, err := l.tryContainer("c", ports)
	if err != nil {
		t.Fatalf("the retry: %v", err)
	}
	if err := l.Leave(t.Context(), box.ContainerID); err != nil {
		t.Fatal(err)
	}
	if err := l.Leave(t.Context(), box.ContainerID); err != nil {
		t.Errorf("second Leave = %v", err)
	}
}

func TestVanishedThingsAreMadeAgain(t *testing.T) {
	l := newLab(t)
	web := l.container("web")
	bridge, err := netlink.LinkByName("strata0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(bridge); err != nil {
		t.Fatal(err)
	}
	serve(t, web.NetnsPath, 80)
	other := l.container("other")
	serve(t, other.NetnsPath, 80)
	reach(t, "host, whose bridge was made again", "", "tcp", netip.AddrPortFrom(web.Endpoints[0].IPv4.Addr(), 80).String(), "")
	reach(t, "host, after the bridge was deleted", "", "tcp", netip.AddrPortFrom(other.Endpoints[0].IPv4.Addr(), 80).String(), "")
	if err := netns.Delete(web.NetnsPath); err != nil {
		t.Fatal(err)
	}
	box, err := l.Join(t.Context(), Request{ContainerID: web.ContainerID, ContainerName: "web", Hostname: "web"})
	if err != nil || !netns.Is(box.NetnsPath) {
		t.Errorf("Join after the netns vanished = %+v, %v", box, err)
	}
}

// TestDeletedInterfacesAreFoundAndMadeAgain deletes bridge and veths under running containers:
// by doctor, by a start of the container, and by a start of the engine all is as before.
func TestDeletedInterfacesAreFoundAndMadeAgain(t *testing.T) {
	l := newLab(t, v6)
	lan := l.lan()
	l.network(CreateRequest{Name: "quiet", Options: map[string]string{optBridgeName: "quiet0", optICC: "false"}})
	wish := on("bridge", "quiet")
	web := l.container("web", wish, publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}))
	serve(t, web.NetnsPath, 80)
	destroy := func() {
		t.Helper()
		for _, name := range []string{"strata0", web.Endpoints[0].HostVeth, "quiet0"} {
			link, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkDel(link)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		unreachable(t, "LAN, with everything deleted", lan, "tcp", "192.0.2.1:8080")
	}
	works := func(by string) {
		t.Helper()
		reach(t, "LAN, made again by "+by, lan, "tcp", "192.0.2.1:8080", "192.0.2.2")
		reach(t, "LAN by IPv6, made again by "+by, lan, "tcp", "[2001:db8::1]:8080", "2001:db8::2")
		reach(t, "host by the other network, made again by "+by, "", "tcp", at(web.Endpoints[1], 80), "")
		if wrong, _, err := l.Examine(t.Context(), false); err != nil || len(wrong) > 0 {
			t.Errorf("made again by %s: %+v, %v", by, wrong, err)
		}
	}
	works("nobody")
	destroy()
	wrong, _, err := l.Examine(t.Context(), false)
	if text := fmt.Sprint(wrong); err != nil || len(wrong) != 4 || !strings.Contains(text, "lost bridge strata0 of network bridge") || !strings.Contains(text, "lost veth "+web.Endpoints[1].HostVeth+" eth1 of container web, network quiet") {
		t.Errorf("Examine = %s, %v", text, err)
	}
	if left, mended, err := l.Examine(t.Context(), true); err != nil || len(left) != 0 || len(mended) != 4 {
		t.Errorf("Examine and mend = %v, %v, %v", left, mended, err)
	}
	works("doctor")
	destroy()
	if _, err := l.tryContainer("web", func(r *Request) { r.ContainerID = web.ContainerID }); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Examine(t.Context(), true); err != nil { // the second bridge has no one joining
		t.Fatal(err)
	}
	works("a start")
	destroy()
	l.restart()
	works("a start of the engine")
}

func TestFlushedRulesComeBackWhilePortsAreServed(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft(8) to be the other program")
	}
	l := newLab(t)
	web := l.container("web", publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}))
	serve(t, web.NetnsPath, 80)
	if out, err := exec.Command("nft", "flush ruleset").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	begin := time.Now()
	eventually(t, "the port leads to the container", func() error {
		_, err := ask("", "tcp", "127.0.0.1:8080")
		return err
	})
	if took := time.Since(begin); took > 1200*time.Millisecond { // a lost SYN costs a second
		t.Errorf("the port was back after %v", took)
	}
}

func TestConnectAndDisconnectWhileRunning(t *testing.T) {
	l := newLab(t)
	l.network(CreateRequest{Name: "one"})
	l.network(CreateRequest{Name: "two", EnableIPv6: new(true), IPAM: IPAM{Pools: []Pool{{Subnet: netip.MustParsePrefix("10.77.0.0/24")}}}})
	web := l.container("web", on("one"), publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}))
	peer := l.container("peer", on("two"))
	serve(t, web.NetnsPath, 80)
	l.log.take()
	ep, err := l.Connect(t.Context(), web.ContainerID, EndpointRequest{Network: "two", IPv4: netip.MustParseAddr("10.77.0.9"), Aliases: []string{"db"}, GwPriority: 5})
	if err != nil || ep.Interface != "eth1" || ep.IPv4.String() != "10.77.0.9/24" || !ep.IPv6.IsValid() {
		t.Fatalf("Connect = %+v, %v", ep, err)
	}
	reach(t, "peer on the new network", peer.NetnsPath, "tcp", "10.77.0.9:80", "")
	reach(t, "peer on the new network, IPv6", peer.NetnsPath, "tcp", netip.AddrPortFrom(ep.IPv6.Addr(), 80).String(), "")
	reach(t, "published port, through the new gateway", "", "tcp", "127.0.0.1:8080", "10.77.0.1")
	if text := l.firewall.Text(); !strings.Contains(text, "tcp . 8080 : 10.77.0.9 . 80") {
		t.Errorf("the port does not follow the gateway:\n%s", text)
	}
	eventually(t, "peer knows the alias", func() error {
		if hosts := l.file("peer", hostsFile); !strings.Contains(hosts, "10.77.0.9\tweb db ") {
			return errors.New(hosts)
		}
		return nil
	})
	if _, err := l.Connect(t.Context(), web.ContainerID, EndpointRequest{Network: "two"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("second Connect = %v", err)
	}
	l.restart()
	attached, err := l.Disconnect(t.Context(), web.ContainerID, "two")
	if err != nil || !attached {
		t.Errorf("Disconnect = %v, %v", attached, err)
	}
	reach(t, "published port, through the old gateway", "", "tcp", "127.0.0.1:8080", web.Endpoints[0].Gateway4.String())
	unreachable(t, "peer after Disconnect", peer.NetnsPath, "tcp", "10.77.0.9:80")
	if hosts := l.file("web", hostsFile); strings.Contains(hosts, "10.77.0.9") {
		t.Errorf("hosts file of web keeps the address:\n%s", hosts)
	}
	eventually(t, "peer forgets the names", func() error {
		if hosts := l.file("peer", hostsFile); strings.Contains(hosts, "10.77.0.9") {
			return errors.New(hosts)
		}
		return nil
	})
	if attached, err := l.Disconnect(t.Context(), web.ContainerID, "two"); err != nil || attached {
		t.Errorf("second Disconnect = %v, %v", attached, err)
	}
	if got := l.log.take(); got != "connect two, disconnect two" {
		t.Errorf("events: %s", got)
	}
}

func TestNamesAreInHostsFilesAndStayTrue(t *testing.T) {
	l := newLab(t)
	l.network(CreateRequest{Name: "app"})
	a := l.container("a", on("app"), func(r *Request) { r.ExtraHosts = []string{"gw:host-gateway", "x:192.0.2.9"} })
	b := l.container("b", func(r *Request) {
		r.Endpoints = []EndpointRequest{{Network: "app", Aliases: []string{"db"}}}
	})
	ipA, ipB := a.Endpoints[0].IPv4.Addr().String(), b.Endpoints[0].IPv4.Addr().String()
	want := func(who, line string) {
		t.Helper()
		eventually(t, who+" has "+line, func() error {
			if hosts := l.file(who, hostsFile); !strings.Contains(hosts, line) {
				return errors.New(hosts)
			}
			return nil
		})
	}
	want("b", ipA+"\ta "+a.ContainerID[:12]+"\n")
	want("a", ipB+"\tb db "+b.ContainerID[:12]+"\n")
	want("a", ipA+"\ta\n")
	want("a", "172.17.0.1\tgw\n192.0.2.9\tx\n")
	// What somebody wrote into the file stays, and so does the file.
	path := filepath.Join(l.dir, "a", hostsFile)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(l.file("a", hostsFile)+"192.0.2.77\tmine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	l.restart()
	if err := l.Rename(t.Context(), b.ContainerID, "b2"); err != nil {
		t.Fatal(err)
	}
	want("a", ipB+"\tb2 db "+b.ContainerID[:12])
	want("a", "192.0.2.77\tmine\n")
	if err := l.Leave(t.Context(), b.ContainerID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a forgets b", func() error {
		if hosts := l.file("a", hostsFile); strings.Contains(hosts, ipB) {
			return errors.New(hosts)
		}
		return nil
	})
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the hosts file was replaced (%v): a bind mount does not see that", err)
	}
	if got := l.file("a", resolvFile); !strings.HasSuffix(got, "\nnameserver 192.0.2.53\nsearch example.org\n") {
		t.Errorf("resolv.conf = %q", got)
	}
}

func TestNamesAreInFilesForShimsThatAnswerDNS(t *testing.T) {
	l := newLab(t)
	app := l.network(CreateRequest{Name: "app"})
	l.network(CreateRequest{Name: "closed", Internal: true})
	own := func(r *Request) { r.Resolver = true }
	a := l.container("a", on("app"), own)
	b := l.container("b", own, func(r *Request) {
		r.Endpoints = []EndpointRequest{{Network: "app", Aliases: []string{"db"}, Links: []string{"a:first"}}}
		r.Services, r.DNS = []names.Service{{Proto: "tcp", Port: 80}}, []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	})
	c := l.container("c", on("closed"), own)
	if d := l.container("d", own); d.NamesPath != "" {
		t.Errorf("a container of the default bridge has names: %s", d.NamesPath)
	}
	shown := func(box Sandbox) (string, *names.View) {
		t.Helper()
		f, err := names.Read(box.NamesPath)
		if err != nil {
			t.Fatal(err)
		}
		store, err := names.Open(box.NamesPath)
		if err != nil {
			t.Fatal(err)
		}
		return f.Listen.String(), store.View()
	}
	knows := func(box Sandbox, name string, want ...string) {
		t.Helper()
		_, v := shown(box)
		var got []string
		for _, h := range v.Lookup(name) {
			for _, addr := range h.Addrs {
				got = append(got, addr.String())
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %s = %v, want %v", box.ContainerID, name, got, want)
		}
	}
	ipA, ipB := a.Endpoints[0].IPv4.Addr().String(), b.Endpoints[0].IPv4.Addr().String()
	knows(a, "db", ipB)
	knows(a, b.ContainerID[:12], ipB)
	knows(b, "a.app", ipA)
	knows(b, "first", ipA)
	knows(a, "first")
	knows(c, "a")
	listen, view := shown(b)
	if listen != "127.0.0.11:61053" || fmt.Sprint(view.Upstreams) != "[192.0.2.1:53]" || !slices.Equal(view.Lookup("b")[0].Ports, []names.Service{{Proto: "tcp", Port: 80}}) {
		t.Errorf("b: listens at %s, upstreams %v", listen, view.Upstreams)
	}
	if _, view := shown(a); fmt.Sprint(view.Upstreams) != "[127.0.0.53:53 192.0.2.53:53]" {
		t.Errorf("upstreams of a = %v, want the host's", view.Upstreams)
	}
	if _, view := shown(c); len(view.Upstreams) != 0 {
		t.Errorf("upstreams on an internal network = %v", view.Upstreams)
	}
	if got := l.file("a", resolvFile); !strings.HasSuffix(got, "\nnameserver 127.0.0.11\nsearch example.org\noptions ndots:0\n\n# ExtServers: [host(127.0.0.53) host(192.0.2.53)]\n") {
		t.Errorf("resolv.conf = %q", got)
	}
	if hosts := l.file("a", hostsFile); strings.Contains(hosts, ipB) || !strings.Contains(hosts, ipA+"\ta\n") {
		t.Errorf("hosts file:\n%s", hosts)
	}
	l.restart()
	if err := l.Rename(t.Context(), b.ContainerID, "b2"); err != nil {
		t.Fatal(err)
	}
	knows(a, "b2", ipB)
	if _, err := l.Connect(t.Context(), c.ContainerID, EndpointRequest{Network: "app"}); err != nil {
		t.Fatal(err)
	}
	knows(c, "b2", ipB)
	if _, err := l.Disconnect(t.Context(), c.ContainerID, "app"); err != nil {
		t.Fatal(err)
	}
	knows(c, "b2")
	knows(a, "c")
	for _, box := range []Sandbox{a, b} {
		if err := l.Leave(t.Context(), box.ContainerID); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Remove(t.Context(), app.ID); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{a.NamesPath, b.NamesPath, l.cfg.memberPath(app.ID)} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

func TestDefinitionsAreRefusedInDockerdsWords(t *testing.T) {
	l := newLab(t)
	sub := func(s string) IPAM { return IPAM{Pools: []Pool{{Subnet: netip.MustParsePrefix(s)}}} }
	l.network(CreateRequest{Name: "taken", IPAM: sub("10.99.0.0/24")})
	tests := []struct {
		name    string
		request CreateRequest
		class   error
		text    string
	}{
		{"predefined", CreateRequest{Name: "host"}, errdefs.ErrPermissionDenied, "operation is not permitted on predefined host network"},
		{"twice", CreateRequest{Name: "taken"}, errdefs.ErrAlreadyExists, "network with name taken already exists"},
		{"overlap", CreateRequest{Name: "n", IPAM: sub("10.99.0.0/16")}, errdefs.ErrPermissionDenied, "Pool overlaps with other one on this address space"},
		{"host bits", CreateRequest{Name: "n", IPAM: sub("10.98.0.1/24")}, errdefs.ErrInvalidArgument, "it should be 10.98.0.0/24"},
		{"driver", CreateRequest{Name: "n", Driver: "foo"}, errdefs.ErrNotFound, "plugin"},
		{"empty", CreateRequest{Name: " "}, errdefs.ErrInvalidArgument, "name is empty"},
		{"bad option", CreateRequest{Name: "n", Options: map[string]string{optMTU: "many"}}, errdefs.ErrInvalidArgument, "many"},
		{"long bridge", CreateRequest{Name: "n", Options: map[string]string{optBridgeName: "sixteen-letters-"}}, errdefs.ErrInvalidArgument, "15 characters"},
		{"another's bridge", CreateRequest{Name: "n", Options: map[string]string{optBridgeName: "strata0"}}, errdefs.ErrPermissionDenied, "same bridge name"},
		{"no bridge", CreateRequest{Name: "n", Options: map[string]string{optBridgeName: "lo"}}, errdefs.ErrConflict, "not a bridge"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if n, _, err := l.Create(t.Context(), tt.request); !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Create = %+v, %v, want class %v and %q", n, err, tt.class, tt.text)
			}
		})
	}
	for ref, class := range map[string]error{"bridge": errdefs.ErrPermissionDenied, "absent": errdefs.ErrNotFound} {
		if err := l.Remove(t.Context(), ref); !errors.Is(err, class) {
			t.Errorf("Remove(%s) = %v, want class %v", ref, err, class)
		}
	}
	c := l.container("c", on("taken"))
	err := l.Remove(t.Context(), "taken")
	if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), `network taken has active endpoints (name:"c" id:"`+c.Endpoints[0].ID[:12]+`")`) {
		t.Errorf("Remove of a network in use = %v", err)
	}
	for name, change := range map[string]func(*Request){
		"user specified IP address is supported on user defined networks only": func(r *Request) {
			r.Endpoints = []EndpointRequest{{Network: "bridge", IPv4: netip.MustParseAddr("172.17.0.9")}}
		},
		"network-scoped alias is supported only for containers in user defined networks": func(r *Request) {
			r.Endpoints = []EndpointRequest{{Network: "bridge", Aliases: []string{"x"}}}
		},
		"It does not belong to any of this network's subnets": func(r *Request) {
			r.Endpoints = []EndpointRequest{{Network: "taken", IPv4: netip.MustParseAddr("10.0.0.9")}}
		},
		"Address already in use": func(r *Request) {
			r.Endpoints = []EndpointRequest{{Network: "taken", IPv4: c.Endpoints[0].IPv4.Addr()}}
		},
		"network nowhere not found": on("nowhere"),
	} {
		if _, err := l.tryContainer("d", change); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Join = %v, want %q", err, name)
		}
	}
}

func TestSubnetsAvoidTheHostsRoutes(t *testing.T) {
	l := newLab(t)
	route := &netlink.Route{Dst: &net.IPNet{IP: net.IPv4(172, 18, 5, 0), Mask: net.CIDRMask(24, 32)}, Type: 7 /* RTN_UNREACHABLE */}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = netlink.RouteDel(route) }()
	if n := l.network(CreateRequest{Name: "n"}); n.IPAM.Pools[0].Subnet.String() != "172.19.0.0/16" {
		t.Errorf("subnet = %v, want the first that the host does not use", n.IPAM.Pools[0].Subnet)
	}
}

func TestPruneKeepsWhatIsUsed(t *testing.T) {
	l := newLab(t)
	l.network(CreateRequest{Name: "used"})
	l.network(CreateRequest{Name: "idle"})
	l.container("c", on("used"))
	names, err := l.Prune(t.Context(), func(Network) bool { return true })
	if err != nil || len(names) != 1 || names[0] != "idle" {
		t.Errorf("Prune = %v, %v, want the idle network", names, err)
	}
}

func TestHostAndNone(t *testing.T) {
	l := newLab(t)
	none := l.container("none", func(r *Request) { r.Mode = NetworkNone })
	host := l.container("host", func(r *Request) { r.Mode = NetworkHost; r.Ports = []PortMapping{{Proto: "tcp", ContainerPort: 80}} })
	if host.NetnsPath != "" || len(host.Ports) != 0 || host.Endpoints[0].NetworkName != NetworkHost {
		t.Errorf("host = %+v", host)
	}
	err := netns.DoPath(none.NetnsPath, func() error {
		links, err := netlink.LinkList()
		if err == nil && (len(links) != 1 || links[0].Attrs().Flags&net.FlagUp == 0) {
			err = fmt.Errorf("interfaces: %v", links)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	l.restart()
	if got := len(l.ContainerIDs()); got != 2 {
		t.Errorf("%d sandboxes after a restart, want 2", got)
	}
}

func TestAThousandPortsCostTheSameEach(t *testing.T) {
	l := newLab(t)
	var many []PortMapping
	for i := range 1000 {
		many = append(many, PortMapping{Proto: "tcp", ContainerPort: uint16(1000 + i), HostPort: uint16(20000 + i)})
	}
	begin := time.Now()
	l.container("many", publish(many...))
	bulk := time.Since(begin)
	join := func(name string, port uint16) time.Duration {
		begin := time.Now()
		l.container(name, publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: port}))
		return time.Since(begin)
	}
	t.Logf("container with 1000 ports: %v; the 1001st: %v", bulk, join("one", 8080))
	box := l.container("probe", publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8090}))
	serve(t, box.NetnsPath, 80)
	reach(t, "port beside a thousand", "", "tcp", "127.0.0.1:8090", "")
	// The bound is two orders above what it costs: it fails for a design that rewrites all.
	if bulk > 5*time.Second {
		t.Errorf("1000 ports took %v", bulk)
	}
}

func TestExplainSaysHowPacketsGoAndWhatIsBroken(t *testing.T) {
	l := newLab(t, v6)
	l.network(CreateRequest{Name: "app", Options: map[string]string{optBridgeName: "app0", optICC: "false"}})
	web := l.container("web", on("app", "bridge"), publish(PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}))
	explain := func() string {
		var out strings.Builder
		for _, o := range l.Explain(web.ContainerID) {
			fmt.Fprintln(&out, o.Kind, o.ID, o.Detail)
		}
		return out.String()
	}
	want := func(lines ...string) {
		t.Helper()
		for _, line := range lines {
			if text := explain(); !strings.Contains(text, line) {
				t.Errorf("%q is not in\n%s", line, text)
			}
		}
	}
	e := web.Endpoints[0]
	want("bridge app0 up, network app", "rule app0 isolated from other networks; neighbours do not reach each other; IPv4 nat, masqueraded\n",
		"veth "+e.HostVeth+" up, peer eth0 inside", "address "+e.IPv4.String()+" on eth0", "route default via "+e.Gateway4.String()+" dev eth0",
		"port 0.0.0.0:8080/tcp to "+e.IPv4.Addr().String()+":80 by table inet stratatest: pub4 { tcp . 8080 : "+e.IPv4.Addr().String()+" . 80 }",
		"port [::]:8080/tcp to ["+web.Endpoints[1].IPv6.Addr().String()+"]:80 by table inet stratatest: pub6", "name web "+web.ContainerID[:12]+" on network app")
	shell(t, "nft add table inet mine; nft 'add chain inet mine passing { type filter hook forward priority 5; policy drop; }'", "nft delete table inet mine")
	want("obstacle table inet mine, chain passing: policy drop", "nft insert rule inet mine passing iifname app0 accept")
	if err := l.host.Unplug(e.HostVeth); err != nil {
		t.Fatal(err)
	}
	shell(t, "ip link set app0 down", "ip link set app0 up")
	want("veth "+e.HostVeth+" missing", "bridge app0 down")
}

func TestFiftyContainersJoinAtOnce(t *testing.T) {
	l := newLab(t)
	l.network(CreateRequest{Name: "app"})
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[netip.Prefix]bool{}
	begin := time.Now()
	for i := range 50 {
		wg.Go(func() {
			box, err := l.tryContainer(fmt.Sprint("c", i), on("app"), publish(PortMapping{Proto: "tcp", ContainerPort: 80}))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if seen[box.Endpoints[0].IPv4] {
				t.Errorf("%v was given twice", box.Endpoints[0].IPv4)
			}
			seen[box.Endpoints[0].IPv4] = true
		})
	}
	wg.Wait()
	t.Logf("50 containers in %v", time.Since(begin))
}

func TestPortsAreWithdrawnAndPublishedWhileRunning(t *testing.T) {
	l := newLab(t)
	tcp := func(container, host uint16) PortMapping {
		return PortMapping{Proto: "tcp", ContainerPort: container, HostPort: host}
	}
	web := l.container("web", publish(tcp(80, 8080), tcp(80, 8081)))
	l.container("other", publish(tcp(80, 9090)))
	serve(t, web.NetnsPath, 80)
	box, err := l.UpdatePorts(t.Context(), web.ContainerID, web.Ports[:1], []PortMapping{tcp(80, 8082)})
	if err != nil || len(box.Ports) != 2 || box.Ports[0].HostPort != 8081 || box.Ports[1].HostPort != 8082 {
		t.Fatalf("UpdatePorts = %+v, %v", box, err)
	}
	check := func(when string) {
		t.Helper()
		unreachable(t, "withdrawn, "+when, "", "tcp", "127.0.0.1:8080")
		reach(t, "kept, "+when, "", "tcp", "127.0.0.1:8081", "")
		reach(t, "published, "+when, "", "tcp", "127.0.0.1:8082", "")
	}
	check("at once")
	if ln, err := net.Listen("tcp4", ":8080"); err != nil {
		t.Errorf("the withdrawn port is still held: %v", err)
	} else {
		_ = ln.Close()
	}
	// What fails changes nothing: not even what was to be withdrawn.
	var conflict *ports.ConflictError
	if _, err := l.UpdatePorts(t.Context(), web.ContainerID, box.Ports, []PortMapping{tcp(80, 8083), tcp(80, 9090)}); !errors.As(err, &conflict) || !strings.Contains(err.Error(), "by container other") {
		t.Errorf("UpdatePorts with a taken port = %v", err)
	}
	check("after an error")
	if text := l.firewall.Text(); strings.Contains(text, "8083") {
		t.Error("a port of the failed change is published")
	}
	l.restart()
	check("after a restart")
	// All of them gone: another network does not bring them back.
	box, _ = l.Sandbox(web.ContainerID)
	if box, err = l.UpdatePorts(t.Context(), web.ContainerID, box.Ports, nil); err != nil || len(box.Ports) != 0 {
		t.Errorf("UpdatePorts = %+v, %v", box, err)
	}
	l.network(CreateRequest{Name: "app"})
	if _, err := l.Connect(t.Context(), web.ContainerID, EndpointRequest{Network: "app", GwPriority: 9}); err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"8080", "8081", "8082"} {
		unreachable(t, "withdrawn", "", "tcp", "127.0.0.1:"+port)
	}
}
