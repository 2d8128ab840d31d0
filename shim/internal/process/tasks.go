package process

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/console"
	"strata/pkg/linux/cgroups"
	"strata/shim/internal/reaper"
)

// Config is what all tasks of a shim share.
type Config struct {
	Namespace string
	// SocketDir is a short directory of the shim's own for console sockets.
	SocketDir string
	Reaper    *reaper.Reaper
	// Publish takes an event and does not block. Events of one task are passed in order.
	Publish func(Event)
}

// Tasks are the tasks of a shim, more than one if it holds a pod. Its methods are safe
// for concurrent use. Unless they say more, their errors are of class ErrNotFound for an
// unknown task or exec.
type Tasks struct {
	cfg Config
	// ctx ends when the shim must not wait for anybody any more.
	ctx   context.Context //nolint:containedctx // bounds background work, which has no request
	abort context.CancelFunc
	wg    sync.WaitGroup // background work
	early cgroups.Hastener

	mu    sync.Mutex
	tasks map[string]*Task
}

// New returns an empty set of tasks. Close it.
func New(ctx context.Context, cfg Config) *Tasks {
	ctx, abort := context.WithCancel(context.WithoutCancel(ctx))
	return &Tasks{cfg: cfg, ctx: ctx, abort: abort, tasks: map[string]*Task{}}
}

// linger bounds how long Close waits for clients that still read output.
const linger = 2 * time.Minute

// Close waits until attached clients have got the output of ended processes.
func (ts *Tasks) Close() {
	timer := time.AfterFunc(linger, ts.abort)
	defer timer.Stop()
	ts.wg.Wait()
	ts.early.Wait()
	ts.abort()
}

// Len returns how many tasks there are.
func (ts *Tasks) Len() int {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return len(ts.tasks)
}

// get returns a task that has been created.
func (ts *Tasks) get(containerID string) (*Task, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t := ts.tasks[containerID]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("task %q: %w", containerID, errdefs.ErrNotFound)
}

// process returns the init process, or the exec if execID is given.
func (ts *Tasks) process(containerID, execID string) (*Process, error) {
	t, err := ts.get(containerID)
	if err != nil {
		return nil, err
	}
	if execID == "" {
		return t.init, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.execs[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("exec %q of task %q: %w", execID, containerID, errdefs.ErrNotFound)
}

// State returns what there is to know of a process.
func (ts *Tasks) State(containerID, execID string) (Snapshot, error) {
	p, err := ts.process(containerID, execID)
	if err != nil {
		return Snapshot{}, err
	}
	return p.snapshot(), nil
}

// Wait returns the exit of a process when there is one, however long that takes, and at
// once if it has ended before.
func (ts *Tasks) Wait(ctx context.Context, containerID, execID string) (Exit, error) {
	p, err := ts.process(containerID, execID)
	if err != nil {
		return Exit{}, err
	}
	return p.wait(ctx)
}

// Start lets a created process run; it returns its pid. It cannot be cancelled. The error is of class
// ErrFailedPrecondition unless the process is created.
func (ts *Tasks) Start(containerID, execID string) (pid int, err error) {
	p, err := ts.process(containerID, execID)
	if err != nil {
		return 0, err
	}
	if execID != "" {
		return p.startExec()
	}
	return p.task.start()
}

// Kill sends a signal to a process or, with all, to every process of the task. The
// errors are those of a process that has ended (ErrNotFound) or does not exist yet
// (ErrFailedPrecondition).
func (ts *Tasks) Kill(ctx context.Context, containerID, execID string, signal syscall.Signal, all bool) error {
	p, err := ts.process(containerID, execID)
	if err != nil {
		return err
	}
	t := p.task
	switch {
	case all && execID == "":
		return t.runtime.KillAll(ctx, t.id, int(signal))
	case signal == syscall.SIGKILL && t.init.snapshot().Status == Paused:
		return t.killFrozen(p)
	}
	return p.kill(signal)
}

// killFrozen kills a process of a paused task. On cgroup v1 a frozen process does not
// die, so the task is thawed behind the signal.
func (t *Task) killFrozen(p *Process) error {
	if err := p.kill(syscall.SIGKILL); err != nil || t.cgroup == nil {
		return err
	}
	if err := t.cgroup.Thaw(); err != nil {
		return fmt.Errorf("kill %s: %w", p.name(), err)
	}
	return nil
}

// Resize sets the size of a process's terminal. The error is of class
// ErrFailedPrecondition if it has none.
func (ts *Tasks) Resize(containerID, execID string, s console.Size) error {
	p, err := ts.process(containerID, execID)
	if err != nil {
		return err
	}
	return p.resize(s)
}

// CloseStdin ends a process's stdin when the clients that write to it are gone.
func (ts *Tasks) CloseStdin(containerID, execID string) error {
	p, err := ts.process(containerID, execID)
	if err != nil {
		return err
	}
	p.io.CloseStdin()
	return nil
}

// Pause freezes a running task.
func (ts *Tasks) Pause(ctx context.Context, containerID string) error {
	t, err := ts.get(containerID)
	if err != nil {
		return err
	}
	return t.change(evPause, TaskPaused, func() error { return t.runtime.Pause(ctx, t.id) })
}

// Resume thaws a paused task.
func (ts *Tasks) Resume(ctx context.Context, containerID string) error {
	t, err := ts.get(containerID)
	if err != nil {
		return err
	}
	return t.change(evResume, TaskResumed, func() error { return t.runtime.Resume(ctx, t.id) })
}

// Update changes the limits of a task: resources is linux.resources of the runtime-spec,
// JSON.
func (ts *Tasks) Update(ctx context.Context, containerID string, resources []byte) error {
	t, err := ts.get(containerID)
	if err != nil {
		return err
	}
	return t.runtime.Update(ctx, t.id, resources)
}

// Delete frees an ended process, or one that was never started, and returns its last
// snapshot. The error is of class ErrFailedPrecondition while it runs.
func (ts *Tasks) Delete(ctx context.Context, containerID, execID string) (Snapshot, error) {
	p, err := ts.process(containerID, execID)
	if err != nil {
		return Snapshot{}, err
	}
	if execID != "" {
		return p.deleteExec()
	}
	return p.task.delete(ctx)
}
