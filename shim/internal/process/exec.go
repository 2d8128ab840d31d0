package process

import (
	"fmt"

	"github.com/containerd/errdefs"

	"strata/pkg/identifiers"
	"strata/shim/internal/ocicli"
	"strata/shim/internal/reaper"
	"strata/shim/internal/stdio"
)

// ExecArgs is the wish for an exec.
type ExecArgs struct {
	ContainerID, ExecID string
	Process             []byte // runtime-spec process, JSON
	Stdio               Stdio
}

// AddExec adds an exec to a task; Start makes its process. Its streams are open, and the
// attach socket is there, when it returns.
//
// Errors are of class ErrAlreadyExists if there is such an exec, ErrInvalidArgument for
// a bad id or stream, and ErrFailedPrecondition if the task does not run.
func (ts *Tasks) AddExec(a ExecArgs) error {
	if err := identifiers.Validate(a.ExecID); err != nil {
		return err
	}
	t, err := ts.get(a.ContainerID)
	if err != nil {
		return err
	}
	ts.early.Start()
	p := newProcess(t, a.ExecID, a.Stdio)
	p.spec, p.busy = a.Process, true
	if err := t.addExec(p); err != nil {
		return err
	}
	p.io, err = stdio.Open(ts.ctx, t.stdioConfig(a.Stdio, Options{}))
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		delete(t.execs, a.ExecID)
		return fmt.Errorf("open streams of %s: %w", p.name(), err)
	}
	p.busy = false
	t.publishLocked(Event{Kind: ExecAdded, ExecID: a.ExecID})
	return nil
}

func (t *Task) addExec(p *Process) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.execs[p.execID] != nil {
		return fmt.Errorf("%s: %w", p.name(), errdefs.ErrAlreadyExists)
	}
	if err := t.acceptsExecLocked(p); err != nil {
		return err
	}
	t.execs[p.execID] = p
	return nil
}

// acceptsExecLocked is an error unless the task can take an exec.
func (t *Task) acceptsExecLocked(p *Process) error {
	switch s := t.init.status; {
	case s != Running && s != Created, t.held != nil:
		return fmt.Errorf("%s: the task is %s: %w", p.name(), s, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// startExec has the runtime make the process of an exec; as start, it is finished once
// begun.
func (p *Process) startExec() (pid int, err error) {
	t := p.task
	t.mu.Lock()
	err = p.begin(Creating)
	if err == nil {
		if err = t.acceptsExecLocked(p); err != nil {
			p.busy = false
		} else {
			err = p.advance(evCreate)
			t.running++
		}
	}
	t.mu.Unlock()
	if err != nil {
		return 0, err
	}
	window := t.tasks.cfg.Reaper.Open()
	defer window.Close()
	pid, err = t.runtime.Exec(t.tasks.ctx, ocicli.ExecArgs{
		ContainerID: t.id, ExecID: p.execID, Process: p.spec, ConsoleSocket: p.io.ConsoleSocket(), Streams: p.io.Streams(),
	})
	if err != nil {
		p.execFailed()
		return 0, fmt.Errorf("start %s: %w", p.name(), err)
	}
	ioErr := p.io.Started()
	window.Claim(pid, p.exited)
	t.mu.Lock()
	p.pid = pid
	err = p.advance(evStart)
	t.publishLocked(Event{Kind: ExecStarted, ExecID: p.execID, PID: pid})
	t.mu.Unlock()
	if ioErr != nil {
		_ = p.kill(9) // it cannot be talked to; its exit is reported as any other
		err = fmt.Errorf("start %s: %w", p.name(), ioErr)
	}
	p.finish()
	return pid, err
}

// execFailed takes back what startExec has begun.
func (p *Process) execFailed() {
	t := p.task
	t.mu.Lock()
	p.busy = false
	if err := p.advance(evFail); err != nil {
		panic("internal error: " + err.Error())
	}
	held := t.execGoneLocked()
	t.mu.Unlock()
	if held != nil {
		t.init.settle(*held)
	}
}

// execGoneLocked counts one exec less and returns the exit of the init process that has
// waited for the last one.
//
// Preconditions: mu is held.
func (t *Task) execGoneLocked() *reaper.Exit {
	t.running--
	if t.running > 0 {
		return nil
	}
	held := t.held
	t.held = nil
	return held
}

// deleteExec frees an exec that has ended or was never started.
func (p *Process) deleteExec() (Snapshot, error) {
	t := p.task
	t.mu.Lock()
	snap, busy := p.snapshotLocked(), p.busy
	ok := !busy && (snap.Status == Stopped || snap.Status == Creating)
	if ok {
		delete(t.execs, p.execID)
	}
	t.mu.Unlock()
	if !ok {
		return Snapshot{}, fmt.Errorf("delete %s: it is %s: %w", p.name(), snap.Status, errdefs.ErrFailedPrecondition)
	}
	return snap, p.release()
}
