package containers

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"strata/engined/internal/store"
	"strata/pkg/api"
	"strata/pkg/linux/mount"
)

// State is what became of a container: a value that is replaced, never changed.
type State struct {
	Status     Status
	PID        int
	ExitCode   int
	Error      string
	OOMKilled  bool
	StartedAt  time.Time
	FinishedAt time.Time
	Restarts   int
	Stopped    bool // a user wanted it stopped
	HasStarted bool
}

func (s State) stored() store.State {
	return store.State{
		Status: s.Status.String(), PID: s.PID, ExitCode: s.ExitCode, Error: s.Error, OOMKilled: s.OOMKilled, StartedAt: s.StartedAt,
		FinishedAt: s.FinishedAt, Restarts: s.Restarts, Stopped: s.Stopped, HasStarted: s.HasStarted,
	}
}

func stateOf(s store.State) State {
	return State{
		Status: parseStatus(s.Status), PID: s.PID, ExitCode: s.ExitCode, Error: s.Error, OOMKilled: s.OOMKilled, StartedAt: s.StartedAt,
		FinishedAt: s.FinishedAt, Restarts: s.Restarts, Stopped: s.Stopped, HasStarted: s.HasStarted,
	}
}

// Container is one container. Its definition and state are read without a lock.
type Container struct {
	ID string

	def    atomic.Pointer[store.Definition]
	state  atomic.Pointer[State]
	health atomic.Pointer[container.Health]

	op chan struct{} // buffered 1: the operation lock; see lock

	mu      sync.Mutex // guards what follows; never held across a call out of this package
	waiters map[*waiter]struct{}
	pending map[*pendingAttach]struct{}
	runtime runtimeInfo
	queue   []taskFact // supervisor events not yet handled
	busy    bool       // somebody handles the queue
}

// runtimeInfo is what the engine keeps in memory between the operations of a container.
type runtimeInfo struct {
	mounts     []mount.Mount // of the writable layer
	specHash   [32]byte      // of the spec in the supervisor's record
	recorded   bool          // there is a record in the supervisor
	steps      []api.Step    // of the last start
	oom        bool          // the kernel's killer was here since the last start
	delay      time.Duration // before the last automatic restart
	retry      *time.Timer   // an automatic restart of ours that waits
	userCached bool          // the user files of the image are still those of the container
}

func newContainer(d *store.Definition, st State) *Container {
	c := &Container{ID: d.ID, op: make(chan struct{}, 1), waiters: map[*waiter]struct{}{}, pending: map[*pendingAttach]struct{}{}}
	c.def.Store(d)
	c.state.Store(&st)
	return c
}

// Definition returns the container's definition, which must not be changed.
func (c *Container) Definition() *store.Definition { return c.def.Load() }

// State returns the container's state now.
func (c *Container) State() State { return *c.state.Load() }

// Health returns the container's health, or nil if nothing probes it. It must not be
// changed.
func (c *Container) Health() *container.Health { return c.health.Load() }

// SetHealth replaces the container's health; nil means that nothing probes it.
func (c *Container) SetHealth(h *container.Health) { c.health.Store(h) }

// lock takes the container's operation lock. It is never held while a process is waited
// for, so it is soon free; ctx bounds the wait.
func (c *Container) lock(ctx context.Context) error {
	select {
	case c.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another operation on container %s: %w", c.ID, ctx.Err())
	}
}

func (c *Container) unlock() { <-c.op }

// advance changes the status by an event and the rest of the state by edit (may be nil),
// and returns the new state. It is the only place where a state changes.
//
// Preconditions: the operation lock is held.
func (c *Container) advance(e event, edit func(*State)) (State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := *c.state.Load()
	n, err := st.Status.on(e)
	if err != nil {
		return st, err
	}
	st.Status = n
	if edit != nil {
		edit(&st)
	}
	c.state.Store(&st)
	return st, nil
}

// edit changes the state but not the status. Preconditions: the operation lock is held.
func (c *Container) edit(edit func(*State)) State {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := *c.state.Load()
	edit(&st)
	c.state.Store(&st)
	return st
}

func (c *Container) info() runtimeInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.runtime
}

func (c *Container) setInfo(edit func(*runtimeInfo)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	edit(&c.runtime)
}

// notRunning is the error of what needs a process; it has dockerd's words.
func (c *Container) notRunning() error {
	return fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrConflict)
}

// changeDefinition replaces the definition by an edited copy, in memory.
func (c *Container) changeDefinition(edit func(*store.Definition)) *store.Definition {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := *c.def.Load()
	host, config := *d.Host, *d.Config
	d.Host, d.Config = &host, &config
	d.Endpoints = maps.Clone(d.Endpoints)
	edit(&d)
	c.def.Store(&d)
	return &d
}
