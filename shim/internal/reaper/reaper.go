// Package reaper is the one owner of wait4 in the shim.
//
// Children of the shim are the runtimes that it starts and, because it is a subreaper,
// the container's processes whose runtime has exited. Their exits arrive in any order: a
// container's process may be gone before the runtime has told its pid. So exits of
// strangers are kept while a [Window] is open, and dropped otherwise.
//
// No other package may wait for a child; os/exec is not used in the shim.
package reaper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"strata/pkg/linux/reap"
)

// Exit is the end of a process.
type Exit struct {
	// Code is the process's exit code, or 128 plus the signal that killed it.
	Code int
	At   time.Time
}

// Reaper hands exits to whom they belong. Make it with [New]; it works while Run runs.
type Reaper struct {
	signals chan os.Signal

	mu      sync.Mutex
	owners  map[int]func(Exit) // by pid
	windows int                // open ones
	strays  map[int]Exit       // by pid; only while windows > 0
	wg      sync.WaitGroup     // running owners' functions
}

// New makes the calling process a subreaper.
func New() (*Reaper, error) {
	if err := reap.SetSubreaper(); err != nil {
		return nil, fmt.Errorf("become subreaper: %w", err)
	}
	r := &Reaper{
		signals: make(chan os.Signal, 1), // one pending is enough: each wakes a loop over all exits
		owners:  map[int]func(Exit){},
		strays:  map[int]Exit{},
	}
	signal.Notify(r.signals, syscall.SIGCHLD)
	return r, nil
}

// Run reaps until ctx is done, then waits for the functions that it has called.
func (r *Reaper) Run(ctx context.Context) {
	defer r.wg.Wait()
	defer signal.Stop(r.signals)
	for {
		r.reap()
		select {
		case <-ctx.Done():
			return
		case <-r.signals:
		}
	}
}

// reap hands out all exits of the moment. The lock is held over wait4, so that a pid
// cannot be given to a new child between its exit and the look into owners.
func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		e, ok := reap.Next()
		if !ok {
			return
		}
		exit := Exit{Code: e.Code, At: time.Now()}
		if fn, ok := r.owners[e.PID]; ok {
			delete(r.owners, e.PID)
			r.wg.Go(func() { fn(exit) })
		} else if r.windows > 0 {
			r.strays[e.PID] = exit
		}
	}
}

// Start forks and executes path. fn is called once, in a goroutine of its own, when the
// process has ended.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr, fn func(Exit)) (pid int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err = syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, &os.PathError{Op: "fork/exec", Path: path, Err: err}
	}
	r.owners[pid] = fn
	return pid, nil
}

// Signal sends a signal to a process that has an owner and has not been reaped. It
// returns false if there is no such process (any more): a pid is never signalled after
// somebody else may have got it.
func (r *Reaper) Signal(pid int, sig syscall.Signal) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.owners[pid]; !ok {
		return false, nil
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return true, fmt.Errorf("send signal %d to process %d: %w", int(sig), pid, os.NewSyscallError("kill", err))
	}
	return true, nil
}

// Open begins to keep the exits of strangers, so that a process which a runtime makes
// can be claimed even if it has ended by then. Close the window.
func (r *Reaper) Open() *Window {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.windows++
	return &Window{r: r}
}

// Window is a time in which no exit is dropped.
type Window struct{ r *Reaper }

// Claim makes fn the owner of the process: it is called once, in a goroutine of its own,
// when the process has ended, which may be now.
//
// Preconditions: the process was made after the window was opened.
func (w *Window) Claim(pid int, fn func(Exit)) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	if exit, ok := w.r.strays[pid]; ok {
		delete(w.r.strays, pid)
		w.r.wg.Go(func() { fn(exit) })
		return
	}
	w.r.owners[pid] = fn
}

// Close ends the window. It is safe to call once.
func (w *Window) Close() {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	if w.r.windows--; w.r.windows == 0 {
		clear(w.r.strays)
	}
}
