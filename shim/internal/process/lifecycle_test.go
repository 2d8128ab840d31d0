package process

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

func TestEveryStatusCanEndAndNoneLeavesTheEnd(t *testing.T) {
	for s := Created; s < Stopped; s++ {
		if to, err := s.on(evExit); to != Stopped || err != nil {
			t.Errorf("%s on exit = %s, %v", s, to, err)
		}
	}
	for e := range numEvent {
		if to, err := Stopped.on(e); to != Stopped || !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("stopped on %s = %s, %v; want class ErrFailedPrecondition", e, to, err)
		}
	}
}

func TestLifecycle(t *testing.T) {
	s := Creating
	for _, step := range []struct {
		e    event
		want Status
	}{{evCreate, Created}, {evStart, Running}, {evPause, Paused}, {evResume, Running}, {evPause, Paused}, {evExit, Stopped}} {
		var err error
		if s, err = s.on(step.e); err != nil || s != step.want {
			t.Fatalf("on %s = %s, %v; want %s", step.e, s, err, step.want)
		}
	}
}
