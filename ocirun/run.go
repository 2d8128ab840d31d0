package ocirun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/ocirun/internal/parent"
	"strata/ocirun/internal/state"
)

// runVerb creates a container, starts it and, unless detached, waits and deletes it.
func (a *app) runVerb(ctx context.Context, args []string) error {
	var c createFlags
	f := newFlags("run")
	c.define(f)
	f.bool(&c.detach, "detach", "d")
	f.bool(&c.keep, "keep")
	f.bool(&c.noSubreaper, "no-subreaper")
	id, err := f.parseID(args)
	if err != nil {
		return err
	}
	if !c.noSubreaper && !c.detach {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl", err)
		}
	}
	fw := newForwarder(!c.detach)
	defer fw.stop()
	var t *terminal
	if !c.detach {
		t, err = a.foregroundTerminal(&c)
		if err != nil {
			return err
		}
		if t != nil {
			defer t.close()
		}
	}
	child, err := a.createForRun(ctx, id, c, t)
	if err != nil || child == nil {
		return err
	}
	defer child.Pidfd.Close()
	if t != nil {
		if err := t.attach(); err != nil {
			return err
		}
	}
	st, err := a.store.Load(id)
	if err != nil {
		return err
	}
	if err := a.startForeground(ctx, st, child); err != nil {
		err = errors.Join(err, a.killAndWait(st), a.destroy(ctx, st))
		if t != nil {
			t.drain()
		}
		if x := (*parent.ExecError)(nil); errors.As(err, &x) {
			return exitError(execError)
		}
		return err
	}
	if c.detach {
		return nil
	}
	werr := a.wait(child, t, fw)
	if c.keep {
		return werr
	}
	return errors.Join(werr, a.destroy(ctx, st))
}

func (a *app) startForeground(ctx context.Context, st *state.State, child *parent.Child) error {
	if err := a.release(st); err != nil {
		return err
	}
	if err := child.Executed(); err != nil {
		return fmt.Errorf("unable to start container process: %w", err)
	}
	return a.poststart(ctx, st)
}

// foregroundTerminal makes the terminal of a run that stays, if its spec wants one.
func (a *app) foregroundTerminal(c *createFlags) (*terminal, error) {
	dir := c.bundle
	if dir == "" {
		dir = "."
	}
	spec, _, err := loadSpec(dir)
	if err != nil {
		return nil, err
	}
	if spec.Process == nil || !spec.Process.Terminal {
		return nil, nil
	}
	if c.consoleSocket != "" {
		return nil, fmt.Errorf("cannot use console socket if runc will not detach or allocate tty: %w", errdefs.ErrInvalidArgument)
	}
	return newTerminal(a.cfg)
}

// forwarder hands the runtime's signals to the process that it waits for.
type forwarder struct {
	signals chan os.Signal
	done    chan struct{} // closed when forward has returned
}

func newForwarder(on bool) *forwarder {
	if !on {
		return &forwarder{}
	}
	f := &forwarder{signals: make(chan os.Signal, 128), done: make(chan struct{})} // signals are dropped when it is full
	signal.Notify(f.signals)
	return f
}

// stop ends forward. It can be repeated.
func (f *forwarder) stop() {
	if f.signals != nil {
		signal.Stop(f.signals)
		close(f.signals)
		f.signals = nil
	}
}

// forward runs until stop. The process may have ended: a pidfd cannot name another.
func (f *forwarder) forward(signals <-chan os.Signal, pidfd *os.File, t *terminal) {
	defer close(f.done)
	for s := range signals {
		switch sig := s.(unix.Signal); sig {
		case unix.SIGCHLD, unix.SIGURG: // the latter is the Go scheduler's own
		case unix.SIGWINCH:
			if t != nil {
				t.resize()
			}
		default:
			_ = unix.PidfdSendSignal(int(pidfd.Fd()), sig, nil, 0)
		}
	}
}

// wait waits for a foreground process and returns its status as an exitError.
func (a *app) wait(c *parent.Child, t *terminal, fw *forwarder) error {
	if fw.signals != nil {
		go fw.forward(fw.signals, c.Pidfd, t)
		defer func() {
			fw.stop()
			<-fw.done
		}()
	}
	ws := reap(c.PID)
	if t != nil {
		t.drain()
	}
	if ws.Signaled() {
		return exitError(128 + int(ws.Signal()))
	}
	if ws.ExitStatus() == 0 {
		return nil
	}
	return exitError(ws.ExitStatus())
}

// reap waits for pid and for orphans that come before it, as a subreaper must.
func reap(pid int) unix.WaitStatus {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || got == pid {
			return ws
		}
	}
}
