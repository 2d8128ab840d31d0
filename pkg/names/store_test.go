package names

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func write(t *testing.T, dir string, n Network) (path string) {
	t.Helper()
	net := filepath.Join(dir, "net")
	if err := Write(net, n); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "file")
	f := File{Listen: netip.AddrPortFrom(Addr, Port), ResolvConf: filepath.Join(dir, "resolv.conf"), Networks: []Membership{{Path: net, Links: map[string]string{"Database": "db"}}}}
	if err := Write(path, f); err != nil {
		t.Fatal(err)
	}
	return path
}

func addrs(hosts []*Host) string {
	var out []string
	for _, h := range hosts {
		for _, a := range h.Addrs {
			out = append(out, a.String())
		}
	}
	return strings.Join(out, " ")
}

func TestLookupKnowsEveryNameOfAContainer(t *testing.T) {
	s, err := Open(write(t, t.TempDir(), Network{Name: "App", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}, Hosts: []Host{
		{ID: id, Names: []string{"db", "store", "db"}, Addrs: []netip.Addr{addr("10.1.0.2"), addr("fd00::2")}},
		{ID: id[:12] + strings.Repeat("e", 52), Names: []string{"web.v1", "Store"}, Addrs: []netip.Addr{addr("10.1.0.3")}},
	}}))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"db": "10.1.0.2 fd00::2", "DB.": "10.1.0.2 fd00::2", "db.app": "10.1.0.2 fd00::2", "web.v1": "10.1.0.3", "web.v1.app": "10.1.0.3",
		"store": "10.1.0.2 fd00::2 10.1.0.3", "database": "10.1.0.2 fd00::2", "database.app.": "10.1.0.2 fd00::2",
		id[:12]: "10.1.0.2 fd00::2 10.1.0.3", id[:13]: "10.1.0.2 fd00::2", id[:63]: "10.1.0.2 fd00::2", id[:20] + ".APP": "10.1.0.2 fd00::2",
		id[:11]: "", "nobody": "", "": "", ".": "", "db.other": "", id[:12] + "9": "",
	} {
		if got := addrs(s.View().Lookup(name)); got != want {
			t.Errorf("Lookup(%q) = %q, want %q", name, got, want)
		}
	}
	for a, want := range map[string]string{"10.1.0.2": "db.App. true", "::ffff:10.1.0.3": "web.v1.App. true", "10.1.0.9": " true", "10.2.0.1": " false"} {
		name, ours := s.View().Reverse(addr(a))
		if got := name + map[bool]string{true: " true", false: " false"}[ours]; got != want {
			t.Errorf("Reverse(%s) = %q, want %q", a, got, want)
		}
	}
}

func TestViewFollowsTheFilesAndOutlivesThem(t *testing.T) {
	later := func(s *Store) *View {
		s.checked = time.Time{} // a millisecond later
		return s.View()
	}
	dir := t.TempDir()
	path := write(t, dir, Network{Name: "n", Hosts: []Host{{Names: []string{"a"}, Addrs: []netip.Addr{addr("10.0.0.1")}}}})
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	first := s.View()
	if again := later(s); again != first {
		t.Error("the view was made anew though no file changed")
	}
	for i, a := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.4"} {
		write(t, dir, Network{Name: "n", Hosts: []Host{{Names: []string{"a"}, Addrs: []netip.Addr{addr(a)}}}})
		if got := addrs(later(s).Lookup("a")); got != a {
			t.Errorf("after change %d: %q, want %q", i, got, a)
		}
	}
	resolv := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("# x\nnameserver 192.0.2.1\nnameserver bad\nnameserver fe80::1%eth0\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := later(s).Upstreams; len(got) != 3 || got[0].String() != "192.0.2.1:53" || got[2].Addr() != addr("192.0.2.2") {
		t.Errorf("upstreams = %v", got)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := addrs(later(s).Lookup("a")); got != "10.0.0.4" {
		t.Errorf("a broken file took the names away: %q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := addrs(later(s).Lookup("a")); got != "10.0.0.4" {
		t.Errorf("a missing file took the names away: %q", got)
	}
	if _, err := Open(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of nothing = %v", err)
	}
}
