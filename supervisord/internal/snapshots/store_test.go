package snapshots_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/namespaces"
	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/snapshots"
	"strata/supervisord/internal/snapshots/native"
	"strata/supervisord/internal/snapshots/overlay"
	"strata/supervisord/internal/snapshots/snapshottest"
)

func open(t testing.TB, root string, driver snapshots.Driver) *snapshots.Store {
	t.Helper()
	s, err := snapshots.Open(t.Context(), snapshots.Config{
		Root: root, Driver: driver, Barrier: &gc.Barrier{}, Changed: func() {},
		LeaseExists: func(_, lease string) (bool, error) { return lease == "lease", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func overlayDriver(t testing.TB) snapshots.Driver {
	t.Helper()
	d, err := overlay.New()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOverlay(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) (snapshots.Snapshotter, func() snapshots.Snapshotter) {
		root := t.TempDir()
		return open(t, root, overlayDriver(t)), func() snapshots.Snapshotter { return open(t, root, overlayDriver(t)) }
	})
}

func TestNative(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) (snapshots.Snapshotter, func() snapshots.Snapshotter) {
		root := t.TempDir()
		return open(t, root, native.Driver{}), func() snapshots.Snapshotter { return open(t, root, native.Driver{}) }
	})
}

// rewrite changes the record of the snapshot with that name.
func rewrite(t *testing.T, root, name, old, new string) {
	t.Helper()
	records, err := filepath.Glob(filepath.Join(root, "*", "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range records {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if s := string(data); strings.Contains(s, fmt.Sprintf("%q", name)) {
			changed := strings.Replace(s, old, new, 1)
			if changed == s {
				t.Fatalf("record %s has no %q", s, old)
			}
			if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no record of %q", name)
}

func boot(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func TestSnapshotsOfABootThatEndedEarlyAreNotBelieved(t *testing.T) {
	root := t.TempDir()
	ctx := namespaces.With(t.Context(), "test")
	s := open(t, root, overlayDriver(t))
	for _, l := range [][2]string{{"base", ""}, {"durable", ""}, {"child", "base"}} {
		if _, err := s.Prepare(ctx, "key", l[1], nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(ctx, l[0], "key", nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Prepare(ctx, "active", "base", nil); err != nil {
		t.Fatal(err)
	}
	// As if the power had failed after "durable" was flushed and before "base" was.
	rewrite(t, root, "durable", boot(t), "")
	rewrite(t, root, "base", boot(t), "another")
	rewrite(t, root, "child", boot(t), "")
	s = open(t, root, overlayDriver(t))
	for name, there := range map[string]bool{"base": false, "child": false, "durable": true, "active": true} {
		_, err := s.Stat(ctx, name)
		if there != (err == nil) || !there && !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("Stat(%q) = %v, want there: %v", name, err, there)
		}
	}
	if _, err := s.Mounts(ctx, "active"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Mounts without the parent = %v, want class ErrNotFound", err)
	}
	if _, err := s.Prepare(ctx, "key", "", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, "base", "key", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Mounts(ctx, "active"); err != nil {
		t.Errorf("Mounts with the parent unpacked again: %v", err)
	}
}

func TestCloseMakesCommittedSnapshotsDurable(t *testing.T) {
	root := t.TempDir()
	ctx := namespaces.With(t.Context(), "test")
	s := open(t, root, overlayDriver(t))
	if _, err := s.Prepare(ctx, "key", "", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, "base", "key", nil); err != nil {
		t.Fatal(err)
	}
	has := func() bool {
		data, err := os.ReadFile(filepath.Join(root, "1", "record.json"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(data), boot(t))
	}
	if !has() {
		t.Error("the record says durable before it is")
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if has() {
		t.Error("the record does not say durable after Close")
	}
}

func TestACrashLeavesNoHalfSnapshot(t *testing.T) {
	root := t.TempDir()
	ctx := namespaces.With(t.Context(), "test")
	s := open(t, root, overlayDriver(t))
	if _, err := s.Prepare(ctx, "key", "", nil); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"2/fs", "2/work", "rm-3/fs", "4/fs"} { // made, not recorded; removed, not deleted
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "4", "record.json"), []byte(`{"id":4,"na`), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, root, overlayDriver(t))
	if err := s.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) != 1 || entries[0].Name() != "1" {
		t.Errorf("left: %v, %v; want the whole snapshot only", entries, err)
	}
	if _, err := s.Prepare(ctx, "next", "", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "5")); err != nil {
		t.Errorf("an id was used twice: %v", err)
	}
}

func TestSnapshotsRememberTheirLease(t *testing.T) {
	ctx := namespaces.WithLease(namespaces.With(t.Context(), "test"), "lease")
	s := open(t, t.TempDir(), overlayDriver(t))
	if _, err := s.Prepare(ctx, "key", "", nil); err != nil {
		t.Fatal(err)
	}
	held := s.HeldBy("test", "lease")
	if len(held) != 1 || held[0].ID != "key" || held[0].Type != "snapshots/overlayfs" {
		t.Errorf("HeldBy = %v", held)
	}
	if err := s.Release(ctx, "test", "lease", held[0]); err != nil {
		t.Fatal(err)
	}
	if held := s.HeldBy("test", "lease"); len(held) != 0 {
		t.Errorf("HeldBy after Release = %v", held)
	}
	if _, err := s.Prepare(namespaces.WithLease(ctx, "unknown"), "x", "", nil); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Prepare under an unknown lease = %v, want class ErrNotFound", err)
	}
}

func BenchmarkPrepareRemove(b *testing.B) {
	ctx := namespaces.With(b.Context(), "test")
	s := open(b, b.TempDir(), overlayDriver(b))
	if _, err := s.Prepare(ctx, "key", "", nil); err != nil {
		b.Fatal(err)
	}
	if err := s.Commit(ctx, "base", "key", nil); err != nil {
		b.Fatal(err)
	}
	var prepare time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := s.Prepare(ctx, "active", "base", nil); err != nil {
			b.Fatal(err)
		}
		prepare += time.Since(start)
		if err := s.Remove(ctx, "active"); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(prepare.Microseconds())/float64(b.N), "µs/prepare")
}
