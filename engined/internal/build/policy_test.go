package build

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// cached returns how many records there are, and their bytes.
func (h *house) cached() (n int, bytes int64) {
	h.t.Helper()
	list, err := h.DiskUsage(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, u := range list {
		bytes += u.Size
	}
	return len(list), bytes
}

func TestPoliciesHoldAfterEachBuild(t *testing.T) {
	h := newHouse(t)
	const size = 1 << 20
	build := func(i int) {
		h.must(Request{
			Dockerfile: define("FROM scratch\nCOPY f /f\n"),
			Context:    tarSource{t: t, files: map[string]string{"f": strings.Repeat(strconv.Itoa(i), size)}},
			Outputs:    []Output{{Type: OutputCacheOnly}},
		})
	}
	for i := range 3 { // nothing is collected
		build(i)
	}
	if n, _ := h.cached(); n != 3 {
		t.Fatalf("%d records without a policy, want 3", n)
	}
	h.cfg.Policies = []Policy{{All: true, UnusedFor: time.Hour}, {Types: []string{cacheMountType}}}
	build(3)
	if n, _ := h.cached(); n != 4 {
		t.Errorf("%d records of which none is old or a cache mount, want 4", n)
	}
	h.cfg.Policies = []Policy{{All: true, MinFree: 1}}
	build(8)
	if n, _ := h.cached(); n != 5 {
		t.Errorf("%d records on a disk with room, want 5", n)
	}
	h.cfg.Policies = []Policy{{All: true, Keep: 2 * size}}
	for i := 4; i < 8; i++ {
		build(i)
		if n, bytes := h.cached(); bytes > 3*size || n == 0 { // that of this build is in use
			t.Errorf("build %d: %d records with %d bytes, want at most %d and this build's own", i, n, bytes, 2*size)
		}
	}
}

func TestRoomIsWhatTheDiskAndTheUserLeave(t *testing.T) {
	for _, tt := range []struct {
		name        string
		r           PruneRequest
		total, free int64
		want        int64
	}{
		{"nothing said", PruneRequest{}, 100, 10, 0},
		{"reserved", PruneRequest{Keep: 30}, 100, 10, 30},
		{"a limit", PruneRequest{MaxUsed: 70}, 100, 10, 70},
		{"a limit below what is reserved", PruneRequest{Keep: 80, MaxUsed: 70}, 100, 10, 80},
		{"free space that is there", PruneRequest{MinFree: 10}, 100, 10, 100},
		{"free space that is missing", PruneRequest{MinFree: 50}, 100, 10, 60},
		{"more than there is", PruneRequest{MinFree: 500}, 100, 10, 0},
		{"more than may go", PruneRequest{Keep: 90, MinFree: 500}, 100, 10, 90},
		{"both, the limit being less", PruneRequest{MaxUsed: 20, MinFree: 50}, 100, 10, 20},
		{"both, the space being less", PruneRequest{MaxUsed: 90, MinFree: 50}, 100, 10, 60},
	} {
		if got := tt.r.room(tt.total, tt.free); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestDeniedEntitlementsCannotBeGranted(t *testing.T) {
	h := newHouse(t)
	h.cfg.Denied = []string{EntitlementInsecure, EntitlementHostNetwork}
	for name, r := range map[string]Request{
		"granted by the client": {Entitlements: []string{EntitlementInsecure}},
		"network of all steps":  {Network: "host"},
	} {
		t.Run(name, func(t *testing.T) {
			r.Dockerfile = define("FROM scratch\nCOPY . /\n")
			if _, _, err := h.try(r); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), `"builder": {"entitlements": {"`) {
				t.Errorf("Build = %v, want ErrPermissionDenied and where it is set", err)
			}
		})
	}
}

func TestPlatformsBeginWithTheHostsOwn(t *testing.T) {
	list := (&Service{host: ocispec.Platform{OS: "linux", Architecture: "amd64"}}).Platforms(t.Context())
	if len(list) < 2 || list[0].Architecture != "amd64" || list[1].Architecture != "386" {
		t.Errorf("%+v, want amd64, what it runs by itself, and what is emulated", list)
	}
	for _, p := range list[1:] {
		if p.Architecture == "amd64" {
			t.Errorf("%+v: amd64 twice", list)
		}
	}
}
