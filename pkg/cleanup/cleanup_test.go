package cleanup

import (
	"context"
	"slices"
	"testing"
)

func TestCleanRunsUndoLastFirstAndOnce(t *testing.T) {
	var s Stack
	var got []int
	for i := range 3 {
		s.Add(func() { got = append(got, i) })
	}
	s.Clean()
	s.Clean()
	if want := []int{2, 1, 0}; !slices.Equal(got, want) {
		t.Errorf("undo order = %v, want %v", got, want)
	}
}

func TestReleaseKeepsWhatWasDone(t *testing.T) {
	var s Stack
	s.Add(func() { t.Error("undo ran after Release") })
	s.Release()
	s.Clean()
}

func TestContextOutlivesItsParent(t *testing.T) {
	type key struct{}
	parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "v"))
	cancel()
	ctx, done := Context(parent)
	defer done()
	if ctx.Err() != nil || ctx.Value(key{}) != "v" {
		t.Errorf("Context: err %v, value %v; want alive with the parent's values", ctx.Err(), ctx.Value(key{}))
	}
	if _, ok := ctx.Deadline(); !ok {
		t.Error("Context has no deadline")
	}
}
