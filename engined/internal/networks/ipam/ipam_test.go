package ipam

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestPoolHandsOutEachAddressOnceAndThenSaysSo(t *testing.T) {
	tests := []struct {
		name           string
		subnet, within string
		first, last    string
		count          int
	}{
		{"network and broadcast are no hosts", "10.0.0.0/29", "", "10.0.0.1", "10.0.0.6", 6},
		{"a range inside", "10.0.0.0/24", "10.0.0.64/30", "10.0.0.64", "10.0.0.67", 4},
		{"a range at the start", "10.0.0.0/24", "10.0.0.0/30", "10.0.0.1", "10.0.0.3", 3},
		{"a point-to-point link", "10.0.0.0/31", "", "10.0.0.0", "10.0.0.1", 2},
		{"a single address", "10.0.0.9/32", "", "10.0.0.9", "10.0.0.9", 1},
		{"IPv6 has no broadcast", "fd00::/126", "", "fd00::1", "fd00::3", 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var within netip.Prefix
			if tt.within != "" {
				within = pfx(tt.within)
			}
			p, err := NewPool(pfx(tt.subnet), within)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[netip.Addr]bool{}
			var last netip.Addr
			for i := range tt.count {
				a, err := p.Next()
				if err != nil || seen[a] {
					t.Fatalf("Next %d = %v, %v; seen before: %v", i, a, err, seen[a])
				}
				if i == 0 && a.String() != tt.first {
					t.Errorf("first = %v, want %v", a, tt.first)
				}
				seen[a], last = true, a
			}
			if last.String() != tt.last {
				t.Errorf("last = %v, want %v", last, tt.last)
			}
			if a, err := p.Next(); !errors.Is(err, errdefs.ErrResourceExhausted) {
				t.Errorf("Next of a full pool = %v, %v, want class ErrResourceExhausted", a, err)
			}
			p.Release(last)
			if a, err := p.Next(); err != nil || a != last {
				t.Errorf("Next after Release = %v, %v, want %v", a, err, last)
			}
		})
	}
}

func TestReleasedAddressComesAroundLast(t *testing.T) {
	p, err := NewPool(pfx("10.0.0.0/24"), netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := p.Next()
	p.Release(a)
	if b, err := p.Next(); err != nil || b == a {
		t.Errorf("Next = %v, %v, want another address than %v", b, err, a)
	}
}

func TestTakeRefusesWhatIsNotFree(t *testing.T) {
	p, err := NewPool(pfx("10.0.0.0/24"), pfx("10.0.0.128/25"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Take(netip.MustParseAddr("10.0.0.5")); err != nil {
		t.Errorf("Take outside the range but in the subnet = %v", err)
	}
	for addr, class := range map[string]error{
		"10.0.0.5":   errdefs.ErrAlreadyExists,
		"10.0.0.0":   errdefs.ErrInvalidArgument,
		"10.0.0.255": errdefs.ErrInvalidArgument,
		"10.0.1.1":   errdefs.ErrInvalidArgument,
		"fd00::1":    errdefs.ErrInvalidArgument,
	} {
		if err := p.Take(netip.MustParseAddr(addr)); !errors.Is(err, class) {
			t.Errorf("Take(%s) = %v, want class %v", addr, err, class)
		}
	}
}

func TestChooseAvoidsWhatIsTaken(t *testing.T) {
	tests := []struct {
		name  string
		taken []netip.Prefix
		want  string
	}{
		{"nothing taken", nil, "172.17.0.0/16"},
		{"a network of ours", []netip.Prefix{pfx("172.17.0.0/16")}, "172.18.0.0/16"},
		{"a host route inside", []netip.Prefix{pfx("172.17.3.0/24"), pfx("172.18.255.255/32")}, "172.19.0.0/16"},
		{"all of RFC 1918's 172", []netip.Prefix{pfx("172.16.0.0/12")}, "192.168.0.0/20"},
		{"a home LAN", []netip.Prefix{pfx("172.16.0.0/12"), pfx("192.168.1.0/24")}, "192.168.16.0/20"},
		{"a wide VPN route", []netip.Prefix{pfx("172.16.0.0/12"), pfx("192.168.0.0/17")}, "192.168.128.0/20"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := Choose(DefaultSources(), tt.taken, false); err != nil || got.String() != tt.want {
				t.Errorf("Choose = %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestChooseSaysWhenAllIsTaken(t *testing.T) {
	if got, err := Choose(DefaultSources(), []netip.Prefix{pfx("0.0.0.0/0")}, false); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("Choose = %v, %v, want class ErrResourceExhausted", got, err)
	}
	full := []Source{{pfx("fd00::/48"), 64}}
	if got, err := Choose(full, []netip.Prefix{pfx("fd00::/49")}, true); err != nil || got.String() != "fd00:0:0:8000::/64" {
		t.Errorf("Choose = %v, %v, want the second half", got, err)
	}
}
