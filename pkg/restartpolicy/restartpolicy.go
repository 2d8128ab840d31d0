package restartpolicy

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Labels of the supervisor's container record.
//
// Source: containerd core/runtime/restart.
const (
	LabelStatus            = "containerd.io/restart.status" // wanted: "running" or "stopped"
	LabelPolicy            = "containerd.io/restart.policy" // Policy.String
	LabelCount             = "containerd.io/restart.count"  // restarts so far, decimal
	LabelExplicitlyStopped = "containerd.io/restart.explicitly-stopped"
	LabelLogURI            = "containerd.io/restart.loguri"
	// LabelEngineBoots, if "true", leaves the first start after a reboot to the
	// engine, which must rebuild the container's network first.
	LabelEngineBoots = "strata.restart.engine-boots"
)

// The names of policies, as the Engine API spells them.
const (
	No            = "no"
	Always        = "always"
	UnlessStopped = "unless-stopped"
	OnFailure     = "on-failure"
)

// Policy is a parsed restart policy. The zero Policy never restarts.
type Policy struct {
	Name       string
	MaxRetries int // on-failure only; zero means no limit
}

// Parse reads "", "no", "always", "unless-stopped", "on-failure" or "on-failure:N". The
// error is of class ErrInvalidArgument.
func Parse(s string) (Policy, error) {
	name, count, hasCount := strings.Cut(s, ":")
	p := Policy{Name: name}
	switch name {
	case "":
		p.Name = No
	case No, Always, UnlessStopped, OnFailure:
	default:
		return Policy{}, fmt.Errorf("unknown restart policy %q; use no, always, unless-stopped or on-failure[:N]: %w", s, errdefs.ErrInvalidArgument)
	}
	if !hasCount {
		return p, nil
	}
	n, err := strconv.Atoi(count)
	if name != OnFailure || err != nil || n < 0 {
		return Policy{}, fmt.Errorf("restart policy %q: only on-failure takes a count, which must be a natural number: %w", s, errdefs.ErrInvalidArgument)
	}
	p.MaxRetries = n
	return p, nil
}

// String returns what Parse reads.
func (p Policy) String() string {
	switch {
	case p.Name == "":
		return No
	case p.MaxRetries > 0:
		return fmt.Sprintf("%s:%d", p.Name, p.MaxRetries)
	default:
		return p.Name
	}
}

// Exit is what is known when a container has ended.
type Exit struct {
	Code              int
	Restarts          int // automatic restarts since the last start by a user
	ExplicitlyStopped bool
}

// Restart reports whether the container starts again.
func (p Policy) Restart(e Exit) bool {
	if e.ExplicitlyStopped {
		return false
	}
	switch p.Name {
	case Always, UnlessStopped:
		return true
	case OnFailure:
		return e.Code != 0 && (p.MaxRetries == 0 || e.Restarts < p.MaxRetries)
	default:
		return false
	}
}

const (
	firstDelay = 100 * time.Millisecond
	maxDelay   = time.Minute
	stableTime = 10 * time.Second
)

// NextDelay returns how long to wait before the next start: 100 ms at first, doubled
// each time up to one minute, and 100 ms again after a run of at least 10 s. previous is
// the last delay, or zero.
//
// Source: Docker Engine API, HostConfig.RestartPolicy.
func NextDelay(previous, uptime time.Duration) time.Duration {
	if previous == 0 || uptime >= stableTime {
		return firstDelay
	}
	return min(previous*2, maxDelay)
}
