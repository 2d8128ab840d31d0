package process

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// Status is where a process is in its life.
type Status uint8

// The statuses.
const (
	unknown  Status = iota // never stored; a zero Status is a bug
	Creating               // the runtime has not yet returned from create; for an exec: added, no process yet
	Created                // the init process waits on the start pipe; for an exec: the runtime makes its process
	Running
	Paused
	Stopped // its exit is known
	numStatus
)

func (s Status) String() string {
	return [numStatus]string{"unknown", "creating", "created", "running", "paused", "stopped"}[s]
}

// event is what changes a status: requests and the kernel's notifications alike.
type event uint8

const (
	evCreate event = iota // the runtime has made the process, or begins to make an exec's
	evStart
	evPause
	evResume
	evExit
	evFail // making it went wrong; an exec may be started again
	numEvent
)

func (e event) String() string {
	return [numEvent]string{"be created", "be started", "be paused", "be resumed", "exit", "fail"}[e]
}

// next is the whole lifecycle: the status after each event. A zero entry refuses it.
var next = [numStatus][numEvent]Status{
	Creating: {evCreate: Created},
	Created:  {evStart: Running, evExit: Stopped, evFail: Creating},
	Running:  {evPause: Paused, evExit: Stopped},
	Paused:   {evResume: Running, evExit: Stopped},
	Stopped:  {},
}

// on returns the status after e. The error is of class ErrFailedPrecondition.
func (s Status) on(e event) (Status, error) {
	if to := next[s][e]; to != unknown {
		return to, nil
	}
	return s, fmt.Errorf("%s process cannot %s: %w", s, e, errdefs.ErrFailedPrecondition)
}
