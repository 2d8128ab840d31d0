package tasks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/namespaces"
	bus "strata/supervisord/internal/events"
	"strata/supervisord/internal/shims"
)

// The topics that the service itself understands or publishes.
const (
	topicExit   = "/tasks/exit"
	topicDelete = "/tasks/delete"
)

// tellPatience is how long Delete waits for the shim to publish what it must, before
// the service publishes it in the shim's place.
const tellPatience = 500 * time.Millisecond

// toldMemory is how long a late event of the same fact is recognised.
const toldMemory = time.Minute

// told is a fact that was published in a shim's place.
type told struct {
	key
	pid   int
	topic string
}

// Delete frees a stopped task and returns how it ended. ErrFailedPrecondition if it
// runs.
func (s *Service) Delete(ctx context.Context, id string) (shims.Exit, error) {
	t, shim, err := s.find(ctx, id)
	if err != nil {
		return shims.Exit{}, err
	}
	if err := t.mustBeDeletable(ctx, shim); err != nil {
		return shims.Exit{}, fmt.Errorf("delete task %q: %w", id, err)
	}
	t.mu.Lock()
	t.progress.deleting = true
	t.mu.Unlock()
	exit, err := shim.Delete(ctx, "")
	switch {
	case isUnavailable(err):
		return s.deleteLost(ctx, t, err)
	case err != nil && !errors.Is(err, errdefs.ErrNotFound):
		t.mu.Lock()
		t.progress.deleting = false
		t.mu.Unlock()
		return exit, err // the shim names operation and object
	case err != nil: // the shim has forgotten it: an earlier Delete was cut short
		exit = t.knownExit()
	}
	// Point of no return: the shim has let go of the task.
	failpoint.Pass("tasks/delete/deleted")
	if !s.retire(t) {
		return exit, fmt.Errorf("task %q: %w", id, errdefs.ErrNotFound)
	}
	s.tellDelete(ctx, t, exit)
	failpoint.Pass("tasks/delete/told")
	drain := func() {
		ctx, cancel := cleanup.Context(ctx)
		defer cancel()
		defer s.finish(t)
		shim.Shutdown(ctx)
		if err := shim.Bundle.Remove(); err != nil {
			ctxlog.From(ctx).Warn("bundle stayed behind", ctxlog.TaskID, id, ctxlog.Error, err)
		}
	}
	if !s.spawn(drain) {
		drain()
	}
	return exit, nil
}

// mustBeDeletable refuses a running task in the same words for each shim.
func (t *entry) mustBeDeletable(ctx context.Context, shim *shims.Shim) error {
	t.mu.Lock()
	known := t.exit != nil
	t.mu.Unlock()
	if known {
		return nil
	}
	state, err := shim.State(ctx, "")
	if err != nil {
		if isUnavailable(err) || errors.Is(err, errdefs.ErrNotFound) {
			return nil
		}
		return err
	}
	switch state.Status {
	case shims.StatusRunning, shims.StatusPaused, shims.StatusPausing:
		return fmt.Errorf("task is running (pid %d); kill it first: %w", state.PID, errdefs.ErrFailedPrecondition)
	default:
		return nil
	}
}

func (t *entry) knownExit() shims.Exit {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.exit != nil {
		return *t.exit
	}
	return shims.Exit{PID: t.pid, Status: 137, At: time.Now()}
}

// deleteLost finishes a Delete whose shim died meanwhile: watch buries it.
func (s *Service) deleteLost(ctx context.Context, t *entry, cause error) (shims.Exit, error) {
	t.mu.Lock()
	t.progress.deleting = false
	shim := t.shim
	t.mu.Unlock()
	if s.spawn(func() { s.lost(ctx, t, shim) }) {
		if next, err := t.afterLoss(ctx, shim); err == nil && next == nil {
			return t.knownExit(), nil
		}
	}
	return shims.Exit{}, fmt.Errorf("delete task %q: %w", t.id, cause)
}

// watch waits for the end of the shim's connection.
func (s *Service) watch(ctx context.Context, t *entry, shim *shims.Shim) {
	<-shim.Closed()
	t.mu.Lock()
	expected := t.progress.deleting
	t.mu.Unlock()
	if expected || s.isClosing() {
		return
	}
	s.lost(ctx, t, shim)
}

// lost looks after a task whose shim's connection has ended unexpectedly: it connects
// again if the shim lives, and buries the task if not.
func (s *Service) lost(ctx context.Context, t *entry, shim *shims.Shim) {
	ctx, cancel := cleanup.Context(ctx)
	defer cancel()
	log := ctxlog.From(ctx).With(ctxlog.Namespace, t.namespace, ctxlog.TaskID, t.id)
	shim.Close()
	again, err := s.cfg.Launcher.Load(ctx, shim.Bundle)
	if err == nil {
		log.Warn("connection to shim was lost and made again")
		t.mu.Lock()
		again.Options = shim.Options
		t.shim = again
		t.mu.Unlock()
		if !s.spawn(func() { s.watch(ctx, t, again) }) {
			again.Close()
		}
		return
	}
	log.Warn("shim died; its task is removed", ctxlog.Error, err)
	s.bury(ctx, t, shim.Bundle)
}

// bury removes what a dead shim left, and tells of the end of the task.
func (s *Service) bury(ctx context.Context, t *entry, b *shims.Bundle) {
	if !s.retire(t) {
		return
	}
	defer s.finish(t)
	log := ctxlog.From(ctx).With(ctxlog.Namespace, t.namespace, ctxlog.TaskID, t.id)
	exit, left := s.cfg.Launcher.Bury(ctx, b)
	t.mu.Lock()
	if exit.PID == 0 {
		exit.PID = t.pid
	}
	if t.exit == nil {
		t.exit = &exit
	}
	exit = *t.exit
	t.mu.Unlock()
	s.tellInPlace(ctx, t, exit)
	if left != nil {
		// The next task of this id, or the next start of the daemon, finds the bundle and tries again.
		log.Warn("dead shim left something behind; its bundle is kept", ctxlog.Error, left)
	} else if err := b.Remove(); err != nil {
		log.Warn("bundle stayed behind", ctxlog.Error, err)
	}
	s.observe(t, true)
}

// tellDelete sees to it that exit and delete have been published before it returns: by
// the shim if that is quick, else in its place.
func (s *Service) tellDelete(ctx context.Context, t *entry, exit shims.Exit) {
	timer := time.NewTimer(tellPatience)
	defer timer.Stop()
	select {
	case <-t.progress.deleted:
	case <-timer.C:
		s.tellInPlace(ctx, t, exit)
	}
}

// tellInPlace publishes what the shim did not.
func (s *Service) tellInPlace(ctx context.Context, t *entry, exit shims.Exit) {
	ctx = namespaces.With(ctx, t.namespace)
	t.mu.Lock()
	sayExit := !t.progress.exitTold && exit.PID != 0
	sayDelete := !t.progress.deleteTold
	t.progress.exitTold = true
	if sayDelete {
		t.progress.deleteTold = true
		close(t.progress.deleted)
	}
	t.mu.Unlock()
	at := timestamppb.New(exit.At)
	if sayExit {
		s.tell(ctx, t, exit.PID, topicExit, &events.TaskExit{ContainerID: t.id, ID: t.id, Pid: uint32(exit.PID), ExitStatus: exit.Status, ExitedAt: at})
	}
	if sayDelete {
		s.tell(ctx, t, exit.PID, topicDelete, &events.TaskDelete{ContainerID: t.id, Pid: uint32(exit.PID), ExitStatus: exit.Status, ExitedAt: at})
	}
}

func (s *Service) tell(ctx context.Context, t *entry, pid int, topic string, event proto.Message) {
	now := time.Now()
	s.mu.Lock()
	for k, at := range s.told {
		if now.Sub(at) > toldMemory {
			delete(s.told, k)
		}
	}
	s.told[told{t.key, pid, topic}] = now
	s.mu.Unlock()
	if err := s.cfg.Events.Publish(ctx, topic, event); err != nil {
		ctxlog.From(ctx).Error("event was not published", ctxlog.Topic, topic, ctxlog.TaskID, t.id, ctxlog.Error, err)
	}
}

// observe tells the observer of the exit, once.
func (s *Service) observe(t *entry, gone bool) {
	t.mu.Lock()
	skip := t.progress.observed || t.exit == nil || s.observer == nil
	t.progress.observed = true
	var e Exited
	if !skip {
		e = Exited{Namespace: t.namespace, ID: t.id, Exit: *t.exit, StartedAt: t.started, Request: t.request, Gone: gone}
	}
	t.mu.Unlock()
	if !skip {
		s.observer.Exited(e)
	}
}

// Forward takes in an event from a shim and publishes it, unless it was published
// before: a shim sends again what it got no answer for.
func (s *Service) Forward(e bus.Envelope) error {
	var t *entry
	var isExit bool
	switch e.Topic {
	case topicExit:
		var m events.TaskExit
		if err := proto.Unmarshal(e.Event.GetValue(), &m); err != nil {
			return fmt.Errorf("decode %q: %w: %w", e.Topic, err, errdefs.ErrInvalidArgument)
		}
		if m.ID != m.ContainerID {
			break // an exec's
		}
		if s.wasTold(told{key{e.Namespace, m.ContainerID}, int(m.Pid), e.Topic}) {
			return nil
		}
		if t = s.lookup(key{e.Namespace, m.ContainerID}); t != nil {
			isExit = true
			if !t.noteExit(shims.Exit{PID: int(m.Pid), Status: m.ExitStatus, At: m.ExitedAt.AsTime()}) {
				return nil
			}
		}
	case topicDelete:
		var m events.TaskDelete
		if err := proto.Unmarshal(e.Event.GetValue(), &m); err != nil {
			return fmt.Errorf("decode %q: %w: %w", e.Topic, err, errdefs.ErrInvalidArgument)
		}
		if m.ID != "" && m.ID != m.ContainerID {
			break
		}
		if s.wasTold(told{key{e.Namespace, m.ContainerID}, int(m.Pid), e.Topic}) {
			return nil
		}
		if t = s.lookup(key{e.Namespace, m.ContainerID}); t != nil {
			return s.forwardDelete(t, e)
		}
	}
	if err := s.cfg.Events.Forward(e); err != nil {
		return err
	}
	if isExit {
		s.observe(t, false)
	}
	return nil
}

// lookup finds a task in the table, or one on its way out.
func (s *Service) lookup(k key) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[k]; t != nil {
		return t
	}
	return s.draining[k]
}

func (s *Service) wasTold(f told) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.told[f]
	return ok
}

// noteExit remembers init's exit. It reports false for one that was told before.
func (t *entry) noteExit(exit shims.Exit) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.progress.exitTold {
		return false
	}
	t.progress.exitTold = true
	t.exit = &exit
	return true
}

// forwardDelete publishes the shim's own delete event and lets Delete go on.
func (s *Service) forwardDelete(t *entry, e bus.Envelope) error {
	t.mu.Lock()
	if t.progress.deleteTold {
		t.mu.Unlock()
		return nil
	}
	t.progress.deleteTold = true
	t.mu.Unlock()
	err := s.cfg.Events.Forward(e)
	close(t.progress.deleted)
	return err
}
