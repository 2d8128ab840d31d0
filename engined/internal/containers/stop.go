package containers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"strata/engined/internal/store"
	"strata/engined/internal/supervisor"
	"strata/pkg/ctxlog"
	"strata/pkg/restartpolicy"
)

const (
	sigKill = 9
	sigTerm = 15

	defaultStopTimeout = 10 * time.Second
	// killPatience is how long a killed process may take to be gone: uninterruptible sleep
	// outlives SIGKILL.
	killPatience = 10 * time.Second
	// eventPatience is how long the news of an exit may take before it is asked for.
	eventPatience = 2 * time.Second
)

// StopRequest says how to stop. Zero values take the container's own, then docker's.
type StopRequest struct {
	Signal  string
	Timeout *int // seconds; negative waits for ever
}

// Stop stops a container: it signals the init process, waits, and kills. changed is false
// if it did not run.
func (s *Service) Stop(ctx context.Context, ref string, r StopRequest) (changed bool, err error) {
	c, err := s.Get(ref)
	if err != nil {
		return false, err
	}
	changed, err = s.stop(ctx, c, r)
	if changed && err == nil {
		s.publish(c, "stop")
	}
	return changed, err
}

func (s *Service) stop(ctx context.Context, c *Container, r StopRequest) (changed bool, err error) {
	d := c.Definition()
	signal, err := stopSignal(d.Config, r.Signal)
	if err != nil {
		return false, err
	}
	ended, cancel := s.Ended(ctx, c)
	defer cancel()
	if changed, err = s.wantStopped(ctx, c); err != nil || !changed {
		return changed, err
	}
	if !c.State().Status.HasTask() {
		return true, nil // it was restarting
	}
	if err := s.signal(ctx, c, signal, false); err != nil {
		if !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
			return true, fmt.Errorf("cannot stop container: %s: %w", c.ID, err)
		}
	}
	if timeout := stopTimeout(d.Config, r.Timeout); timeout >= 0 { // a negative one waits for ever
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		select {
		case <-ended:
			return true, ctx.Err()
		case <-ctx.Done():
			return true, ctx.Err()
		case <-timer.C:
		}
		ctxlog.From(ctx).Info("container did not stop in time and is killed", ctxlog.ContainerID, c.ID, ctxlog.Duration, timeout)
		return true, s.killAndWait(ctx, c, ended)
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return true, ctx.Err()
}

// wantStopped records that a user wants the container stopped, so that no policy starts
// it again. changed is false if it is stopped already.
func (s *Service) wantStopped(ctx context.Context, c *Container) (changed bool, err error) {
	if err := c.lock(ctx); err != nil {
		return false, err
	}
	defer c.unlock()
	st := c.State()
	if !st.Status.Alive() {
		return false, nil
	}
	st = c.edit(func(st *State) { st.Stopped = true })
	if Policy(c.Definition().Host.RestartPolicy).Name == restartpolicy.No {
		return true, nil
	}
	s.saveState(ctx, c.ID, st)
	s.tellStopped(ctx, c)
	if st.Status == Restarting {
		s.giveUp(ctx, c)
	}
	return true, nil
}

// tellStopped has the supervisor's policy leave the container alone.
func (s *Service) tellStopped(ctx context.Context, c *Container) {
	labels, err := s.labels(c.Definition(), true)
	if err == nil {
		err = s.Records.UpdateLabels(ctx, c.ID, labels)
	}
	c.setInfo(func(i *runtimeInfo) { i.specHash = [32]byte{} }) // the next start writes the record again
	if err != nil && !errdefs.IsNotFound(err) {
		ctxlog.From(ctx).Warn("supervisor was not told of the stop; it may restart the container once", ctxlog.ContainerID, c.ID, ctxlog.Error, err)
	}
}

func (s *Service) killAndWait(ctx context.Context, c *Container, ended <-chan struct{}) error {
	if err := s.signal(ctx, c, sigKill, false); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
		return fmt.Errorf("cannot stop container: %s: %w", c.ID, err)
	}
	ask := time.NewTimer(eventPatience)
	defer ask.Stop()
	timer := time.NewTimer(killPatience)
	defer timer.Stop()
	for {
		select {
		case <-ended:
			return ctx.Err()
		case <-ctx.Done():
			return ctx.Err()
		case <-ask.C:
			s.confirmExit(ctx, c)
		case <-timer.C:
			return fmt.Errorf("cannot stop container: %s: tried to kill container, but did not receive an exit event", c.ID)
		}
	}
}

// confirmExit asks the supervisor for what an event should have told.
func (s *Service) confirmExit(ctx context.Context, c *Container) {
	t, err := s.Tasks.GetTask(ctx, c.ID)
	if errdefs.IsNotFound(err) {
		t, err = supervisor.Task{Status: supervisor.TaskStopped, ExitCode: 128 + sigKill, ExitedAt: time.Now()}, nil
	}
	if err != nil || t.Status != supervisor.TaskStopped {
		return
	}
	ctxlog.From(ctx).Warn("event of an exit was lost", ctxlog.ContainerID, c.ID)
	s.OnTaskEvent(supervisor.TaskEvent{Kind: supervisor.TaskEventExit, ContainerID: c.ID, PID: t.PID, ExitCode: t.ExitCode, At: t.ExitedAt})
}

func stopSignal(c *container.Config, wish string) (int, error) {
	for _, text := range []string{wish, c.StopSignal} {
		if text != "" {
			return ParseSignal(text)
		}
	}
	return sigTerm, nil
}

func stopTimeout(c *container.Config, wish *int) time.Duration {
	for _, t := range []*int{wish, c.StopTimeout} {
		if t != nil {
			return time.Duration(*t) * time.Second
		}
	}
	return defaultStopTimeout
}

// signal sends a signal to the init process and publishes it. A paused container is
// resumed for a signal that it could not see otherwise.
func (s *Service) signal(ctx context.Context, c *Container, signal int, all bool) error {
	st := c.State()
	if !st.Status.HasTask() {
		return c.notRunning()
	}
	if err := s.Tasks.KillTask(ctx, c.ID, "", signal, all); err != nil {
		return err
	}
	s.publish(c, "kill", "signal", strconv.Itoa(signal))
	if st.Status == Paused {
		if err := s.Tasks.ResumeTask(ctx, c.ID); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
			return fmt.Errorf("resume paused container: %w", err)
		}
	}
	return nil
}

// Kill sends a signal ("" is KILL). The container's stop signal and KILL count as a stop
// by a user. ErrConflict with dockerd's words if it does not run.
func (s *Service) Kill(ctx context.Context, ref, signalName string) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	signal := sigKill
	if signalName != "" {
		if signal, err = ParseSignal(signalName); err != nil {
			return err
		}
	}
	st := c.State()
	if st.Status == Restarting {
		_, err := s.wantStopped(ctx, c)
		return err
	}
	if !st.Status.HasTask() {
		return fmt.Errorf("cannot kill container: %s: %w", ref, c.notRunning())
	}
	stop, err := stopSignal(c.Definition().Config, "")
	if err != nil {
		return err
	}
	ended := (<-chan struct{})(nil)
	if signal == sigKill {
		var cancel func()
		ended, cancel = s.Ended(ctx, c)
		defer cancel()
	}
	if signal == sigKill || signal == stop {
		if _, err := s.wantStopped(ctx, c); err != nil {
			return err
		}
	}
	if ended != nil {
		return s.killAndWait(ctx, c, ended)
	}
	if err := s.signal(ctx, c, signal, false); err != nil {
		if errdefs.IsNotFound(err) {
			err = c.notRunning()
		}
		return fmt.Errorf("cannot kill container: %s: %w", ref, err)
	}
	return nil
}

// Restart stops a container, if it runs, and starts it.
func (s *Service) Restart(ctx context.Context, ref string, r StopRequest) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	auto := c.Definition().Host.AutoRemove
	if auto { // the stop must not remove it
		s.setAutoRemove(c, false)
		defer s.setAutoRemove(c, true)
	}
	if _, err := s.stop(ctx, c, r); err != nil {
		return fmt.Errorf("cannot restart container %s: %w", ref, err)
	}
	if _, err := s.Start(ctx, c.ID); err != nil {
		return fmt.Errorf("cannot restart container %s: %w", ref, err)
	}
	s.publish(c, "restart")
	return nil
}

// setAutoRemove changes the definition in memory only: after a crash the stored wish
// counts again.
func (s *Service) setAutoRemove(c *Container, on bool) {
	c.changeDefinition(func(d *store.Definition) { d.Host.AutoRemove = on })
}

// Pause freezes a running container.
func (s *Service) Pause(ctx context.Context, ref string) error {
	return s.freeze(ctx, ref, evPaused)
}

// Unpause thaws a paused container.
func (s *Service) Unpause(ctx context.Context, ref string) error {
	return s.freeze(ctx, ref, evResumed)
}

// ErrNotPaused is returned by Unpause for a container that is not paused; dockerd answers
// 500.
var ErrNotPaused = errors.New("not paused")

func (s *Service) freeze(ctx context.Context, ref string, e event) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	switch st := c.State(); {
	case e == evResumed && st.Status != Paused:
		return &notPausedError{c.ID}
	case e == evPaused && st.Status == Paused:
		return fmt.Errorf("container %s is already paused: %w", c.ID, errdefs.ErrConflict)
	case e == evPaused && st.Status == Restarting:
		return fmt.Errorf("container %s is restarting, wait until the container is running: %w", c.ID, errdefs.ErrConflict)
	case e == evPaused && !st.Status.HasTask():
		return c.notRunning()
	}
	call, word := s.Tasks.PauseTask, "pause"
	if e == evResumed {
		call, word = s.Tasks.ResumeTask, "unpause"
	}
	if err := call(ctx, c.ID); err != nil {
		return fmt.Errorf("cannot %s container %s: %w", word, c.ID, err)
	}
	s.markPaused(ctx, c, e)
	return nil
}

type notPausedError struct{ id string }

func (e *notPausedError) Error() string { return "Container " + e.id + " is not paused" }
func (e *notPausedError) Unwrap() error { return ErrNotPaused }

// markPaused records a pause or its end. Preconditions: the operation lock is held.
func (s *Service) markPaused(ctx context.Context, c *Container, e event) {
	st, err := c.advance(e, nil)
	if err != nil {
		ctxlog.From(ctx).Error("container paused out of turn", ctxlog.Error, err)
		return
	}
	s.Store.SaveStateLater(c.ID, st.stored())
	if e == evPaused {
		s.publish(c, "pause")
	} else {
		s.publish(c, "unpause")
	}
}
