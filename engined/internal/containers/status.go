package containers

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// Status is where a container is in its life. Its words are the Engine API's.
type Status uint8

// The statuses. The zero Status is never stored.
const (
	unknown Status = iota
	Created
	Running
	Paused
	Restarting // ended, and about to be started again by its policy
	Exited
	Dead // its removal was decided, and something could not be freed yet
	numStatus
)

var statusNames = [numStatus]string{"unknown", "created", "running", "paused", "restarting", "exited", "dead"}

// String returns the word of the Engine API.
func (s Status) String() string { return statusNames[s] }

// parseStatus is the reverse of String; anything else is Created.
func parseStatus(word string) Status {
	for s, name := range statusNames {
		if name == word && Status(s) != unknown {
			return Status(s)
		}
	}
	return Created
}

// Alive reports whether the container counts as running: it has a process, or will have
// one again without anybody asking.
func (s Status) Alive() bool { return s == Running || s == Paused || s == Restarting }

// HasTask reports whether there is a process.
func (s Status) HasTask() bool { return s == Running || s == Paused }

type event uint8

const (
	evStarted event = iota // the init process runs
	evFailed               // a start came to nothing
	evPaused
	evResumed
	evExited  // the init process ended for good
	evRetry   // the init process ended, and the policy starts it again
	evGivenUp // no more retries
	evRemoved // the removal was decided
	numEvent
)

var eventNames = [numEvent]string{"started", "failed to start", "paused", "resumed", "exited", "exited, to be restarted", "given up", "removed"}

func (e event) String() string { return eventNames[e] }

// next is the whole lifecycle: the status after each event. A zero entry refuses the
// event. testdata/lifecycle.dot is drawn from it.
var next = [numStatus][numEvent]Status{
	Created:    {evStarted: Running, evFailed: Created, evRemoved: Dead},
	Running:    {evPaused: Paused, evExited: Exited, evRetry: Restarting},
	Paused:     {evResumed: Running, evExited: Exited, evRetry: Restarting},
	Restarting: {evStarted: Running, evFailed: Restarting, evGivenUp: Exited, evRemoved: Dead},
	Exited:     {evStarted: Running, evFailed: Exited, evRemoved: Dead},
	Dead:       {evRemoved: Dead},
}

// on returns the status after e, or an error of class ErrFailedPrecondition.
func (s Status) on(e event) (Status, error) {
	n := next[s][e]
	if n == unknown {
		return s, fmt.Errorf("a container that is %s cannot be %s: %w", s, e, errdefs.ErrFailedPrecondition)
	}
	return n, nil
}
