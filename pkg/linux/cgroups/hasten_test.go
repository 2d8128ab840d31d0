package cgroups

import (
	"os"
	"testing"
)

func TestHastenerLeavesTheProcessWhereItIs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: writes cgroup.procs")
	}
	before, err := ownCgroups("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var h Hastener
	for range 3 {
		h.Start()
	}
	h.Wait()
	after, err := ownCgroups("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if len(before) != len(after) {
		t.Fatalf("before %v, after %v", before, after)
	}
	for name, path := range before {
		if after[name] != path {
			t.Errorf("hierarchy %s: %s, was %s", name, after[name], path)
		}
	}
}
