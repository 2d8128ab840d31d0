package tasks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/ctxlog"
	"strata/supervisord/internal/shims"
)

// loadPatience is how long Load holds up the daemon for shims that do not answer; their
// tasks are loaded behind its back.
const loadPatience = 2 * time.Second

// retryInterval is how often a shim that exists but does not answer is tried again.
const retryInterval = 10 * time.Second

// Load finds the tasks that an earlier daemon left: it connects to each shim, all at
// once, buries those that died and shuts down those that never got their task. It
// returns when all have answered, or after two seconds: one broken shim holds up
// nobody. ctx bounds what goes on behind.
func (s *Service) Load(ctx context.Context) error {
	bundles, err := s.cfg.Launcher.Bundles()
	if err != nil {
		ctxlog.From(ctx).Warn("leftover of a bundle stayed behind", ctxlog.Error, err)
	}
	all := make([]*entry, 0, len(bundles))
	s.mu.Lock()
	for _, b := range bundles {
		t := newEntry(key{b.Namespace, b.ID})
		s.tasks[t.key] = t
		all = append(all, t)
	}
	s.mu.Unlock()
	done := make(chan struct{})
	s.spawn(func() {
		defer close(done)
		each(all, func(i int, t *entry) { s.load(ctx, t, bundles[i]) })
		for _, p := range s.strays(ctx) {
			ctxlog.From(ctx).Warn("shim without a bundle was killed", ctxlog.PID, p.PID, ctxlog.Namespace, p.Namespace, ctxlog.TaskID, p.ID, ctxlog.Error, p.Kill())
		}
		s.cfg.Launcher.SweepSockets()
		for _, dir := range s.cfg.Launcher.OrphanWork() {
			if err := os.RemoveAll(dir); err != nil {
				ctxlog.From(ctx).Warn("work directory stayed behind", ctxlog.Path, dir, ctxlog.Error, err)
			}
		}
	})
	timer := time.NewTimer(loadPatience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		ctxlog.From(ctx).Warn("some shims are slow to answer; their tasks follow")
	case <-ctx.Done():
		return fmt.Errorf("load tasks: %w", ctx.Err())
	}
	return nil
}

// load decides about one bundle.
func (s *Service) load(ctx context.Context, t *entry, b *shims.Bundle) {
	log := ctxlog.From(ctx).With(ctxlog.Namespace, t.namespace, ctxlog.TaskID, t.id)
	t.mu.Lock()
	t.request = readRequest(b)
	if st, err := os.Stat(b.Path); err == nil {
		t.started = st.ModTime()
	}
	t.mu.Unlock()
	shim, err := s.cfg.Launcher.Load(ctx, b)
	if err != nil {
		if isHung(err) {
			log.Warn("shim exists but does not answer; its task is left alone", ctxlog.Error, err)
			t.fail(fmt.Errorf("shim does not answer: %w", errdefs.ErrUnavailable))
			s.spawn(func() { s.retry(ctx, t, b) })
			return
		}
		log.Warn("shim died while the supervisor was away", ctxlog.Error, err)
		s.bury(ctx, t, b)
		close(t.ready)
		return
	}
	s.adopt(ctx, t, shim)
	select {
	case <-t.ready:
	default:
		close(t.ready)
	}
}

// isHung reports whether a shim took the connection and gave no answer.
func isHung(err error) bool { return errors.Is(err, context.DeadlineExceeded) }

// fail makes the task known as one that cannot be talked to.
func (t *entry) fail(err error) {
	t.mu.Lock()
	t.err = err
	t.mu.Unlock()
	close(t.ready)
}

// retry tries to load a task whose shim hangs until it answers or dies.
func (s *Service) retry(ctx context.Context, t *entry, b *shims.Bundle) {
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.isClosing() {
			return
		}
		shim, err := s.cfg.Launcher.Load(ctx, b)
		switch {
		case err == nil:
			s.adopt(ctx, t, shim)
			return
		case !isHung(err):
			s.bury(ctx, t, b)
			return
		}
	}
}

// creationPatience bounds how long adopt waits for a creation that is under way: the shim
// breaks it off when the daemon that asked for it dies, unless it is as good as done.
const creationPatience = 10 * time.Second

// settled asks a shim for the state of its task once it is created, or is not.
func (s *Service) settled(ctx context.Context, shim *shims.Shim) (shims.State, error) {
	ctx, cancel := context.WithTimeout(ctx, creationPatience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		state, err := askState(ctx, shim)
		if err != nil || state.Status != shims.StatusCreated || state.PID != 0 {
			return state, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return state, nil
		}
	}
}

func askState(ctx context.Context, shim *shims.Shim) (shims.State, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return shim.State(ctx, "")
}

// adopt takes over a living shim, or shuts it down if it has no task: then the creation
// was cut short.
func (s *Service) adopt(ctx context.Context, t *entry, shim *shims.Shim) {
	state, err := s.settled(ctx, shim)
	log := ctxlog.From(ctx).With(ctxlog.Namespace, t.namespace, ctxlog.TaskID, t.id)
	if errors.Is(err, errdefs.ErrNotFound) {
		log.Info("shim without a task was shut down")
		if s.retire(t) {
			shim.Shutdown(ctx)
			// It may be a second one, and the first have died in the middle of the creation.
			if err := s.dispose(ctx, shim.Bundle); err != nil {
				log.Warn("creation that was cut short left something behind", ctxlog.Error, err)
			}
			s.finish(t)
		}
		return
	}
	t.mu.Lock()
	t.shim, t.err, t.pid = shim, nil, state.PID
	if state.Status == shims.StatusStopped {
		exit := state.Exit
		t.exit = &exit
	}
	t.mu.Unlock()
	if !s.spawn(func() { s.watch(ctx, t, shim) }) {
		shim.Close()
		return
	}
	if state.Status == shims.StatusStopped {
		s.observe(t, false)
	}
}
