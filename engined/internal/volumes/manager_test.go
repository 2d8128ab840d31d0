package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"strata/engined/internal/events"
	"strata/pkg/metadb"
)

func open(t *testing.T, dir string) (*Manager, *bolt.DB) {
	t.Helper()
	db, err := metadb.Open(filepath.Join(dir, "engine.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	m, err := New(db, dir, events.NewLog())
	if err != nil {
		t.Fatal(err)
	}
	return m, db
}

func TestVolumesSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	m, db := open(t, dir)
	v, err := m.Create(t.Context(), CreateRequest{Name: "data", Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.Mountpoint, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	m, _ = open(t, dir)
	got, err := m.Get("data")
	if err != nil || got.Mountpoint != v.Mountpoint || got.Labels["a"] != "b" {
		t.Errorf("Get = %+v, %v", got, err)
	}
	if _, fresh, err := m.Acquire(t.Context(), "data", "c1"); err != nil || fresh {
		t.Errorf("Acquire: fresh %v, %v; want a volume with content", fresh, err)
	}
}

func TestAVolumeInUseIsNotRemoved(t *testing.T) {
	m, _ := open(t, t.TempDir())
	if _, err := m.Refer(t.Context(), "data", "c1"); err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(t.Context(), "data", true); !errors.Is(err, errdefs.ErrConflict) || err.Error() != "remove data: volume is in use - [c1]: conflict" {
		t.Errorf("Remove = %v", err)
	}
	if names, _, err := m.Prune(t.Context(), func(Volume) bool { return true }); err != nil || len(names) != 0 {
		t.Errorf("Prune = %v, %v", names, err)
	}
	if _, err := m.Forget(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(t.Context(), "data", false); err != nil {
		t.Error(err)
	}
	if err := m.Remove(t.Context(), "data", false); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("second Remove = %v, want class ErrNotFound", err)
	}
	if err := m.Remove(t.Context(), "data", true); err != nil {
		t.Errorf("forced Remove of nothing = %v", err)
	}
}

func TestForgetReturnsAnonymousVolumesThatNobodyUses(t *testing.T) {
	m, _ := open(t, t.TempDir())
	anonymous, err := m.Create(t.Context(), CreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c1", "c2"} {
		for _, name := range []string{anonymous.Name, "named"} {
			if _, err := m.Refer(t.Context(), name, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, err := m.Forget(t.Context(), "c1"); err != nil || len(got) != 0 {
		t.Errorf("Forget(c1) = %v, %v; c2 still uses the volume", got, err)
	}
	if got, err := m.Forget(t.Context(), "c2"); err != nil || !slices.Equal(got, []string{anonymous.Name}) {
		t.Errorf("Forget(c2) = %v, %v; want the anonymous volume", got, err)
	}
}

func TestRetainDropsReferencesOfContainersThatNeverWere(t *testing.T) {
	m, _ := open(t, t.TempDir())
	for _, id := range []string{"real", "ghost"} {
		if _, err := m.Refer(t.Context(), "data", id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Retain(func(id string) bool { return id == "real" }); err != nil {
		t.Fatal(err)
	}
	if got := m.Users("data"); !slices.Equal(got, []string{"real"}) {
		t.Errorf("Users = %v, want the real container", got)
	}
}

func TestAVolumeWithADeviceIsMountedWhileUsed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	m, _ := open(t, t.TempDir())
	v, err := m.Create(t.Context(), CreateRequest{Name: "ram", Options: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c1", "c2"} {
		if _, err := m.Refer(t.Context(), "ram", id); err != nil {
			t.Fatal(err)
		}
		if _, _, err := m.Acquire(t.Context(), "ram", id); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(v.Mountpoint, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	there := func() bool { _, err := os.Stat(filepath.Join(v.Mountpoint, "f")); return err == nil }
	if err := m.Release(t.Context(), "c1"); err != nil || !there() {
		t.Errorf("after the first release: %v, mounted %v; c2 still uses it", err, there())
	}
	if err := m.Release(t.Context(), "c2"); err != nil || there() {
		t.Errorf("after the last release: %v, mounted %v", err, there())
	}
}

func TestBadRequestsAreNamed(t *testing.T) {
	m, _ := open(t, t.TempDir())
	for name, r := range map[string]CreateRequest{
		"slash":          {Name: "a/b"},
		"dots":           {Name: ".."},
		"unknown option": {Name: "a", Options: map[string]string{"colour": "red"}},
		"half a device":  {Name: "a", Options: map[string]string{"type": "tmpfs"}},
	} {
		if _, err := m.Create(t.Context(), r); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v, want class ErrInvalidArgument", name, err)
		}
	}
	if _, err := m.Create(t.Context(), CreateRequest{Name: "a", Driver: "cloud"}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("unknown driver: %v, want class ErrNotFound", err)
	}
}
