package process

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/console"
	"strata/shim/internal/reaper"
	"strata/shim/internal/stdio"
)

// Process is the init process of a task or an exec. All fields below the first block are
// guarded by the task's mu.
type Process struct {
	task   *Task
	execID string // empty: the init process
	stdio  Stdio
	spec   []byte // of an exec: runtime-spec process, JSON
	io     *stdio.IO

	status Status
	busy   bool // a request is under way that makes or starts the process
	pid    int
	early  *reaper.Exit // ended while busy
	exit   Exit
	done   chan struct{} // closed when Stopped
}

func newProcess(t *Task, execID string, s Stdio) *Process {
	return &Process{task: t, execID: execID, stdio: s, status: Creating, done: make(chan struct{})}
}

// name is how errors call the process.
func (p *Process) name() string {
	if p.execID != "" {
		return fmt.Sprintf("exec %q of task %q", p.execID, p.task.id)
	}
	return fmt.Sprintf("task %q", p.task.id)
}

// advance is the only place where a status changes.
//
// Preconditions: the task's mu is held.
func (p *Process) advance(e event) error {
	to, err := p.status.on(e)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name(), err)
	}
	p.status = to
	return nil
}

// begin claims the process for a request that makes or starts it.
//
// Preconditions: the task's mu is held.
func (p *Process) begin(want Status) error {
	if p.busy || p.status != want {
		return fmt.Errorf("%s is %s, want %s: %w", p.name(), p.status, want, errdefs.ErrFailedPrecondition)
	}
	p.busy = true
	return nil
}

// exited is called by the reaper, once. It returns when the exit is published.
func (p *Process) exited(e reaper.Exit) {
	t := p.task
	t.mu.Lock()
	if p.busy {
		p.early = &e // the request publishes what comes before the exit, then calls settle
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	p.settle(e)
}

// finish ends what begin began, and settles an exit that came meanwhile.
func (p *Process) finish() {
	t := p.task
	t.mu.Lock()
	early := p.early
	p.busy, p.early = false, nil
	t.mu.Unlock()
	if early != nil {
		t.tasks.wg.Go(func() { p.settle(*early) })
	}
}

// settle makes the exit known: first the output is brought home, then the status is set
// and the event published. The init process waits for its execs.
func (p *Process) settle(e reaper.Exit) {
	t := p.task
	if p.execID == "" && !t.ownPIDNamespace() {
		// Nothing else ends the init process's siblings, and they hold its streams.
		t.killAll()
	}
	if p.execID == "" {
		t.names.Close() // before the exit is known: the next task binds the same address
	}
	p.io.Ended()
	if e.Code == 128+int(syscall.SIGKILL) {
		t.publishOOM() // before the exit: it says why
	}
	t.mu.Lock()
	if p.execID == "" && t.running > 0 {
		t.held = &e
		t.mu.Unlock()
		return
	}
	p.stopLocked(e)
	var held *reaper.Exit
	if p.execID != "" {
		held = t.execGoneLocked()
	}
	t.mu.Unlock()
	if held != nil {
		t.init.settle(*held)
	}
	t.tasks.wg.Go(func() { p.io.Drained(context.Background()) })
}

// stopLocked sets and publishes the exit.
//
// Preconditions: the task's mu is held.
func (p *Process) stopLocked(e reaper.Exit) {
	if err := p.advance(evExit); err != nil {
		panic("internal error: exit reported twice: " + err.Error())
	}
	p.exit = Exit{Code: uint32(e.Code), At: e.At}
	close(p.done)
	p.task.publishLocked(Event{Kind: TaskExited, ExecID: p.execID, PID: p.pid, Exit: p.exit})
}

// kill sends a signal to the process alone.
//
// Errors are of class ErrNotFound if it has ended, ErrFailedPrecondition if it has not
// been made yet, and ErrInvalidArgument if there is no such signal.
func (p *Process) kill(signal syscall.Signal) error {
	p.task.mu.Lock()
	pid, status := p.pid, p.status
	p.task.mu.Unlock()
	if pid == 0 && status != Stopped {
		return fmt.Errorf("%s has no process yet: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	if signal < 0 || signal > 64 {
		return fmt.Errorf("signal %d: %w", int(signal), errdefs.ErrInvalidArgument)
	}
	alive, err := p.task.tasks.cfg.Reaper.Signal(pid, signal)
	if err == nil && !alive {
		err = fmt.Errorf("%s: process already finished: %w", p.name(), errdefs.ErrNotFound)
	}
	return err
}

// Snapshot is what there is to know of a process at one moment.
type Snapshot struct {
	ContainerID, ExecID string
	Bundle              string
	Status              Status
	PID                 int
	Stdio               Stdio
	Exit                Exit // zero unless Stopped
}

func (p *Process) snapshot() Snapshot {
	p.task.mu.Lock()
	defer p.task.mu.Unlock()
	return p.snapshotLocked()
}

func (p *Process) snapshotLocked() Snapshot {
	return Snapshot{
		ContainerID: p.task.id, ExecID: p.execID, Bundle: p.task.bundle, Status: p.status,
		PID: p.pid, Stdio: p.stdio, Exit: p.exit,
	}
}

// wait returns the exit when there is one.
func (p *Process) wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.done:
		return p.snapshot().Exit, nil
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("wait for %s: %w", p.name(), context.Cause(ctx))
	}
}

// resize sets the size of the process's terminal. It is no error if the process is gone.
func (p *Process) resize(s console.Size) error {
	if p.snapshot().Status == Stopped {
		return nil
	}
	if err := p.io.Resize(s); err != nil {
		return fmt.Errorf("%s: %w", p.name(), err)
	}
	return nil
}

// release frees the streams. Clients that are still reading keep the rest until they
// have it; the name of the attach socket is free at once.
func (p *Process) release() error {
	err := p.io.Unlink()
	p.task.tasks.wg.Go(func() {
		ctx, cancel := context.WithTimeout(p.task.tasks.ctx, drainTimeout)
		defer cancel()
		p.io.Drained(ctx)
		p.io.Close(p.task.tasks.ctx)
	})
	return err
}

// drainTimeout bounds how long a client that does not read its named pipe is waited for
// after Delete. It is longer than the time that children may hold a stream.
const drainTimeout = 5 * time.Second
