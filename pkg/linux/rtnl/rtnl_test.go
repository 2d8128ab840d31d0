package rtnl

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"strata/pkg/linux/netns"
)

func TestPairIsMadeAcrossNetnsInOneBatch(t *testing.T) {
	near, far := namespaces(t)
	out := dial(t, near)
	in := dial(t, far)
	mac, _ := net.ParseMAC("02:42:0a:00:00:02")
	err := out.Do(
		AddVeth(Veth{Name: "vethnear", Up: true, MTU: 1400, Peer: "eth0", PeerNS: far, PeerMAC: mac}),
	)
	if err != nil {
		t.Fatal(err)
	}
	index, err := in.Index("eth0")
	if err != nil {
		t.Fatal(err)
	}
	err = in.Do(
		LinkUp(1),
		AddAddress(index, netip.MustParsePrefix("10.0.0.2/24")),
		AddAddress(index, netip.MustParsePrefix("fd00::2/64")),
		LinkUp(index),
		DefaultRoute(index, netip.MustParseAddr("10.0.0.1"), unix.AF_INET),
		DefaultRoute(index, netip.MustParseAddr("fd00::1"), unix.AF_INET6),
	)
	if err != nil {
		t.Fatal(err)
	}
	err = netns.Do(far, func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := link.Addrs()
		if link.HardwareAddr.String() != mac.String() || link.MTU != 1400 || link.Flags&net.FlagUp == 0 || len(addrs) < 2 {
			t.Errorf("inside: %+v with %v", link, addrs)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestFailedRequestIsNamedAndTheRestIsDone(t *testing.T) {
	_, ns := namespaces(t)
	c := dial(t, ns)
	err := c.Do(LinkUp(999), LinkUp(1))
	if !errors.Is(err, unix.ENODEV) || !strings.HasPrefix(err.Error(), "set interface 999 up: ") {
		t.Errorf("Do = %v, want ENODEV that names the request", err)
	}
	err = netns.Do(ns, func() error {
		lo, err := net.InterfaceByName("lo")
		if err == nil && lo.Flags&net.FlagUp == 0 {
			t.Error("the request after the failed one was not done")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := c.Index("absent"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("Index = %v, want ENODEV", err)
	}
	if err := c.Do(DeleteLink("absent")); err != nil {
		t.Errorf("deleting nothing = %v", err)
	}
}

func namespaces(t *testing.T) (a, b *os.File) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	open := func(name string) *os.File {
		path := filepath.Join(t.TempDir(), name)
		if err := netns.Create(path, nil); err != nil {
			t.Fatal(err)
		}
		f, err := netns.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(f.Close(), netns.Delete(path)); err != nil {
				t.Error(err)
			}
		})
		return f
	}
	return open("a"), open("b")
}

func dial(t *testing.T, ns *os.File) (c *Conn) {
	t.Helper()
	if err := netns.Do(ns, func() (err error) { c, err = Dial(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
