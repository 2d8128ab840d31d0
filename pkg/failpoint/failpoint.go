package failpoint

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// Variable names the environment variable that arms failpoints. Its value is
// "NAME=ACTION[;COUNT]", several separated by commas. An ACTION is kill (the process sends
// itself SIGKILL), error (Hit returns ErrUnavailable) or sleep:DURATION. With a COUNT n the
// action happens at the n-th hit only, and without one at each.
const Variable = "STRATA_FAILPOINTS"

// HitsVariable names the environment variable with the path of a file to which each action
// appends the failpoint's name before it happens, so that a test knows that it did.
const HitsVariable = "STRATA_FAILPOINTS_HITS"

type action struct {
	verb  string
	sleep time.Duration
	at    int64 // 0: at each hit
	hits  atomic.Int64
}

// armed is made of the environment once, at the first hit; nil if nothing is armed.
var armed = sync.OnceValue(func() map[string]*action {
	points, err := parse(os.Getenv(Variable))
	if err != nil {
		slog.Error("failpoints are not armed", "error", err)
		return nil
	}
	return points
})

// Hit does what the failpoint of that name is armed for, and nothing otherwise. It returns
// an error, of class ErrUnavailable, only for the action "error".
func Hit(name string) error {
	points := armed()
	if points == nil {
		return nil
	}
	a, ok := points[name]
	if !ok {
		return nil
	}
	return a.do(name)
}

func (a *action) do(name string) error {
	if n := a.hits.Add(1); a.at != 0 && n != a.at {
		return nil
	}
	note(name)
	switch a.verb {
	case "kill":
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL) // nobody refuses that to itself
		select {}                                           // until it has arrived
	case "sleep":
		time.Sleep(a.sleep)
		return nil
	default:
		return fmt.Errorf("failpoint %s: %w", name, errdefs.ErrUnavailable)
	}
}

// note tells the test of an action. Without a file there is nobody to tell.
func note(name string) {
	f, err := os.OpenFile(os.Getenv(HitsVariable), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	_, _ = f.WriteString(name + "\n") // a test that misses it says so
	_ = f.Close()
}

// parse returns nil for "".
func parse(text string) (map[string]*action, error) {
	if text == "" {
		return nil, nil
	}
	out := map[string]*action{}
	for part := range strings.SplitSeq(text, ",") {
		name, what, ok := strings.Cut(part, "=")
		if !ok {
			return nil, fmt.Errorf("failpoint %q: want NAME=ACTION: %w", part, errdefs.ErrInvalidArgument)
		}
		a, err := parseAction(what)
		if err != nil {
			return nil, fmt.Errorf("failpoint %q: %w", part, err)
		}
		out[name] = a
	}
	return out, nil
}

func parseAction(text string) (*action, error) {
	a := &action{}
	verb, count, counted := strings.Cut(text, ";")
	if counted {
		n, err := strconv.ParseInt(count, 10, 64)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("count %q is not a positive number: %w", count, errdefs.ErrInvalidArgument)
		}
		a.at = n
	}
	verb, duration, timed := strings.Cut(verb, ":")
	switch a.verb = verb; {
	case verb == "sleep" && timed:
		d, err := time.ParseDuration(duration)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		a.sleep = d
	case (verb == "kill" || verb == "error") && !timed:
	default:
		return nil, fmt.Errorf("action %q is not kill, error or sleep:DURATION: %w", text, errdefs.ErrInvalidArgument)
	}
	return a, nil
}

// Pass is Hit after a point of no return, where a failure has no meaning: the action "error"
// does nothing.
func Pass(name string) { _ = Hit(name) } // see above
