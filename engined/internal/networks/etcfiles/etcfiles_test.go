package etcfiles

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func line(addr string, names ...string) Line { return Line{netip.MustParseAddr(addr), names} }

func TestReplaceTakesOnlyOurLinesOut(t *testing.T) {
	before := string(Hosts([]Line{line("10.0.0.2", "me"), line("10.0.0.3", "db")})) + "10.0.0.3\tdb # mine\n10.0.0.9 other"
	got := string(Replace([]byte(before), []Line{line("10.0.0.3", "db"), line("10.0.0.4", "gone")}, []Line{line("10.0.0.5", "db")}))
	want := preamble + "10.0.0.2\tme\n10.0.0.3\tdb # mine\n10.0.0.9 other\n10.0.0.5\tdb\n"
	if got != want {
		t.Errorf("Replace = %q, want %q", got, want)
	}
	if again := string(Replace([]byte(got), nil, nil)); again != got {
		t.Errorf("an empty change changed the file: %q", again)
	}
}

func TestResolvConfFollowsTheHostAndTheUser(t *testing.T) {
	host := "# comment\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\ndomain old\nsearch a b\noptions ndots:2 edns0\nbroken\n"
	addr := netip.MustParseAddr
	tests := []struct {
		name string
		host string
		ipv6 bool
		wish Resolver
		want string
	}{
		{"the host's, as far as they can be reached", host, false, Resolver{}, "nameserver 192.0.2.53\nsearch a b\noptions ndots:2 edns0\n"},
		{"IPv6 too", host, true, Resolver{}, "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch a b\noptions ndots:2 edns0\n"},
		{"none is left", "nameserver ::1\n", true, Resolver{}, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
		{"the user's", host, false, Resolver{Servers: []netip.Addr{addr("127.0.0.1")}, Search: []string{"."}, Options: []string{"rotate"}}, "nameserver 127.0.0.1\noptions rotate\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := string(ParseResolv([]byte(tt.host)).Reachable(tt.ipv6).Override(tt.wish).Bytes())
			if _, body, _ := strings.Cut(got, "\n\n"); body != tt.want {
				t.Errorf("resolv.conf = %q, want %q", body, tt.want)
			}
		})
	}
}

func TestEditKeepsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	if err := Edit(path, func(b []byte) []byte { return []byte("x") }); err != nil {
		t.Errorf("Edit of a missing file = %v", err)
	}
	if err := Write(path, []byte("a long first text\n")); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Edit(path, func(b []byte) []byte { return []byte(strings.ToUpper(string(b[:6]))) }); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	after, serr := os.Stat(path)
	if err != nil || serr != nil || string(data) != "A LONG" || !os.SameFile(before, after) {
		t.Errorf("after Edit: %q, %v, %v", data, err, serr)
	}
}
