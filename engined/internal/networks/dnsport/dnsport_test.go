package dnsport

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"strata/pkg/linux/netns"
	"strata/pkg/linux/rtnl"
)

func TestPortIsLedAndFreeForOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	path := filepath.Join(t.TempDir(), "ns")
	err := netns.Create(path, func() error {
		rt, err := rtnl.Dial()
		if err != nil {
			return err
		}
		return errors.Join(rt.Do(rtnl.LinkUp(1)), rt.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(path); err != nil {
			t.Error(err)
		}
	})
	ns, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	start := time.Now()
	if err := Lead(ns, netip.MustParseAddrPort("127.0.0.11:53")); err != nil {
		t.Fatal(err)
	}
	t.Logf("took %v", time.Since(start))
	listen := func(address string) (u net.PacketConn, l net.Listener) {
		t.Helper()
		err := netns.Do(ns, func() (err error) {
			if u, err = net.ListenPacket("udp", address); err == nil {
				l, err = net.Listen("tcp", address)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = u.Close(), l.Close() })
		return u, l
	}
	shimUDP, shimTCP := listen("127.0.0.11:61053")
	listen("0.0.0.0:53") // a container's own server
	var u, c net.Conn
	err = netns.Do(ns, func() (err error) {
		if u, err = net.Dial("udp", "127.0.0.11:53"); err == nil {
			c, err = net.Dial("tcp", "127.0.0.11:53")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	defer c.Close()
	deadline := time.Now().Add(5 * time.Second)
	_, _, _ = u.SetDeadline(deadline), shimUDP.SetDeadline(deadline), shimTCP.(*net.TCPListener).SetDeadline(deadline)
	if _, err := u.Write([]byte("q")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	n, from, err := shimUDP.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shimUDP.WriteTo(buf[:n], from); err != nil {
		t.Fatal(err)
	}
	if n, err := u.Read(buf); err != nil || string(buf[:n]) != "q" { // from port 53: the socket is connected to it
		t.Errorf("answer = %q, %v", buf[:n], err)
	}
	if conn, err := shimTCP.Accept(); err != nil {
		t.Error(err)
	} else {
		_ = conn.Close()
	}
}
