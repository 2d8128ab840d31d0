package build

import (
	"path/filepath"
	"testing"
	"time"

	"strata/engined/internal/build/dockerfile"
)

func testCache(t *testing.T) *cache {
	t.Helper()
	c, err := openCache(filepath.Join(t.TempDir(), "build.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestForgettingARecordForgetsWhatLeadsToIt(t *testing.T) {
	c := testCache(t)
	if err := c.put(&Record{Key: "sha256:a", Snapshot: "s"}, "plain1", "plain2"); err != nil {
		t.Fatal(err)
	}
	if err := c.put(&Record{Key: "sha256:b", Parent: "sha256:a"}, "plain3"); err != nil {
		t.Fatal(err)
	}
	if err := c.finish("image", Finished{Top: "sha256:a"}); err != nil {
		t.Fatal(err)
	}
	if r, ok := c.alias("plain2"); !ok || r.Snapshot != "s" {
		t.Fatalf("alias: %+v, %v", r, ok)
	}
	if err := c.forget(map[string]bool{"sha256:a": true}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"plain1", "plain2"} {
		if _, ok := c.alias(p); ok {
			t.Errorf("%s leads to a record that is gone", p)
		}
	}
	if _, ok := c.finished("image"); ok {
		t.Error("an image of a record that is gone is remembered")
	}
	if _, ok := c.alias("plain3"); !ok {
		t.Error("another record was forgotten, too")
	}
}

func TestUsesAreCounted(t *testing.T) {
	c := testCache(t)
	old := time.Now().Add(-time.Hour)
	if err := c.put(&Record{Key: "sha256:a", LastUsed: old, Uses: 1}); err != nil {
		t.Fatal(err)
	}
	c.use("sha256:a")
	c.use("sha256:a")
	all, err := c.all()
	if err != nil {
		t.Fatal(err)
	}
	if r := all["sha256:a"]; r.Uses != 3 || !r.LastUsed.After(old) {
		t.Errorf("record %+v", r)
	}
}

func TestLeavesAreWhatNothingIsBuiltUponOldestFirst(t *testing.T) {
	at := func(h int) time.Time { return time.Unix(int64(h)*3600, 0) }
	all := map[string]*Record{
		"a": {Key: "a", LastUsed: at(1)}, "b": {Key: "b", Parent: "a", LastUsed: at(9)}, "c": {Key: "c", Parent: "a", LastUsed: at(5)},
	}
	got := leaves(all)
	if len(got) != 2 || got[0].Key != "c" || got[1].Key != "b" {
		t.Errorf("leaves %v", got)
	}
}

func TestKeysAreOfTheDefinition(t *testing.T) {
	b := &builder{}
	run := func(change func(*dockerfile.Run)) string {
		r := &dockerfile.Run{Args: []string{"make"}, Env: []string{"A=1", "HTTP_PROXY=x"}, Hides: []string{"HTTP_PROXY"}, Network: "default"}
		if change != nil {
			change(r)
		}
		return b.definition(&dockerfile.Vertex{Run: r})
	}
	want := run(nil)
	for _, row := range []struct {
		name   string
		change func(*dockerfile.Run)
		same   bool
	}{
		{"proxy", func(r *dockerfile.Run) { r.Env[1] = "HTTP_PROXY=y" }, true},
		{"variable", func(r *dockerfile.Run) { r.Env[0] = "A=2" }, false},
		{"command", func(r *dockerfile.Run) { r.Args = []string{"make", ""} }, false},
		{"user", func(r *dockerfile.Run) { r.User = "nobody" }, false},
		{"network", func(r *dockerfile.Run) { r.Network = "none" }, false},
		{"mount", func(r *dockerfile.Run) {
			r.Mounts = []dockerfile.Mount{{Type: dockerfile.MountCache, Target: "/c"}}
		}, false},
	} {
		if got := run(row.change) == want; got != row.same {
			t.Errorf("%s: same key: %v, want %v", row.name, got, row.same)
		}
	}
	if key("a", "bc") == key("ab", "c") {
		t.Error("the borders of parts do not matter")
	}
}
