package parent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"strata/ocirun/internal/child"
	"strata/ocirun/internal/ladder"
	"strata/ocirun/internal/lower"
	"strata/ocirun/internal/plan"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/linux/cgroups"
	"strata/pkg/linux/seccompbpf"
	"strata/pkg/linux/userns"
)

// Args are what a child is made from.
type Args struct {
	Plan   *plan.Plan
	Filter []seccompbpf.Insn
	// Unprivileged: mounts are opened by the child, in its user namespace.
	Unprivileged bool
	// Maps are for a new user namespace; nil if there is none.
	Maps *userns.Maps
	// Cgroup is what the child joins; nil for none. CgroupDir overrides it on v2.
	Cgroup *cgroups.Manager
	// OOMScoreAdj as in the spec.
	OOMScoreAdj *int
	// Affinity is an exec's before it is in its cgroup.
	Affinity []uint64
	// ConsoleSocket takes the terminal; nil without one.
	ConsoleSocket *os.File
	// FIFO is what a container waits on; "" for an exec.
	FIFO string
	// Task is the pidfd of an exec's init process.
	Task *os.File
	// Preserve is the number of descriptors from 3 on that the program gets.
	Preserve int
	// Foreground waits until the program has been executed.
	Foreground bool
	Callbacks  Callbacks
}

// Callbacks are called while the child waits. Any may be nil.
type Callbacks struct {
	// State is what hooks in the container's namespaces read.
	State func(pid int) ([]byte, error)
	// Joined runs once the child is in its cgroup.
	Joined func(pid int) error
	// Hooks runs the host's hooks.
	Hooks func(pid int) error
	// Listener takes the seccomp listener.
	Listener func(pid int, fd *os.File) error
	// Step is told how long a part took.
	Step func(name string, start time.Time)
}

// Child is a container that waits for its start, or an exec that runs.
type Child struct {
	PID   int
	Pidfd *os.File
	// Ladder is open only for a foreground container.
	Ladder *ladder.Ladder
	run    *run
}

// run is a climb.
type run struct {
	args  Args
	prog  *lower.Program
	fds   lower.Fds
	lad   *ladder.Ladder
	open  []*os.File // what the child needs
	state *os.File
	pid   int
	pidfd *os.File
}

// Run makes the child. On an error it is gone. After a Run with a Task no other process
// may be started: it might come from the thread that has joined the pid namespace.
func Run(ctx context.Context, args Args) (*Child, error) {
	r := &run{args: args}
	var undo cleanup.Stack
	defer undo.Clean()
	undo.Add(r.closeAll)
	if err := r.prepare(); err != nil {
		return nil, err
	}
	if args.Task != nil && !args.Unprivileged && joinsPID(args.Plan) {
		// For good: this thread could not make another (clone(2), EINVAL), and while it is
		// locked Go makes them elsewhere.
		runtime.LockOSThread()
		// For children of this thread only: setns(2).
		if err := unix.Setns(int(args.Task.Fd()), unix.CLONE_NEWPID); err != nil {
			return nil, fmt.Errorf("join the task's pid namespace: setns: %w", err)
		}
	}
	start := time.Now()
	if err := r.clone(); err != nil {
		return nil, err
	}
	undo.Add(r.kill)
	r.step("clone", start)
	if err := r.climb(ctx); err != nil {
		return nil, err
	}
	undo.Release()
	r.closeInherited()
	c := &Child{PID: r.pid, Pidfd: r.pidfd, run: r}
	if args.Foreground && args.FIFO != "" {
		c.Ladder = r.lad
		return c, nil
	}
	return c, r.lad.Close()
}

// Executed waits until a foreground container has executed its program. The error
// says why it has not.
func (c *Child) Executed() error {
	defer c.Ladder.Close()
	m, err := c.Ladder.Next()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.run.failure(m)
}

func (r *run) step(name string, start time.Time) {
	if r.args.Callbacks.Step != nil {
		r.args.Callbacks.Step(name, start)
	}
}

func joinsPID(p *plan.Plan) bool {
	for _, o := range p.Ops {
		if _, ok := o.(plan.Fork); ok {
			return false
		}
	}
	return true
}

// clone starts the child. Afterwards only it has its end of the ladder.
func (r *run) clone() error {
	c := child.Clone{Flags: r.args.Plan.Flags, Ladder: r.lad.Child}
	if r.args.Cgroup != nil {
		dir, err := r.args.Cgroup.Dir()
		if err != nil {
			return err
		}
		if dir != nil {
			defer dir.Close()
			c.Cgroup = dir
		}
	}
	pid, pidfd, err := r.prog.Start(c)
	if err != nil && c.Cgroup != nil && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EACCES)) {
		// A threaded or foreign cgroup: move there afterwards, which says what is wrong.
		c.Cgroup = nil
		pid, pidfd, err = r.prog.Start(c)
	}
	if err != nil {
		return err
	}
	r.pid, r.pidfd = pid, pidfd
	if c.Cgroup != nil {
		r.args.Cgroup = nil // it is there already
	}
	return r.lad.CloseChild()
}

func (r *run) kill() {
	_ = unix.Kill(r.pid, unix.SIGKILL) // it is our child, so the pid is not another's
	var ws unix.WaitStatus
	_, _ = unix.Wait4(r.pid, &ws, unix.WALL, nil)
	_ = r.pidfd.Close()
}

// climb goes up to the top.
func (r *run) climb(ctx context.Context) error {
	if r.args.OOMScoreAdj != nil { // a second child inherits it
		if err := setOOMScore(ctx, r.pid, *r.args.OOMScoreAdj); err != nil {
			return err
		}
	}
	if r.args.Maps != nil {
		start := time.Now()
		if err := userns.Write(r.pid, *r.args.Maps); err != nil {
			return fmt.Errorf("write id maps: %w", err)
		}
		if err := r.lad.Go(); err != nil {
			return err
		}
		r.step("id maps", start)
	}
	if !joinsPID(r.args.Plan) {
		if err := r.secondChild(ctx); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := r.place(ctx); err != nil {
		return err
	}
	r.step("cgroup join", start)
	if err := r.lad.Go(); err != nil {
		return r.orFailure(ctx, err)
	}
	start = time.Now()
	err := r.listen(ctx)
	r.step("set-up", start)
	return err
}

// secondChild waits until a joining child has made the one that goes on.
func (r *run) secondChild(ctx context.Context) error {
	for {
		m, err := r.lad.Next()
		if err != nil {
			return r.died(err)
		}
		switch m.Kind {
		case child.KindPID:
			var ws unix.WaitStatus
			if _, err := unix.Wait4(r.pid, &ws, unix.WALL, nil); err != nil {
				return os.NewSyscallError("wait4", err)
			}
			_ = r.pidfd.Close()
			r.pid = int(m.Value)
			fd, err := unix.PidfdOpen(r.pid, 0)
			if err != nil {
				return os.NewSyscallError("pidfd_open", err)
			}
			unix.CloseOnExec(fd)
			r.pidfd = os.NewFile(uintptr(fd), "pidfd")
			return nil
		case child.KindStage:
		case child.KindWarn:
			r.warn(ctx, m)
		default:
			return r.failure(m)
		}
	}
}

// place puts the waiting child into its cgroup, with limits that it could not set
// itself.
func (r *run) place(ctx context.Context) error {
	if err := r.raiseLimits(); err != nil {
		return err
	}
	if len(r.args.Affinity) > 0 {
		var set unix.CPUSet
		copyMask(&set, r.args.Affinity)
		if err := unix.SchedSetaffinity(r.pid, &set); err != nil {
			return os.NewSyscallError("sched_setaffinity", err)
		}
	}
	if r.args.Cgroup != nil {
		if err := r.args.Cgroup.Join(r.pid); err != nil {
			return fmt.Errorf("unable to apply cgroup configuration: %w", err)
		}
	}
	cb := r.args.Callbacks
	if cb.Joined != nil {
		if err := cb.Joined(r.pid); err != nil {
			return err
		}
	}
	if r.state != nil && cb.State != nil {
		data, err := cb.State(r.pid)
		if err != nil {
			return err
		}
		if _, err := r.state.WriteAt(data, 0); err != nil {
			return fmt.Errorf("state for hooks: %w", err)
		}
	}
	return nil
}

// listen follows the child to the end of its set-up.
func (r *run) listen(ctx context.Context) error {
	cb := r.args.Callbacks
	for {
		m, err := r.lad.Next()
		if errors.Is(err, io.EOF) && r.args.FIFO == "" {
			return nil // its execve closed the socket, or it ended, which its status tells
		}
		if err != nil {
			return r.died(err)
		}
		switch {
		case m.Kind == child.KindWarn:
			r.warn(ctx, m)
		case m.Kind != child.KindStage:
			return r.failure(m)
		case m.Value == lower.StageReady:
			return nil
		case m.Value == lower.StageHooks:
			if cb.Hooks != nil {
				if err := cb.Hooks(r.pid); err != nil {
					return err
				}
			}
			if err := r.lad.Go(); err != nil {
				return err
			}
		case m.Value == lower.StageNotify:
			if err := r.listener(cb); err != nil {
				return err
			}
		}
	}
}

func (r *run) listener(cb Callbacks) error {
	fd, err := r.lad.ReceiveFD()
	if err != nil {
		return err
	}
	defer fd.Close()
	if cb.Listener != nil {
		if err := cb.Listener(r.pid, fd); err != nil {
			return err
		}
	}
	return r.lad.Go()
}

// died explains why the child has gone without a word.
func (r *run) died(cause error) error {
	var ws unix.WaitStatus
	if _, err := unix.Wait4(r.pid, &ws, unix.WNOHANG, nil); err == nil && ws.Signaled() {
		if ws.Signal() == unix.SIGKILL {
			return errors.New("container init was killed, perhaps by the OOM killer: is the memory limit too low?")
		}
		return fmt.Errorf("container init died of %s", ws.Signal())
	}
	return fmt.Errorf("container init has gone: %w", cause)
}

// orFailure prefers what the child said to err.
func (r *run) orFailure(ctx context.Context, err error) error {
	for {
		m, merr := r.lad.Next()
		if merr != nil {
			return err
		}
		if m.Kind == child.KindFailed || m.Kind == child.KindTailFailed {
			return r.failure(m)
		}
		if m.Kind == child.KindWarn {
			r.warn(ctx, m)
		}
	}
}

func (r *run) warn(ctx context.Context, m child.Message) {
	ctxlog.From(ctx).Warn("went on without an operation of the plan", "operation", r.opText(int(m.Op)), ctxlog.Error, unix.Errno(m.Value).Error())
}

// raiseLimits lifts hard limits for a child in a user namespace, which cannot.
func (r *run) raiseLimits() error {
	if r.args.Maps == nil || r.args.Unprivileged {
		return nil
	}
	for _, o := range r.args.Plan.Ops {
		limits, ok := o.(plan.Limits)
		if !ok {
			continue
		}
		for _, l := range limits.List {
			var old unix.Rlimit
			if err := unix.Prlimit(r.pid, l.Resource, nil, &old); err != nil {
				return os.NewSyscallError("prlimit", err)
			}
			if l.Hard > old.Max {
				old.Max = l.Hard
				if err := unix.Prlimit(r.pid, l.Resource, &old, nil); err != nil {
					return fmt.Errorf("raise limit %s: prlimit: %w", l.Name, err)
				}
			}
		}
	}
	return nil
}

// setOOMScore sets the score. Lowering it takes CAP_SYS_RESOURCE; without, it stays at
// the runtime's own, which the log says.
func setOOMScore(ctx context.Context, pid, score int) error {
	path := "/proc/" + strconv.Itoa(pid) + "/oom_score_adj"
	err := os.WriteFile(path, []byte(strconv.Itoa(score)), 0)
	if errors.Is(err, os.ErrPermission) {
		ctxlog.From(ctx).Warn("oom_score_adj cannot be lowered without CAP_SYS_RESOURCE: it stays", "wanted", score)
		return nil
	}
	return err
}

func copyMask(set *unix.CPUSet, mask []uint64) {
	for i, w := range mask {
		for bit := range 64 {
			if w&(1<<bit) != 0 {
				set.Set(64*i + bit)
			}
		}
	}
}
