package containers

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"strata/engined/internal/supervisor"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/restartpolicy"
)

// taskFact is an observation about a container's task: an event of the supervisor, or
// what reconciling found.
type taskFact struct {
	supervisor.TaskEvent
}

// OnTaskEvent takes in a fact about the init process of a container. It never blocks:
// facts of one container are handled in order, those of different ones side by side.
func (s *Service) OnTaskEvent(e supervisor.TaskEvent) {
	s.mu.RLock()
	c := s.byID[e.ContainerID]
	s.mu.RUnlock()
	if c == nil || e.ExecID != "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Kind == supervisor.TaskEventOOM {
		c.runtime.oom = true
		s.publish(c, "oom")
		return
	}
	c.queue = append(c.queue, taskFact{e})
	if !c.busy {
		c.busy = true
		s.work.Go(func() { s.drain(c) })
	}
}

func (s *Service) drain(c *Container) {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 {
			c.busy = false
			c.mu.Unlock()
			return
		}
		fact := c.queue[0]
		c.queue = c.queue[1:]
		c.mu.Unlock()
		s.handle(s.base, c, fact)
	}
}

func (s *Service) handle(ctx context.Context, c *Container, f taskFact) {
	ctx = ctxlog.WithAttrs(ctx, ctxlog.ContainerID, c.ID)
	if err := c.lock(ctx); err != nil {
		return // the engine stops; the next start asks the supervisor
	}
	defer c.unlock()
	switch st := c.State(); f.Kind {
	case supervisor.TaskEventExit:
		switch {
		case !st.Status.HasTask():
		case f.PID == 0 || st.PID == 0 || f.PID == st.PID:
			s.exited(ctx, c, supervisor.ExitStatus{PID: f.PID, Code: f.ExitCode, At: f.At})
		default: // of an earlier run, or of a later one whose start was missed
			s.resync(ctx, c)
		}
	case supervisor.TaskEventStart:
		switch {
		case st.Status == Restarting:
			s.started(ctx, c, f.PID, st.Restarts+1, f.At)
		case f.PID != 0 && f.PID != st.PID && st.Status != Dead: // the supervisor's own doing
			s.resync(ctx, c)
		}
	case supervisor.TaskEventPaused, supervisor.TaskEventResume:
		// The fact may be older than a pause or a resume that is recorded already: what the
		// task is now counts.
		if f.Kind == supervisor.TaskEventPaused && st.Status == Running || f.Kind == supervisor.TaskEventResume && st.Status == Paused {
			s.resync(ctx, c)
		}
	default:
	}
}

// exited records the end of the init process, frees what it used, and leaves the next
// start to the policy.
//
// Preconditions: the operation lock is held; the status has a task.
func (s *Service) exited(ctx context.Context, c *Container, exit supervisor.ExitStatus) {
	d, before, info := c.Definition(), c.State(), c.info()
	policy := Policy(d.Host.RestartPolicy)
	restarts := s.restartsSoFar(ctx, c, policy)
	again := policy.Restart(restartpolicy.Exit{Code: exit.Code, Restarts: restarts, ExplicitlyStopped: before.Stopped})
	if s.Health != nil {
		s.Health.Stopped(c)
	}
	e := evExited
	if again {
		e = evRetry
	}
	st, err := c.advance(e, func(st *State) {
		st.PID, st.ExitCode, st.FinishedAt, st.OOMKilled, st.Restarts = 0, exit.Code, exit.At, info.oom, restarts
	})
	if err != nil {
		ctxlog.From(ctx).Error("container exited out of turn", ctxlog.Error, err)
		return
	}
	ctxlog.From(ctx).Info("container exited", ctxlog.ExitCode, exit.Code)
	s.publish(c, "die", "exitCode", fmt.Sprint(exit.Code), "execDuration", fmt.Sprint(int64(exit.At.Sub(before.StartedAt).Seconds())))
	failpoint.Pass("containers/exited/told")
	// Whoever waits may use the container's ports and name next: they are free first.
	var wg sync.WaitGroup
	wg.Go(func() {
		if !d.Host.AutoRemove {
			s.saveState(ctx, c.ID, st) // before the task's deletion: only it knows the exit
		}
		if !again || !s.supervisorRestarts() {
			s.freeTask(ctx, c.ID)
		}
	})
	if !again && !d.Host.AutoRemove { // else the rest goes with the container
		wg.Go(func() { s.freeRuntime(ctx, c) })
	}
	wg.Wait()
	failpoint.Pass("containers/exited/freed")
	c.notifyExit(Exit{Code: exit.Code})
	switch {
	case again && !s.supervisorRestarts():
		s.retryLater(c, exit.At.Sub(before.StartedAt))
	case !again && d.Host.AutoRemove:
		s.removeLater(c)
	}
}

// restartsSoFar counts the restarts of a container. Where the policy has a limit the
// supervisor's count decides, as it restarts: the engine may have missed some.
func (s *Service) restartsSoFar(ctx context.Context, c *Container, policy restartpolicy.Policy) int {
	known := c.State().Restarts
	if policy.MaxRetries == 0 || !s.supervisorRestarts() {
		return known
	}
	records, err := s.Records.Containers(ctx, "id=="+c.ID)
	if err != nil || len(records) != 1 {
		return known
	}
	n, err := strconv.Atoi(records[0].Labels[restartpolicy.LabelCount])
	if err != nil {
		return known
	}
	return max(n, known)
}

// saveState stores a state durably: what it says was seen by somebody.
func (s *Service) saveState(ctx context.Context, containerID string, st State) {
	if err := s.Store.SaveState(containerID, st.stored()); err != nil {
		ctxlog.From(ctx).Warn("state of container was not stored", ctxlog.ContainerID, containerID, ctxlog.Error, err)
	}
}

// freeTask deletes a stopped task, which acknowledges its exit.
func (s *Service) freeTask(ctx context.Context, containerID string) {
	ctx, done := cleanup.Context(ctx)
	defer done()
	if _, err := s.Tasks.DeleteTask(ctx, containerID); err != nil && !errdefs.IsNotFound(err) {
		ctxlog.From(ctx).Warn("task was not deleted; the next start will", ctxlog.ContainerID, containerID, ctxlog.Error, err)
	}
}

// Policy returns the restart policy of a definition.
func Policy(p container.RestartPolicy) restartpolicy.Policy {
	name := string(p.Name)
	if name == "" {
		name = restartpolicy.No
	}
	return restartpolicy.Policy{Name: name, MaxRetries: p.MaximumRetryCount}
}

func (s *Service) supervisorRestarts() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.restarts
}

// retryLater starts the container again after the policy's delay: for supervisors that do
// not do it themselves.
func (s *Service) retryLater(c *Container, uptime time.Duration) {
	c.setInfo(func(i *runtimeInfo) {
		i.delay = restartpolicy.NextDelay(i.delay, uptime)
		i.retry = time.AfterFunc(i.delay, func() { s.work.Go(func() { s.retry(c) }) })
	})
}

func (s *Service) retry(c *Container) {
	ctx := s.base
	if c.lock(ctx) != nil {
		return
	}
	defer c.unlock()
	st := c.State()
	if st.Status != Restarting || st.Stopped {
		return
	}
	if err := s.start(ctx, c, st.Restarts+1); err != nil {
		ctxlog.From(ctx).Warn("container was not restarted", ctxlog.ContainerID, c.ID, ctxlog.Error, err)
		st := c.State()
		if Policy(c.Definition().Host.RestartPolicy).Restart(restartpolicy.Exit{Code: st.ExitCode, Restarts: st.Restarts + 1}) {
			c.edit(func(st *State) { st.Restarts++ })
			s.retryLater(c, 0)
			return
		}
		s.giveUp(ctx, c)
	}
}

// giveUp ends the retries of a restarting container.
//
// Preconditions: the operation lock is held.
func (s *Service) giveUp(ctx context.Context, c *Container) {
	s.cancelRetry(c)
	st, err := c.advance(evGivenUp, nil)
	if err != nil {
		return // it is not restarting
	}
	s.freeRuntime(ctx, c)
	s.saveState(ctx, c.ID, st)
	c.notifyExit(Exit{Code: st.ExitCode})
}

func (s *Service) cancelRetry(c *Container) {
	c.setInfo(func(i *runtimeInfo) {
		if i.retry != nil {
			i.retry.Stop()
			i.retry = nil
		}
	})
}
