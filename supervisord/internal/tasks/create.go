package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/namespaces"
	"strata/pkg/restartpolicy"
	"strata/supervisord/internal/containers"
	"strata/supervisord/internal/shims"
)

// fileRequest holds the Request of a task that may be restarted.
const fileRequest = "task.json"

// Create makes the task of a container: bundle, shim, init process, which waits for
// Start. It returns init's pid. After an error nothing is left. Errors: ErrNotFound
// without the container or its runtime, ErrAlreadyExists if it has a task.
func (s *Service) Create(ctx context.Context, r Request) (pid int, err error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return 0, err
	}
	clock := stopwatch{last: time.Now()}
	s.early.Start()
	// A caller that goes away does not stop the shim in the middle of its work, it only stops
	// us from learning how that ended: what has begun is finished, or undone after a failure.
	ctx = context.WithoutCancel(ctx)
	c, err := s.cfg.Containers.Get(ctx, r.ID)
	if err != nil {
		return 0, fmt.Errorf("create task: %w", err)
	}
	if c.Spec == nil {
		return 0, fmt.Errorf("create task: container %q has no spec: %w", r.ID, errdefs.ErrFailedPrecondition)
	}
	clock.step("read record")
	t, err := s.reserve(ctx, key{ns, r.ID})
	if err != nil {
		return 0, fmt.Errorf("create task: %w", err)
	}
	clock.step("reserve id")
	var undo cleanup.Stack
	defer undo.Clean()
	undo.Add(func() { s.abandon(t, err) })

	bundle, err := s.newBundle(ctx, t.key, c.Spec.Value)
	if err != nil {
		return 0, fmt.Errorf("create task: %w", err)
	}
	var left error // by the shim
	undo.Add(func() {
		if left == nil {
			left = bundle.Remove()
		}
		if left != nil {
			ctxlog.From(ctx).Warn("bundle stayed behind", ctxlog.TaskID, r.ID, ctxlog.Error, left)
		}
	})
	if err := keepRequest(bundle, c, r); err != nil {
		return 0, fmt.Errorf("create task: %w", err)
	}
	clock.step("write bundle")
	if err := failpoint.Hit("tasks/create/bundled"); err != nil {
		return 0, err
	}
	shim, err := s.launch(ctx, bundle, c, r)
	if err != nil {
		return 0, fmt.Errorf("create task: %w", err)
	}
	undo.Add(func() { left = s.stop(ctx, shim) })
	clock.step("launch shim")
	if err := failpoint.Hit("tasks/create/launched"); err != nil {
		return 0, err
	}
	if pid, err = shim.Create(ctx, r.Rootfs, r.IO); err != nil {
		return 0, err // the shim names operation and object
	}
	clock.step("create task")

	failpoint.Pass("tasks/create/created")
	// Point of no return: the task is in the table, with a shim.
	undo.Release()
	t.mu.Lock()
	t.shim, t.pid, t.request, t.steps = shim, pid, &r, clock.steps
	t.mu.Unlock()
	close(t.ready)
	s.spawn(func() { s.watch(ctx, t, shim) })
	return pid, nil
}

func (s *Service) launch(ctx context.Context, b *shims.Bundle, c containers.Container, r Request) (*shims.Shim, error) {
	runtime := c.RuntimeName
	if r.RuntimePath != "" {
		runtime = r.RuntimePath
	}
	opts := c.RuntimeOptions
	if r.Options != nil {
		opts = r.Options.any()
	}
	return s.cfg.Launcher.Launch(ctx, b, runtime, opts)
}

// abandon takes a failed creation out of the table and lets those who wait know.
func (s *Service) abandon(t *entry, err error) {
	t.mu.Lock()
	t.err = fmt.Errorf("creation failed: %v: %w", err, errdefs.ErrNotFound) //nolint:errorlint // for those who waited, there is no such task
	t.mu.Unlock()
	s.retire(t)
	close(t.ready)
	s.finish(t)
}

// newBundle makes the bundle of a reserved id, in the place of one whose burial failed.
func (s *Service) newBundle(ctx context.Context, k key, spec []byte) (*shims.Bundle, error) {
	b, err := s.cfg.Launcher.NewBundle(k.namespace, k.id, spec)
	if !errors.Is(err, errdefs.ErrAlreadyExists) {
		return b, err
	}
	if derr := s.dispose(ctx, s.cfg.Launcher.Bundle(k.namespace, k.id)); derr != nil {
		return nil, errors.Join(err, derr)
	}
	return s.cfg.Launcher.NewBundle(k.namespace, k.id, spec)
}

// dispose buries what a shim that is dead has left, and then removes its bundle.
//
// Preconditions: the id is reserved.
func (s *Service) dispose(ctx context.Context, b *shims.Bundle) error {
	if _, err := s.cfg.Launcher.Bury(ctx, b); err != nil {
		return err
	}
	return b.Remove()
}

// stop ends the shim of a task that was not created to the end. An error means that
// something is left of the task.
func (s *Service) stop(ctx context.Context, shim *shims.Shim) error {
	ctx, cancel := cleanup.Context(ctx)
	defer cancel()
	_, err := shim.Delete(ctx, "")
	if err != nil && !isUnavailable(err) {
		_ = shim.Kill(ctx, "", 9, true) // there may be nothing to kill
		_, err = shim.Delete(ctx, "")
	}
	shim.Shutdown(ctx)
	if !isUnavailable(err) {
		return nil
	}
	_, err = s.cfg.Launcher.Bury(ctx, shim.Bundle) // it died, perhaps in the middle of the creation
	return err
}

// keepRequest writes down how to make the task again, if a restart policy may want that.
func keepRequest(b *shims.Bundle, c containers.Container, r Request) error {
	if c.Labels[restartpolicy.LabelPolicy] == "" {
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return b.WriteFile(fileRequest, data)
}

func readRequest(b *shims.Bundle) *Request {
	data, err := b.ReadFile(fileRequest)
	if err != nil {
		return nil
	}
	var r Request
	if json.Unmarshal(data, &r) != nil {
		return nil
	}
	return &r
}

// stopwatch measures consecutive steps.
type stopwatch struct {
	last  time.Time
	steps []Step
}

// step ends the step that began when the last one ended.
func (w *stopwatch) step(name string) {
	now := time.Now()
	w.steps = append(w.steps, Step{Name: name, Start: w.last, Duration: now.Sub(w.last)})
	w.last = now
}

// Start starts the init process, or the exec of that id, and returns its pid.
func (s *Service) Start(ctx context.Context, id, execID string) (int, error) {
	t, shim, err := s.find(ctx, id)
	if err != nil {
		return 0, err
	}
	ctx = context.WithoutCancel(ctx) // as in Create
	began := time.Now()
	if execID == "" {
		t.mu.Lock()
		t.started = began
		t.mu.Unlock()
	}
	pid, err := shim.Start(ctx, execID)
	if err != nil {
		return 0, err // as in Create
	}
	failpoint.Pass("tasks/start/started")
	if execID == "" {
		t.mu.Lock()
		t.pid = pid
		t.steps = append(t.steps, Step{Name: "start task", Start: began, Duration: time.Since(began)})
		t.mu.Unlock()
	}
	return pid, nil
}

func processName(id, execID string) string {
	if execID == "" {
		return fmt.Sprintf("task %q", id)
	}
	return fmt.Sprintf("exec %q of task %q", execID, id)
}
