package build

import (
	"testing"
	"time"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/records"
)

func TestLeavesAreWhatNothingIsBuiltUponOldestFirst(t *testing.T) {
	at := func(h int) time.Time { return time.Unix(int64(h)*3600, 0) }
	all := map[string]*records.Record{
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
