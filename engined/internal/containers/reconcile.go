package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"strata/engined/internal/supervisor"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/restartpolicy"
)

// reconcileWidth bounds how many containers are reconciled at once.
const reconcileWidth = 16

// Restarts says whether the supervisor restarts containers by their policy itself; if not,
// the engine does. It is called when the supervisor is known.
func (s *Service) Restarts(itself bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restarts = itself
}

// Reconcile compares each container with what the supervisor says: it is called once
// events flow, at the start of the engine and after each gap. Exits that were missed are
// made up for; first says that the engine has just started, and then what belongs to no
// container is swept and policies are followed.
func (s *Service) Reconcile(ctx context.Context, first bool) error {
	began := time.Now()
	tasks, err := s.Tasks.Tasks(ctx)
	if err != nil {
		return fmt.Errorf("reconcile containers: list tasks: %w", err)
	}
	records, err := s.Records.Containers(ctx, fmt.Sprintf("labels.%q==true", labelEngine))
	if err != nil {
		return fmt.Errorf("reconcile containers: list records: %w", err)
	}
	known := map[string]supervisor.Container{}
	for _, r := range records {
		known[r.ID] = r
	}
	limit := make(chan struct{}, reconcileWidth)
	var wg sync.WaitGroup
	for _, c := range s.All() {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			rec, recorded := known[c.ID]
			task, alive := tasks[c.ID]
			s.reconcile(ctx, c, observed{record: rec, recorded: recorded, task: task, hasTask: alive, first: first})
		})
	}
	wg.Wait()
	s.finishRemovals(ctx)
	if first {
		s.sweep(ctx, known)
		for _, path := range s.staleSockets(began) { // of execs, which nobody remembers
			_ = os.Remove(path) // doctor finds what stays
		}
	}
	return nil
}

// observed is what the supervisor says about one container.
type observed struct {
	record   supervisor.Container
	recorded bool
	task     supervisor.Task
	hasTask  bool
	first    bool // the engine has just started
	final    bool // a task that is not there does not come back
	stale    bool // nothing is known
}

// agrees reports whether a state says what was observed.
func (o observed) agrees(st State) bool {
	if !o.hasTask || !st.Status.HasTask() {
		return !o.hasTask && !st.Status.HasTask()
	}
	return o.task.PID == st.PID && (o.task.Status == supervisor.TaskRunning && st.Status == Running || o.task.Status == supervisor.TaskPaused && st.Status == Paused)
}

// How often a task is asked for whose shim is just dying, and the pause between.
const (
	askTries = 5
	askPause = 20 * time.Millisecond
)

// askAgain observes one container's task anew.
//
// Preconditions: the operation lock is held, so that what is seen stays true.
func (s *Service) askAgain(ctx context.Context, c *Container, o observed) observed {
	for try := 1; ; try++ {
		t, err := s.Tasks.GetTask(ctx, c.ID)
		switch {
		case err == nil:
			o.task, o.hasTask = t, true
		case errdefs.IsNotFound(err) && s.comesBack(c, o):
			o.stale = true
			s.lookAgainLater(c)
		case errdefs.IsNotFound(err):
			o.hasTask = false
		case try == askTries || ctx.Err() != nil:
			o.stale = true
		default:
			select {
			case <-time.After(askPause):
			case <-ctx.Done():
			}
			continue
		}
		return o
	}
}

// comesBack reports whether the supervisor may be about to make a task anew that is not
// there. After a reboot it leaves that to the engine.
func (s *Service) comesBack(c *Container, o observed) bool {
	return !o.first && !o.final && s.supervisorRestarts() && Policy(c.Definition().Host.RestartPolicy).Name != restartpolicy.No
}

// lookAgainPause is how long the supervisor may take to make a task anew.
const lookAgainPause = 3 * time.Second

// lookAgainLater observes a container once more, for the case that no event says that its
// task is back.
func (s *Service) lookAgainLater(c *Container) {
	s.work.Go(func() {
		select {
		case <-time.After(lookAgainPause):
		case <-s.base.Done():
			return
		}
		ctx := ctxlog.WithAttrs(s.base, ctxlog.ContainerID, c.ID)
		if c.lock(ctx) != nil {
			return
		}
		defer c.unlock()
		if c.State().Status.HasTask() {
			s.follows(ctx, c, s.askAgain(ctx, c, observed{final: true}))
		}
	})
}

// reconcile makes one container's state agree with what was observed.
func (s *Service) reconcile(ctx context.Context, c *Container, o observed) {
	ctx = ctxlog.WithAttrs(ctx, ctxlog.ContainerID, c.ID)
	if c.lock(ctx) != nil {
		return
	}
	defer c.unlock()
	c.setInfo(func(i *runtimeInfo) { i.recorded = o.recorded })
	if !o.agrees(c.State()) { // it may have been started or have ended since the list was made
		o = s.askAgain(ctx, c, o)
	}
	s.follows(ctx, c, o)
	// The supervisor counts its restarts where we may not have seen them.
	if n, err := strconv.Atoi(o.record.Labels[restartpolicy.LabelCount]); err == nil && n > c.State().Restarts {
		c.edit(func(st *State) { st.Restarts = n })
	}
	if o.first {
		s.undoConnects(ctx, c)
		s.follow(ctx, c)
	}
}

// resync makes a container's state agree with what its task is now, after an event that
// does not fit: others before it were missed.
//
// Preconditions: the operation lock is held.
func (s *Service) resync(ctx context.Context, c *Container) {
	s.follows(ctx, c, s.askAgain(ctx, c, observed{}))
}

// follows makes a container's state follow an observation.
//
// Preconditions: the operation lock is held.
func (s *Service) follows(ctx context.Context, c *Container, o observed) {
	st := c.State()
	switch {
	case o.stale: // what comes next, an event or a supervisor that is back, counts
	case o.hasTask && (o.task.Status == supervisor.TaskRunning || o.task.Status == supervisor.TaskPaused):
		s.found(ctx, c, st, o)
	case o.hasTask && o.task.Status == supervisor.TaskStopped && st.Status.HasTask():
		s.exited(ctx, c, supervisor.ExitStatus{PID: o.task.PID, Code: o.task.ExitCode, At: o.task.ExitedAt})
	case o.hasTask && o.task.Status == supervisor.TaskStopped && st.Status != Restarting && o.task.ExitedAt.After(st.FinishedAt):
		// It ended before the start was stored.
		s.started(ctx, c, o.task.PID, st.Restarts, o.task.ExitedAt)
		s.exited(ctx, c, supervisor.ExitStatus{PID: o.task.PID, Code: o.task.ExitCode, At: o.task.ExitedAt})
	case o.hasTask && !st.Status.HasTask() && st.Status != Restarting:
		s.deleteTask(ctx, c.ID) // a start that a crash cut off, or an exit that is stored
	case !o.hasTask && st.Status.HasTask():
		s.lost(ctx, c, o)
	}
}

// undoConnects takes a running container off the networks that its definition does not
// name: a crash came between their connection and its record.
func (s *Service) undoConnects(ctx context.Context, c *Container) {
	box, ok := s.Networks.Sandbox(c.ID)
	d := c.Definition()
	if !ok || d.Host.NetworkMode.IsContainer() || !c.State().Status.HasTask() {
		return
	}
	for _, e := range box.Endpoints {
		wished := false
		for name, ep := range d.Endpoints {
			wished = wished || name == e.NetworkName || ep != nil && ep.NetworkID == e.NetworkID
		}
		if wished {
			continue
		}
		if _, err := s.Networks.Disconnect(ctx, c.ID, e.NetworkID); err != nil {
			ctxlog.From(ctx).Warn("half-made connection to a network stays", ctxlog.Network, e.NetworkName, ctxlog.Error, err)
		}
	}
}

// found takes over a container that runs.
func (s *Service) found(ctx context.Context, c *Container, st State, o observed) {
	if !st.Status.HasTask() { // started by the supervisor, or the engine crashed after the start
		restarts := st.Restarts
		if st.Status == Restarting {
			restarts++
		}
		s.started(ctx, c, o.task.PID, restarts, time.Now().UTC())
	} else if st.PID != o.task.PID { // ended and restarted while nobody looked
		c.edit(func(st *State) { st.PID, st.Restarts = o.task.PID, st.Restarts+1 })
		if s.Health != nil {
			s.Health.Stopped(c)
			s.Health.Started(c)
		}
	} else if o.first && s.Health != nil {
		s.Health.Started(c)
	}
	if st := c.State(); o.task.Status == supervisor.TaskPaused && st.Status == Running {
		s.markPaused(ctx, c, evPaused)
	} else if o.task.Status == supervisor.TaskRunning && st.Status == Paused {
		s.markPaused(ctx, c, evResumed)
	}
}

// lost makes up for the end of a task that left no trace: the host was rebooted, or
// somebody else deleted it. Unless the engine has just started, a supervisor that restarts
// containers knows of the end and has decided.
func (s *Service) lost(ctx context.Context, c *Container, o observed) {
	code := 137
	if c.State().ExitCode != 0 {
		code = c.State().ExitCode
	}
	if s.Health != nil {
		s.Health.Stopped(c)
	}
	s.freeRuntime(ctx, c)
	st, err := c.advance(evExited, func(st *State) { st.PID, st.ExitCode, st.FinishedAt = 0, code, time.Now().UTC() })
	if err != nil {
		ctxlog.From(ctx).Error("container was lost out of turn", ctxlog.Error, err)
		return
	}
	ctxlog.From(ctx).Warn("container was found without its task")
	s.saveState(ctx, c.ID, st)
	s.publish(c, "die", "exitCode", fmt.Sprint(code))
	c.notifyExit(Exit{Code: code})
	decided := !o.first && s.supervisorRestarts()
	if c.Definition().Host.AutoRemove {
		s.removeLater(c)
	} else if !decided && Policy(c.Definition().Host.RestartPolicy).Restart(restartpolicy.Exit{Code: code, ExplicitlyStopped: st.Stopped}) {
		s.startLater(c)
	}
}

// follow does what a container's policy wants when the engine starts: always and
// unless-stopped containers run, and auto-removed ones that ended go.
func (s *Service) follow(_ context.Context, c *Container) {
	d, st := c.Definition(), c.State()
	switch {
	case st.Status == Exited && d.Host.AutoRemove:
		s.removeLater(c) // a second time does no harm
	case st.Status == Restarting && !s.supervisorRestarts():
		s.retryLater(c, 0)
	case st.Status == Exited && st.HasStarted && Policy(d.Host.RestartPolicy).Name == restartpolicy.Always:
		s.startLater(c)
	}
}

// startLater starts a container without a request that waits for it.
func (s *Service) startLater(c *Container) {
	s.work.Go(func() {
		if _, err := s.Start(s.base, c.ID); err != nil && !errors.Is(err, context.Canceled) {
			ctxlog.From(s.base).Warn("container was not started by its policy", ctxlog.ContainerID, c.ID, ctxlog.Error, err)
		}
	})
}

// finishRemovals frees what removals have left that this process, an earlier one or the
// supervisor did not survive.
func (s *Service) finishRemovals(ctx context.Context) {
	l, _ := s.Store.Load() // what cannot be read is kept
	for id, t := range l.Tombstones {
		if _, err := s.Get(id); err == nil {
			continue // being removed at this moment
		}
		s.deleteOrphan(ctx, id)
		s.bury(ctx, id, t)
	}
}

// sweep frees what belongs to no container: records, rootfses, networks.
func (s *Service) sweep(ctx context.Context, records map[string]supervisor.Container) {
	if _, err := s.Store.Load(); err != nil {
		ctxlog.From(ctx).Warn("container store is damaged; nothing is swept", ctxlog.Error, err)
		return
	}
	ours := func(id string) bool {
		s.mu.RLock()
		defer s.mu.RUnlock()
		_, ok := s.byID[id]
		return ok
	}
	s.sweepDirs(ctx, func(id string) bool { return ours(id) || s.reserved(id) })
	s.sweepVolumes(ctx, func(id string) bool { return ours(id) || s.reserved(id) })
	for id := range records {
		if !ours(id) {
			s.deleteOrphan(ctx, id)
			if err := s.Records.DeleteContainer(ctx, id); err != nil && !errdefs.IsNotFound(err) {
				ctxlog.From(ctx).Warn("record of no container was not deleted", ctxlog.ContainerID, id, ctxlog.Error, err)
			}
		}
	}
	ids, err := s.Records.Rootfses(ctx, s.cfg.Snapshotter)
	if err != nil {
		ctxlog.From(ctx).Warn("rootfses were not listed", ctxlog.Error, err)
	}
	for _, id := range ids {
		if ours(id) || s.reserved(id) {
			continue
		}
		if err := s.Records.RemoveRootfs(ctx, s.cfg.Snapshotter, id); err != nil && !errdefs.IsNotFound(err) {
			ctxlog.From(ctx).Warn("rootfs of no container was not removed", ctxlog.ContainerID, id, ctxlog.Error, err)
		}
	}
	for _, id := range s.Networks.ContainerIDs() {
		c, err := s.Get(id)
		if err == nil && c.State().Status.Alive() {
			continue
		}
		if err := s.Networks.Leave(ctx, id); err != nil {
			ctxlog.From(ctx).Warn("network of a stopped container was not freed", ctxlog.ContainerID, id, ctxlog.Error, err)
		}
	}
}

// sweepDirs removes the files of containers that do not exist.
func (s *Service) sweepDirs(ctx context.Context, exists func(containerID string) bool) {
	for _, parent := range []string{filepath.Join(s.cfg.DataRoot, "containers"), filepath.Join(s.cfg.ExecRoot, "shm")} {
		entries, err := os.ReadDir(parent)
		if err != nil {
			continue // nothing was ever made there
		}
		for _, e := range entries {
			if exists(e.Name()) {
				continue
			}
			if err := errors.Join(unmountShm(s.shmDir(e.Name())), os.RemoveAll(filepath.Join(parent, e.Name()))); err != nil {
				ctxlog.From(ctx).Warn("files of no container were not removed", ctxlog.ContainerID, e.Name(), ctxlog.Error, err)
			}
		}
	}
}

// sweepVolumes drops the references of containers that do not exist, and the anonymous
// volumes that nobody refers to any more because of that.
func (s *Service) sweepVolumes(ctx context.Context, exists func(containerID string) bool) {
	orphans, err := s.Volumes.Retain(exists)
	for _, name := range orphans {
		err = errors.Join(err, s.Volumes.Remove(ctx, name, true))
	}
	if err != nil {
		ctxlog.From(ctx).Warn("volumes of no container were not removed", ctxlog.Error, err)
	}
}

func (s *Service) deleteOrphan(ctx context.Context, containerID string) {
	if _, err := s.Get(containerID); err == nil {
		return
	}
	s.deleteTask(ctx, containerID)
}

// reserved reports whether a container of that id is just being created.
func (s *Service) reserved(id string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, have := range s.names {
		if have == id {
			return true
		}
	}
	return false
}

// Shutdown ends the service's background work. Without live restore it stops the
// containers first.
func (s *Service) Shutdown(ctx context.Context) {
	if !s.cfg.LiveRestore {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.StopTimeout)
		defer cancel()
		var wg sync.WaitGroup
		for _, c := range s.All() {
			if c.State().Status.Alive() {
				wg.Go(func() { s.shutDown(ctx, c) })
			}
		}
		wg.Wait()
	}
	for _, c := range s.All() {
		s.cancelRetry(c)
	}
	s.work.Wait()
}

// shutDown stops a container as the engine goes down: its policy may start it again when
// the engine comes back.
func (s *Service) shutDown(ctx context.Context, c *Container) {
	if _, err := s.stop(ctx, c, StopRequest{}); err != nil {
		ctxlog.From(ctx).Warn("container was not stopped", ctxlog.ContainerID, c.ID, ctxlog.Error, err)
	}
	uctx, done := cleanup.Context(ctx)
	defer done()
	if c.lock(uctx) != nil {
		return
	}
	defer c.unlock()
	if Policy(c.Definition().Host.RestartPolicy).Name != restartpolicy.No {
		s.saveState(uctx, c.ID, c.edit(func(st *State) { st.Stopped = false }))
	}
}
