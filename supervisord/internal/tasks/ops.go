package tasks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/namespaces"
	"strata/supervisord/internal/shims"
)

// askTimeout bounds how long one shim may hold up an answer about many.
const askTimeout = 2 * time.Second

// Task is a process as clients see it.
type Task struct {
	ContainerID string
	State       shims.State
}

// Get describes the init process of a task, or one of its execs.
func (s *Service) Get(ctx context.Context, id, execID string) (Task, error) {
	t, shim, err := s.find(ctx, id)
	if err != nil {
		return Task{}, err
	}
	state, err := shim.State(ctx, execID)
	if err != nil {
		if isUnavailable(err) && execID == "" {
			if exit, ok := t.exitStatus(); ok {
				return Task{ContainerID: id, State: shims.State{PID: exit.PID, Status: shims.StatusStopped, Exit: exit}}, nil
			}
		}
		return Task{}, fmt.Errorf("%s: %w", processName(id, execID), err)
	}
	return Task{ContainerID: id, State: state}, nil
}

func (t *entry) exitStatus() (shims.Exit, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.exit == nil {
		return shims.Exit{}, false
	}
	return *t.exit, true
}

// List describes the tasks of the namespace, in the order of their ids. One whose shim
// does not answer within two seconds has the status unknown.
func (s *Service) List(ctx context.Context) ([]Task, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return nil, err
	}
	all := s.entries(ns)
	out := make([]Task, len(all))
	present := make([]bool, len(all))
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	each(all, func(i int, t *entry) {
		out[i] = Task{ContainerID: t.id, State: shims.State{PID: t.initPID()}}
		shim, err := t.await(ctx)
		if err == nil {
			var state shims.State
			if state, err = shim.State(ctx, ""); err == nil {
				out[i].State = state
			}
		}
		present[i] = !errors.Is(err, errdefs.ErrNotFound) // being created, or just deleted
	})
	i := 0
	out = slices.DeleteFunc(out, func(Task) bool { i++; return !present[i-1] })
	slices.SortFunc(out, func(a, b Task) int { return cmp.Compare(a.ContainerID, b.ContainerID) })
	return out, nil
}

func (t *entry) initPID() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pid
}

// parallel bounds how many shims are asked at once.
const parallel = 32

// each calls fn for all entries, several at a time, and waits.
func each(all []*entry, fn func(int, *entry)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for i, t := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			fn(i, t)
		})
	}
	wg.Wait()
}

// Wait waits for the end of a process. If the shim dies meanwhile, init's exit is 137.
func (s *Service) Wait(ctx context.Context, id, execID string) (shims.Exit, error) {
	t, shim, err := s.find(ctx, id)
	if err != nil {
		return shims.Exit{}, err
	}
	for {
		exit, err := shim.Wait(ctx, execID)
		if err == nil || !isUnavailable(err) {
			if err != nil {
				err = fmt.Errorf("wait for %s: %w", processName(id, execID), err)
			}
			return exit, err
		}
		next, err := t.afterLoss(ctx, shim)
		switch {
		case err != nil:
			return exit, err
		case next == nil && execID == "":
			return t.knownExit(), nil
		case next == nil:
			return shims.Exit{Status: 137, At: time.Now()}, nil // it died with its task
		}
		shim = next
	}
}

// afterLoss waits until a lost shim is found again, and returns it, or the task is
// gone, and returns nil.
func (t *entry) afterLoss(ctx context.Context, lost *shims.Shim) (*shims.Shim, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		t.mu.Lock()
		shim := t.shim
		t.mu.Unlock()
		if shim != lost {
			return shim, nil
		}
		select {
		case <-t.gone:
			return nil, nil
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for task %q: %w", t.id, ctx.Err())
		case <-tick.C:
		}
	}
}

// Kill sends a signal to a process, or with all to every process of the task. ErrNotFound
// if it has ended.
func (s *Service) Kill(ctx context.Context, id, execID string, signal uint32, all bool) error {
	return s.ask(ctx, "kill "+processName(id, execID), id, func(shim *shims.Shim) error { return shim.Kill(ctx, execID, signal, all) })
}

// ask finds the shim of a task and calls fn with it; what names the operation in errors.
func (s *Service) ask(ctx context.Context, what, id string, fn func(*shims.Shim) error) error {
	_, shim, err := s.find(ctx, id)
	if err != nil {
		return err
	}
	if err := fn(shim); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Exec adds a process to a task; Start starts it.
func (s *Service) Exec(ctx context.Context, id, execID string, spec *anypb.Any, io shims.IO) error {
	if execID == "" {
		return fmt.Errorf("exec in task %q: the exec id is empty: %w", id, errdefs.ErrInvalidArgument)
	}
	return s.ask(ctx, "add "+processName(id, execID), id, func(shim *shims.Shim) error { return shim.Exec(ctx, execID, spec, io) })
}

// DeleteProcess frees a stopped exec.
func (s *Service) DeleteProcess(ctx context.Context, id, execID string) (exit shims.Exit, err error) {
	if execID == "" {
		return exit, fmt.Errorf("delete process of task %q: the exec id is empty: %w", id, errdefs.ErrInvalidArgument)
	}
	err = s.ask(ctx, "delete "+processName(id, execID), id, func(shim *shims.Shim) error {
		exit, err = shim.Delete(ctx, execID)
		return err
	})
	return exit, err
}

// Pids returns the processes of a task.
func (s *Service) Pids(ctx context.Context, id string) (pids []shims.Process, err error) {
	err = s.ask(ctx, fmt.Sprintf("list processes of task %q", id), id, func(shim *shims.Shim) error {
		pids, err = shim.Pids(ctx)
		return err
	})
	return pids, err
}

// Pause freezes a task.
func (s *Service) Pause(ctx context.Context, id string) error {
	return s.ask(ctx, fmt.Sprintf("pause task %q", id), id, func(shim *shims.Shim) error { return shim.Pause(ctx) })
}

// Resume thaws a task.
func (s *Service) Resume(ctx context.Context, id string) error {
	return s.ask(ctx, fmt.Sprintf("resume task %q", id), id, func(shim *shims.Shim) error { return shim.Resume(ctx) })
}

// Update changes the limits of a task.
func (s *Service) Update(ctx context.Context, id string, resources *anypb.Any, annotations map[string]string) error {
	return s.ask(ctx, fmt.Sprintf("update task %q", id), id, func(shim *shims.Shim) error { return shim.Update(ctx, resources, annotations) })
}

// Resize sets the size of a process's terminal.
func (s *Service) Resize(ctx context.Context, id, execID string, width, height uint32) error {
	return s.ask(ctx, "resize "+processName(id, execID), id, func(shim *shims.Shim) error { return shim.Resize(ctx, execID, width, height) })
}

// CloseStdin closes the shim's end of a process's stdin.
func (s *Service) CloseStdin(ctx context.Context, id, execID string) error {
	return s.ask(ctx, "close stdin of "+processName(id, execID), id, func(shim *shims.Shim) error { return shim.CloseStdin(ctx, execID) })
}

// Metric is one reading of a task's counters.
type Metric struct {
	ID   string
	At   time.Time
	Data *anypb.Any
}

// Metrics reads the counters of those tasks of the namespace that match; nil matches
// all. A task that cannot be read is left out.
func (s *Service) Metrics(ctx context.Context, match func(namespace, id string) bool) ([]Metric, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return nil, err
	}
	all := slices.DeleteFunc(s.entries(ns), func(t *entry) bool { return match != nil && !match(t.namespace, t.id) })
	out := make([]Metric, len(all))
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	each(all, func(i int, t *entry) { out[i] = t.measure(ctx) })
	out = slices.DeleteFunc(out, func(m Metric) bool { return m.Data == nil })
	slices.SortFunc(out, func(a, b Metric) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// measure returns a Metric without Data if the shim gives none.
func (t *entry) measure(ctx context.Context) Metric {
	m := Metric{ID: t.id, At: time.Now()}
	shim, err := t.await(ctx)
	if err != nil {
		return m
	}
	if m.Data, err = shim.Stats(ctx); err != nil {
		m.Data = nil
	}
	return m
}

// Count returns the number of tasks in all namespaces.
func (s *Service) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tasks)
}
