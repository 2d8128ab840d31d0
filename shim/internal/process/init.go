package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/atomicfile"
	"strata/pkg/cleanup"
	"strata/pkg/failpoint"
	"strata/pkg/identifiers"
	"strata/pkg/linux/cgroups"
	"strata/pkg/linux/mount"
	"strata/shim/internal/names"
	"strata/shim/internal/ocicli"
	"strata/shim/internal/reaper"
	"strata/shim/internal/stdio"
)

// Files in a bundle. The delete verb reads what Create has written.
const (
	pidFile     = "init.pid"
	optionsFile = "options.json"
	rootfsDir   = "rootfs"
)

// DefaultRoot is the state directory of a runtime whose task names none; the namespace
// comes below it.
const DefaultRoot = "/run/ocirun"

// Task is a running container: its init process and its execs.
type Task struct {
	tasks   *Tasks
	id      string
	bundle  string
	runtime *ocicli.Runtime
	init    *Process
	mounted bool          // the shim has mounted the root filesystem
	names   *names.Server // nil if the container asks somebody else for names

	mu      sync.Mutex
	execs   map[string]*Process
	running int          // execs that are being started or run
	held    *reaper.Exit // of the init process, until running is zero
	steps   []Step
	pidns   bool             // the init process is the first of its PID namespace
	cgroup  *cgroups.Manager // from Created on; nil if the task has none of its own
	kills   uint64           // of the OOM killer, those that were published
}

// Step is one piece of work on the way to a running process.
type Step struct {
	Name     string
	Start    time.Time
	Duration time.Duration
}

// timed runs fn and remembers how long it took.
func (t *Task) timed(name string, fn func() error) error {
	start := time.Now()
	err := fn()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, Step{Name: name, Start: start, Duration: time.Since(start)})
	return err
}

// NewRuntime returns the runtime that options name, for a bundle in a namespace.
func NewRuntime(opts Options, namespace, bundle string, r *reaper.Reaper) (*ocicli.Runtime, error) {
	binary, err := ocicli.Find(opts.Binary)
	if err != nil {
		return nil, err
	}
	root := opts.Root
	if root == "" {
		root = DefaultRoot
	}
	return &ocicli.Runtime{
		Binary: binary, Root: filepath.Join(root, namespace), SystemdCgroup: opts.SystemdCgroup, LogDir: bundle, Reaper: r,
	}, nil
}

// Create makes a task whose init process waits for Start; it returns its pid. After an
// error nothing of it stays.
//
// Errors are of class ErrAlreadyExists if there is such a task and ErrInvalidArgument
// for a bad id or stream.
func (ts *Tasks) Create(ctx context.Context, a CreateArgs) (pid int, err error) {
	if err := identifiers.Validate(a.ContainerID); err != nil {
		return 0, err
	}
	if a.Checkpoint != "" {
		return 0, fmt.Errorf("restore task %q from a checkpoint: %w", a.ContainerID, errdefs.ErrNotImplemented)
	}
	t := &Task{tasks: ts, id: a.ContainerID, bundle: a.Bundle, execs: map[string]*Process{}}
	t.init = newProcess(t, "", a.Stdio)
	t.init.busy = true
	if t.runtime, err = NewRuntime(a.Options, ts.cfg.Namespace, a.Bundle, ts.cfg.Reaper); err != nil {
		return 0, err
	}
	if err := ts.reserve(t); err != nil {
		return 0, err
	}
	var undo cleanup.Stack
	defer undo.Clean()
	undo.Add(func() { ts.forget(t) })

	ts.early.Start()
	if err := t.mountRootfs(a.Rootfs); err != nil {
		return 0, err
	}
	undo.Add(func() { _ = t.unmountRootfs() })
	if err := saveOptions(a.Bundle, a.Options); err != nil {
		return 0, err
	}
	if err := failpoint.Hit("process/create/mounted"); err != nil {
		return 0, err
	}
	t.init.io, err = stdio.Open(ts.ctx, t.stdioConfig(a.Stdio, a.Options))
	if err != nil {
		return 0, fmt.Errorf("open streams of task %q: %w", t.id, err)
	}
	undo.Add(func() { t.init.io.Close(ts.ctx) })
	if t.names, err = names.Start(ts.ctx, a.Bundle); err != nil {
		return 0, fmt.Errorf("answer DNS for task %q: %w", t.id, err)
	}
	undo.Add(t.names.Close)
	if err := t.create(ctx, a); err != nil {
		return 0, err
	}
	undo.Release() // point of no return: the container exists
	return t.init.pid, nil
}

// reserve takes the task's id.
func (ts *Tasks) reserve(t *Task) error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.tasks[t.id] != nil {
		return fmt.Errorf("task %q: %w", t.id, errdefs.ErrAlreadyExists)
	}
	ts.tasks[t.id] = t
	return nil
}

func (ts *Tasks) forget(t *Task) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.tasks, t.id)
}

// create has the runtime make the container.
func (t *Task) create(ctx context.Context, a CreateArgs) error {
	p := t.init
	window := t.tasks.cfg.Reaper.Open()
	defer window.Close()
	var pid int
	err := t.timed("runtime create", func() (err error) {
		pid, err = t.runtime.Create(ctx, ocicli.CreateArgs{
			ID: t.id, Bundle: t.bundle, PIDFile: filepath.Join(t.bundle, pidFile), ConsoleSocket: p.io.ConsoleSocket(),
			NoPivotRoot: a.Options.NoPivotRoot, NoNewKeyring: a.Options.NoNewKeyring, Streams: p.io.Streams(),
		})
		return err
	})
	if err != nil && ctx.Err() != nil { // killed half-way; nothing else of that id can be meant
		err = errors.Join(err, t.runtime.ForceDelete(ctx, t.id), RemoveHalfMade(t.bundle))
	}
	if err != nil {
		return fmt.Errorf("create task %q: %w", t.id, err)
	}
	if err := p.io.Started(); err != nil {
		return errors.Join(fmt.Errorf("create task %q: %w", t.id, err), t.runtime.ForceDelete(ctx, t.id))
	}
	failpoint.Pass("process/create/made")
	window.Claim(pid, p.exited)
	pidns, cgroup := isFirstOfPIDNamespace(pid), ownCgroup(pid)
	t.mu.Lock()
	p.pid, t.pidns, t.cgroup = pid, pidns, cgroup
	err = p.advance(evCreate)
	t.publishLocked(Event{Kind: TaskCreated, PID: pid, Create: &a})
	t.mu.Unlock()
	p.finish()
	t.watchOOM()
	return err
}

// isFirstOfPIDNamespace reports whether the end of the process ends all others of its
// PID namespace. It returns true for one that is gone already: the namespace is too, or
// the runtime's delete finds what is left.
//
// Source: proc_pid_status(5), "NSpid".
func isFirstOfPIDNamespace(pid int) bool {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return true
	}
	_, line, _ := strings.Cut(string(status), "\nNSpid:")
	line, _, _ = strings.Cut(line, "\n")
	pids := strings.Fields(line)
	return len(pids) > 1 && pids[len(pids)-1] == "1"
}

func (t *Task) ownPIDNamespace() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pidns
}

// killAll ends all processes of a task whose init process has ended.
func (t *Task) killAll() {
	ctx, cancel := cleanup.Context(t.tasks.ctx)
	defer cancel()
	// A runtime that finds nobody left says so as an error.
	_ = t.runtime.KillAll(ctx, t.id, int(syscall.SIGKILL))
}

func (t *Task) stdioConfig(s Stdio, o Options) stdio.Config {
	return stdio.Config{
		Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Terminal: s.Terminal,
		UID: int(o.IOUID), GID: int(o.IOGID), ContainerID: t.id, Namespace: t.tasks.cfg.Namespace,
		ConsoleDir: t.tasks.cfg.SocketDir, Reaper: t.tasks.cfg.Reaper,
	}
}

func (t *Task) mountRootfs(mounts []mount.Mount) error {
	if len(mounts) == 0 {
		return nil
	}
	rootfs := filepath.Join(t.bundle, rootfsDir)
	if err := os.Mkdir(rootfs, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make rootfs of task %q: %w", t.id, err)
	}
	return t.timed("mount rootfs", func() error {
		if err := mount.All(mounts, rootfs); err != nil {
			return errors.Join(fmt.Errorf("mount rootfs of task %q: %w", t.id, err), mount.Unmount(rootfs))
		}
		t.mounted = true
		return nil
	})
}

func (t *Task) unmountRootfs() error {
	if !t.mounted {
		return nil
	}
	return mount.Unmount(filepath.Join(t.bundle, rootfsDir))
}

// saveOptions keeps the options for the delete verb.
func saveOptions(bundle string, o Options) error {
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode options: %w", err)
	}
	return atomicfile.Write(filepath.Join(bundle, optionsFile), data, 0o600, atomicfile.Volatile)
}

// LoadOptions reads what Create has kept in the bundle; without, they are zero.
func LoadOptions(bundle string) (Options, error) {
	var o Options
	data, err := os.ReadFile(filepath.Join(bundle, optionsFile))
	if errors.Is(err, os.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return o, fmt.Errorf("read options: %w", err)
	}
	if err := json.Unmarshal(data, &o); err != nil {
		return o, fmt.Errorf("decode options: %w", err)
	}
	return o, nil
}

// start lets the container's program run. Once begun it is finished, even if whoever asked
// for it has died: half a start cannot be told from a whole one.
func (t *Task) start() (pid int, err error) {
	p := t.init
	t.mu.Lock()
	err = p.begin(Created)
	t.mu.Unlock()
	if err != nil {
		return 0, err
	}
	defer p.finish()
	if err := t.timed("runtime start", func() error { return t.runtime.Start(t.tasks.ctx, t.id) }); err != nil {
		return 0, fmt.Errorf("start task %q: %w", t.id, err)
	}
	failpoint.Pass("process/start/started")
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := p.advance(evStart); err != nil {
		return 0, err
	}
	t.publishLocked(Event{Kind: TaskStarted, PID: p.pid})
	return p.pid, nil
}

// change pauses or resumes the task.
func (t *Task) change(e event, kind Kind, fn func() error) error {
	t.mu.Lock()
	_, err := t.init.status.on(e)
	t.mu.Unlock()
	if err != nil {
		return fmt.Errorf("task %q: %w", t.id, err)
	}
	if err := fn(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.init.advance(e); err != nil {
		return err
	}
	t.publishLocked(Event{Kind: kind})
	return nil
}

// delete frees a task that has ended or was never started.
func (t *Task) delete(ctx context.Context) (Snapshot, error) {
	p := t.init
	t.mu.Lock()
	busy, status := p.busy, p.status
	if !busy && status != Running && status != Paused && status != Creating {
		p.busy = true
	}
	t.mu.Unlock()
	switch {
	case busy || status == Creating:
		return Snapshot{}, fmt.Errorf("delete task %q: another request is under way: %w", t.id, errdefs.ErrFailedPrecondition)
	case status == Running || status == Paused:
		return Snapshot{}, fmt.Errorf("delete task %q: it is %s: %w", t.id, status, errdefs.ErrFailedPrecondition)
	}
	if err := t.dismantle(ctx, status); err != nil {
		p.finish()
		return Snapshot{}, err
	}
	failpoint.Pass("process/delete/dismantled")
	p.finish()
	if status == Created { // killed by dismantle; its exit is on the way
		if _, err := p.wait(ctx); err != nil {
			return Snapshot{}, err
		}
	}
	t.tasks.forget(t)
	t.mu.Lock()
	defer t.mu.Unlock()
	snap := p.snapshotLocked()
	t.publishLocked(Event{Kind: TaskDeleted, PID: snap.PID, Exit: snap.Exit})
	return snap, nil
}

// dismantle has the runtime delete the container and frees streams and rootfs.
func (t *Task) dismantle(ctx context.Context, status Status) error {
	remove := t.runtime.Delete
	if status == Created {
		remove = t.runtime.ForceDelete
	}
	if err := t.timed("runtime delete", func() error { return remove(ctx, t.id) }); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return fmt.Errorf("delete task %q: %w", t.id, err)
	}
	t.mu.Lock()
	left := make([]*Process, 0, len(t.execs))
	for _, e := range t.execs {
		left = append(left, e)
	}
	clear(t.execs)
	t.mu.Unlock()
	errs := []error{t.init.release()}
	for _, e := range left {
		errs = append(errs, e.release())
	}
	return errors.Join(append(errs, t.unmountRootfs())...)
}

// publishLocked adds what all events of the task have.
//
// Preconditions: mu is held, so that events keep the order of what they tell.
func (t *Task) publishLocked(e Event) {
	e.ContainerID, e.At = t.id, time.Now()
	t.tasks.cfg.Publish(e)
}
