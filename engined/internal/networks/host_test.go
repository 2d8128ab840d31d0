package networks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"strata/pkg/linux/netns"
	"strata/pkg/metadb"
)

func TestTwoEnginesDoNotShareABridge(t *testing.T) {
	l := newLab(t)
	l.network(CreateRequest{Name: "app", Options: map[string]string{optBridgeName: "mine0"}})
	// A second engine on the host: another database, another table, the same bridge names.
	cfg := l.cfg
	cfg.ExecRoot, cfg.FirewallTable = filepath.Join(t.TempDir(), "exec"), "stratatest2"
	db, err := metadb.Open(filepath.Join(t.TempDir(), "engine.db"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(t.Context(), db, cfg)
	if err != nil {
		t.Fatal(err) // it starts, and says in the log that its default bridge is out of order
	}
	defer func() {
		if err := errors.Join(m.firewall.Destroy(), m.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	}()
	for _, err := range []error{
		func() error {
			_, _, err := m.Create(t.Context(), CreateRequest{Name: "n", Options: map[string]string{optBridgeName: "mine0"}})
			return err
		}(),
		func() error {
			_, err := m.Join(t.Context(), Request{ContainerID: strings.Repeat("b", 64), ContainerName: "b", Dir: t.TempDir()})
			return err
		}(),
	} {
		if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "belongs to another network or engine") {
			t.Errorf("the second engine: %v, want ErrConflict and whose the bridge is", err)
		}
	}
	// The first engine's network is untouched.
	web := l.container("web", on("app"))
	serve(t, web.NetnsPath, 80)
	reach(t, "host", "", "tcp", at(web.Endpoints[0], 80), "")
}

func TestBridgeOfAnEngineThatIsGoneIsInherited(t *testing.T) {
	l := newLab(t)
	other := func(table string) (*Manager, func() error) {
		cfg := l.cfg
		cfg.ExecRoot, cfg.FirewallTable, cfg.BridgeName = filepath.Join(t.TempDir(), "exec"), table, "none"
		db, err := metadb.Open(filepath.Join(t.TempDir(), "engine.db"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := New(t.Context(), db, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return m, func() error { return errors.Join(m.firewall.Destroy(), m.Close(), db.Close()) }
	}
	create := func(m *Manager) error {
		_, _, err := m.Create(t.Context(), CreateRequest{Name: "n", Options: map[string]string{optBridgeName: "left0"}})
		return err
	}
	first, forget := other("stratatest2")
	if err := create(first); err != nil {
		t.Fatal(err)
	}
	second, remove := other("stratatest3")
	defer func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	}()
	if err := create(second); !errdefs.IsConflict(err) {
		t.Fatalf("while the first engine runs: %v, want ErrConflict", err)
	}
	if err := forget(); err != nil { // and its data is deleted
		t.Fatal(err)
	}
	bridge, err := netlink.LinkByName("left0")
	if err != nil {
		t.Fatal(err)
	}
	port := netlink.NewLinkAttrs()
	port.Name, port.MasterIndex = "left1", bridge.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: port, PeerName: "left2"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	if err := create(second); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "left1") {
		t.Fatalf("with an interface attached: %v, want ErrConflict and its name", err)
	}
	if err := netlink.LinkDel(veth); err != nil {
		t.Fatal(err)
	}
	if err := create(second); err != nil {
		t.Fatalf("when it is gone: %v", err)
	}
	if err := second.Remove(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
}

// TestWithoutNftablesItSaysWhatToDo starts on a thread that may not change the firewall, as
// one of a kernel without nftables cannot.
func TestWithoutNftablesItSaysWhatToDo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	db, err := metadb.Open(filepath.Join(t.TempDir(), "engine.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }() // the test's own, and gone after it
	cfg := DefaultConfig()
	cfg.ExecRoot, cfg.FirewallTable, cfg.BridgeName = t.TempDir(), "stratatest4", "none"
	result := make(chan error, 1) // the one result
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			result <- err
			return
		}
		data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		if err := unix.Capset(&header, &data[0]); err != nil {
			result <- err
			return
		}
		_, err := New(context.Background(), db, cfg)
		result <- err
	}()
	if err := <-result; err == nil || !strings.Contains(err.Error(), `restore nftables table "stratatest4"`) || !strings.Contains(err.Error(), `say "iptables": false`) {
		t.Errorf("New = %v, want what to do", err)
	}
}

func TestForwardingThatIsLockedIsExplained(t *testing.T) {
	l := newLab(t, func(c *Config) { c.IPForward = false })
	const key = "/proc/sys/net/ipv4/ip_forward"
	if err := os.WriteFile(key, []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	fixed := filepath.Join(t.TempDir(), "ip_forward")
	if err := os.WriteFile(fixed, []byte("0\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	// A read-only file in its place, as a hardened host has it.
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""), unix.Mount(fixed, key, "", unix.MS_BIND, ""),
		unix.Mount("", key, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(unix.Unmount(key, unix.MNT_DETACH), os.WriteFile(key, []byte("1"), 0)); err != nil {
			t.Error(err)
		}
	}()
	l.cfg.IPForward = true
	l.restart()
	_, _, err := l.Create(t.Context(), CreateRequest{Name: "n"})
	if err == nil || !strings.Contains(err.Error(), "forwarding is off and cannot be switched on") || !strings.Contains(err.Error(), "sysctl -w net/ipv4/ip_forward=1") {
		t.Errorf("Create = %v, want what to do", err)
	}
	if _, err := l.byName("n"); err == nil {
		t.Error("the network is there all the same")
	}
	// Without forwarding containers still reach the host, and each other.
	l.network(CreateRequest{Name: "inside", Internal: true})
	web := l.container("web")
	serve(t, web.NetnsPath, 80)
	reach(t, "host", "", "tcp", at(web.Endpoints[0], 80), "")
}

// TestSCTPPortsAreTranslated sends over SCTP through a published port.
func TestSCTPPortsAreTranslated(t *testing.T) {
	l := newLab(t)
	box := l.container("c", publish(PortMapping{Proto: "sctp", ContainerPort: 3868, HostPort: 3869}))
	if text := l.firewall.Text(); !strings.Contains(text, "sctp . 3869 : 172.17.0.2 . 3868") {
		t.Errorf("no element for the port:\n%s", text)
	}
	var server int
	err := netns.DoPath(box.NetnsPath, func() (err error) {
		server, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		if err == nil {
			err = errors.Join(unix.Bind(server, &unix.SockaddrInet4{Port: 3868}), unix.Listen(server, 1))
		}
		return err
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skip("needs a kernel with SCTP")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(server) }()
	lan := l.lan()
	var client int
	err = netns.DoPath(lan, func() (err error) {
		client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(client) }()
	patience := unix.NsecToTimeval((5 * time.Second).Nanoseconds())
	for _, fd := range []int{client, server} {
		for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, opt, &patience); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := unix.Connect(client, &unix.SockaddrInet4{Port: 3869, Addr: [4]byte{192, 0, 2, 1}}); err != nil {
		t.Fatalf("connect: %v", err)
	}
	if _, err := unix.Write(client, []byte("ping")); err != nil {
		t.Fatal(err)
	}
	conn, from, err := unix.Accept(server)
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	defer func() { _ = unix.Close(conn) }()
	buf := make([]byte, 16)
	n, err := unix.Read(conn, buf)
	if source, ok := from.(*unix.SockaddrInet4); err != nil || string(buf[:n]) != "ping" || !ok || source.Addr != [4]byte{192, 0, 2, 2} {
		t.Errorf("the server reads %q from %+v, %v, want ping from 192.0.2.2", buf[:n], from, err)
	}
}
