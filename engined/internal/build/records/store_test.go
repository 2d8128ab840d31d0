package records

import (
	"path/filepath"
	"testing"
	"time"
)

func open(t *testing.T) *Store {
	t.Helper()
	c, err := Open(filepath.Join(t.TempDir(), "build.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestForgettingARecordForgetsWhatLeadsToIt(t *testing.T) {
	c := open(t)
	if err := c.Put(&Record{Key: "sha256:a", Snapshot: "s"}, "plain1", "plain2"); err != nil {
		t.Fatal(err)
	}
	if err := c.Put(&Record{Key: "sha256:b", Parent: "sha256:a"}, "plain3"); err != nil {
		t.Fatal(err)
	}
	if err := c.Finish("image", Finished{Top: "sha256:a"}); err != nil {
		t.Fatal(err)
	}
	if r, ok := c.Alias("plain2"); !ok || r.Snapshot != "s" {
		t.Fatalf("alias: %+v, %v", r, ok)
	}
	if err := c.Forget(map[string]bool{"sha256:a": true}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"plain1", "plain2"} {
		if _, ok := c.Alias(p); ok {
			t.Errorf("%s leads to a record that is gone", p)
		}
	}
	if _, ok := c.Finished("image"); ok {
		t.Error("an image of a record that is gone is remembered")
	}
	if _, ok := c.Alias("plain3"); !ok {
		t.Error("another record was forgotten, too")
	}
}

func TestUsesAreCounted(t *testing.T) {
	c := open(t)
	old := time.Now().Add(-time.Hour)
	if err := c.Put(&Record{Key: "sha256:a", LastUsed: old, Uses: 1}); err != nil {
		t.Fatal(err)
	}
	c.Use("sha256:a")
	c.Use("sha256:a")
	all, err := c.All()
	if err != nil {
		t.Fatal(err)
	}
	if r := all["sha256:a"]; r.Uses != 3 || !r.LastUsed.After(old) {
		t.Errorf("record %+v", r)
	}
}
