package networks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	bolt "go.etcd.io/bbolt"

	"strata/engined/internal/events"
	"strata/pkg/identifiers"
	"strata/pkg/linux/netns"
	"strata/pkg/metadb"
)

// inLab is set in the process that has a netns of its own.
const inLab = "STRATA_NETWORKS_LAB"

// TestMain runs the tests in network and mount namespaces of their own: that netns is "the
// host", and nothing outside is touched.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // newLab skips
	}
	if os.Getenv(inLab) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), inLab+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit):
			os.Exit(exit.ExitCode())
		case err != nil:
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// lab is an engine's networking on a host with a LAN.
type lab struct {
	*Manager
	t   testing.TB
	dir string
	cfg Config
	db  *bolt.DB
	log *recorder

	stop func()
}

type recorder struct {
	mu     sync.Mutex
	events []events.Event
}

func (r *recorder) Publish(e events.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, e := range r.events {
		out = append(out, e.Action+" "+e.Attributes["name"])
	}
	r.events = nil
	return strings.Join(out, ", ")
}

func newLab(t testing.TB, change ...func(*Config)) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	dir := t.TempDir()
	l := &lab{t: t, dir: dir, cfg: DefaultConfig(), log: &recorder{}}
	l.cfg.ExecRoot, l.cfg.Events, l.cfg.FirewallTable = filepath.Join(dir, "exec"), l.log, "stratatest"
	l.cfg.HostFiles.ResolvConf = filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(l.cfg.HostFiles.ResolvConf, []byte("nameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch example.org\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(&l.cfg)
	}
	l.open()
	t.Cleanup(l.destroy)
	return l
}

func (l *lab) open() {
	l.t.Helper()
	db, err := metadb.Open(filepath.Join(l.dir, "engine.db"))
	if err != nil {
		l.t.Fatal(err)
	}
	m, err := New(context.Background(), db, l.cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	l.Manager, l.db = m, db
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1) // the one result
	go func() { ran <- m.Run(ctx) }()
	l.stop = func() {
		cancel()
		if err := errors.Join(<-ran, m.Close(), db.Close()); err != nil {
			l.t.Error(err)
		}
	}
}

// restart is what an engine that was killed and started again does.
func (l *lab) restart() {
	l.t.Helper()
	l.stop()
	l.open()
}

// destroy takes everything away and reports what is left.
func (l *lab) destroy() {
	for _, id := range l.ContainerIDs() {
		if err := l.Leave(context.Background(), id); err != nil {
			l.t.Error(err)
		}
	}
	for _, n := range l.Networks() {
		if n.Predefined() {
			continue
		}
		if err := l.Remove(context.Background(), n.ID); err != nil {
			l.t.Error(err)
		}
	}
	eventually(l.t, "no leaks", func() error {
		leaks, err := l.Leaks(context.Background())
		if err == nil && len(leaks) > 0 {
			err = fmt.Errorf("%v", leaks)
		}
		return err
	})
	if l.firewall != nil {
		if err := l.firewall.Destroy(); err != nil {
			l.t.Error(err)
		}
	}
	if n, err := l.byName(NetworkBridge); err == nil {
		if err := l.host.Delete(n.options.bridge, l.owner(n)); err != nil {
			l.t.Error(err)
		}
	}
	l.stop()
}

func (l *lab) network(r CreateRequest) Network {
	l.t.Helper()
	n, _, err := l.Create(l.t.Context(), r)
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

// container joins a container and returns its sandbox.
func (l *lab) container(name string, change ...func(*Request)) Sandbox {
	l.t.Helper()
	box, err := l.tryContainer(name, change...)
	if err != nil {
		l.t.Fatal(err)
	}
	return box
}

func (l *lab) tryContainer(name string, change ...func(*Request)) (Sandbox, error) {
	l.t.Helper()
	r := Request{ContainerID: identifiers.New(), ContainerName: name, Hostname: name, Dir: filepath.Join(l.dir, name)}
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		l.t.Fatal(err)
	}
	for _, c := range change {
		c(&r)
	}
	return l.Join(l.t.Context(), r)
}

func on(networks ...string) func(*Request) {
	return func(r *Request) {
		for _, n := range networks {
			r.Endpoints = append(r.Endpoints, EndpointRequest{Network: n})
		}
	}
}

func publish(ports ...PortMapping) func(*Request) {
	return func(r *Request) { r.Ports = append(r.Ports, ports...) }
}

func (l *lab) file(name, file string) string {
	l.t.Helper()
	data, err := os.ReadFile(filepath.Join(l.dir, name, file))
	if err != nil {
		l.t.Fatal(err)
	}
	return string(data)
}

// lan makes a neighbour of the host: a netns on a wire with 192.0.2.0/24 and 2001:db8::/64;
// the host is .1, the neighbour .2 and has a route to the containers through the host.
func (l *lab) lan() string {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), "lan")
	must := func(err error) {
		l.t.Helper()
		if err != nil {
			l.t.Fatal(err)
		}
	}
	must(netns.Create(path, nil))
	ns, err := netns.Open(path)
	must(err)
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}))
	must(ns.Close())
	must(address("lan0", "192.0.2.1/24", "2001:db8::1/64"))
	must(netns.DoPath(path, func() error {
		if err := address("lo"); err != nil {
			return err
		}
		if err := address("eth0", "192.0.2.2/24", "2001:db8::2/64"); err != nil {
			return err
		}
		for _, gw := range []string{"192.0.2.1", "2001:db8::1"} {
			if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw)}); err != nil {
				return err
			}
		}
		return nil
	}))
	eventually(l.t, "the wire works", func() error { // a veth drops packets until the kernel has noticed its carrier
		link, err := netlink.LinkByName("lan0")
		if err == nil && link.Attrs().OperState != netlink.OperUp {
			err = fmt.Errorf("lan0 is %v", link.Attrs().OperState)
		}
		return err
	})
	l.t.Cleanup(func() {
		if link, err := netlink.LinkByName("lan0"); err == nil {
			_ = netlink.LinkDel(link)
		}
		if err := netns.Delete(path); err != nil {
			l.t.Error(err)
		}
	})
	return path
}

// address gives an interface addresses, its own link-local one too, that are good at once.
func address(link string, addrs ...string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/accept_dad", []byte("0"), 0); err != nil {
		return err
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = syscall.IFA_F_NODAD
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// serve answers each TCP connection and UDP packet to port inside a netns with the
// address that it came from.
func serve(t *testing.T, nsPath string, port uint16) {
	t.Helper()
	for _, version := range []string{"4", "6"} {
		at := fmt.Sprintf("0.0.0.0:%d", port)
		if version == "6" {
			at = fmt.Sprintf("[::]:%d", port)
		}
		var l net.Listener
		var p net.PacketConn
		err := netns.DoPath(nsPath, func() (err error) {
			if l, err = net.Listen("tcp"+version, at); err != nil {
				return err
			}
			p, err = net.ListenPacket("udp"+version, at)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close(); _ = p.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = fmt.Fprintln(c, host(c.RemoteAddr()))
				_ = c.Close()
			}
		}()
		go func() {
			buf := make([]byte, 100)
			for {
				_, from, err := p.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = p.WriteTo([]byte(host(from)+"\n"), from)
			}
		}()
	}
}

func host(a net.Addr) string {
	return netip.MustParseAddrPort(a.String()).Addr().Unmap().String()
}

// ask connects from a netns ("" is the host) and returns how the server saw it.
func ask(nsPath, network, addr string) (string, error) {
	var c net.Conn
	dial := func() (err error) {
		c, err = net.DialTimeout(network, addr, 500*time.Millisecond)
		return err
	}
	err := dial
	if nsPath != "" {
		err = func() error { return netns.DoPath(nsPath, dial) }
	}
	if err := err(); err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(500 * time.Millisecond))
	if strings.HasPrefix(network, "udp") {
		if _, err := io.WriteString(c, "?"); err != nil {
			return "", err
		}
	}
	line, err2 := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err2
}

// reach asks up to three times: the first packets over a link that has just come up can be
// lost before its carrier is known everywhere.
func reach(t *testing.T, what, nsPath, network, addr, seenAs string) {
	t.Helper()
	got, err := ask(nsPath, network, addr)
	for try := 1; err != nil && try < 3; try++ {
		got, err = ask(nsPath, network, addr)
	}
	if err != nil || seenAs != "" && got != seenAs {
		t.Errorf("%s: %s to %s: seen as %q, %v; want %q", what, network, addr, got, err, seenAs)
	}
}

func unreachable(t *testing.T, what, nsPath, network, addr string) {
	t.Helper()
	if got, err := ask(nsPath, network, addr); err == nil {
		t.Errorf("%s: %s to %s was answered (seen as %s)", what, network, addr, got)
	}
}

// eventually tries for two seconds.
func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: %v", what, err)
			return
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // the interval of a poll
	}
}
