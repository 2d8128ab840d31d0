package containers

import (
	"context"
	"fmt"

	"github.com/moby/moby/api/types/container"
)

// Exit is how a container ended.
type Exit struct{ Code int }

// waiter is somebody who waits for a container.
type waiter struct {
	removal bool      // for the removal, not for the exit
	last    Exit      // the exit so far, for waiters for the removal
	done    chan Exit // buffered 1: whoever ends the wait never blocks
}

// Wait begins to wait for a container. It returns at once, with an error if the container
// or the condition is unknown; result blocks until the condition is met or ctx ends.
func (s *Service) Wait(ref string, condition container.WaitCondition) (result func(ctx context.Context) (Exit, error), err error) {
	switch condition {
	case "":
		condition = container.WaitConditionNotRunning
	case container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
	default:
		return nil, invalid("invalid condition: %q", condition)
	}
	c, err := s.Get(ref)
	if err != nil {
		return nil, err
	}
	w := &waiter{removal: condition == container.WaitConditionRemoved, done: make(chan Exit, 1)}
	c.mu.Lock()
	st := *c.state.Load()
	w.last = Exit{Code: st.ExitCode}
	if condition == container.WaitConditionNotRunning && (!st.Status.Alive() || st.Status == Restarting) {
		w.done <- w.last
	} else {
		c.waiters[w] = struct{}{}
	}
	c.mu.Unlock()
	if w.removal {
		if _, err := s.Get(c.ID); err != nil { // removed between the two look-ups
			c.notifyRemoved()
		}
	}
	return func(ctx context.Context) (Exit, error) {
		select {
		case e := <-w.done:
			return e, nil
		case <-ctx.Done():
			c.mu.Lock()
			delete(c.waiters, w)
			c.mu.Unlock()
			return Exit{}, fmt.Errorf("wait for container %s: %w", c.ID, ctx.Err())
		}
	}, nil
}

// notifyExit ends the waits for an exit.
func (c *Container) notifyExit(e Exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.waiters {
		if w.removal {
			w.last = e
			continue
		}
		delete(c.waiters, w)
		w.done <- e
	}
}

// notifyRemoved ends all waits.
func (c *Container) notifyRemoved() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.waiters {
		delete(c.waiters, w)
		w.done <- w.last
	}
}

// Ended returns a channel that is closed when the container's present run has ended; it
// is closed already if the container does not run. Cancel frees it.
func (s *Service) Ended(ctx context.Context, c *Container) (ended <-chan struct{}, cancel func()) {
	ch := make(chan struct{})
	ctx, stop := context.WithCancel(ctx)
	wait, err := s.Wait(c.ID, container.WaitConditionNextExit)
	if err != nil || !c.State().Status.HasTask() {
		stop()
		close(ch)
		return ch, stop
	}
	done := make(chan struct{})
	go func() { // ends with ctx; cancel waits for it
		defer close(done)
		if _, err := wait(ctx); err == nil {
			close(ch)
		}
	}()
	return ch, func() { stop(); <-done }
}
