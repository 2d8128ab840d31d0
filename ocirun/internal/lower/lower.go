package lower

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/ocirun/internal/child"
	"strata/ocirun/internal/plan"
	"strata/pkg/linux/seccompbpf"
)

// The values of a KindStage message: where the child stands on the ladder.
const (
	StageMaps   = 1 + iota // waits for its id maps
	StageHooks             // waits for the host's hooks
	StageReady             // is created, waits for the start
	StageNotify            // the seccomp listener follows with SCM_RIGHTS
)

// Fds are the descriptors that the child inherits; -1 where there is none.
type Fds struct {
	// HostProc is the host's /proc, verified.
	HostProc int
	// Ladder is the child's end, LadderParent the other, to be closed.
	Ladder, LadderParent int
	// Fifo is read for the start; both it and Ladder are above the preserved ones.
	Fifo int
	// ConsoleSocket takes the terminal's master.
	ConsoleSocket int
	// Task is the pidfd of the init process that an exec joins.
	Task int
	// HookState has the state that hooks read.
	HookState int
	// ByOp are the namespace, mount or id map that an operation needs, by its index.
	ByOp map[int]int
	// IDMaps are user namespaces, by operation.
	IDMaps map[int]int
	// Dirs says which binds have a directory as their source; where it says nothing, the
	// child looks.
	Dirs map[int]bool
	// Preserve is the number of descriptors from 3 on that the program gets.
	Preserve int
	// ProcMounts are where the host has procfs and sysfs mounted, for a root that is moved
	// rather than pivoted to.
	ProcMounts []string
	// Chown are the standard streams to give to the container's user.
	Chown []int
}

// Program is a plan made ready to run.
type Program struct {
	*child.Builder
	// Tail is nil if the machine executes the program.
	Tail *child.Tail
	// TailFile is the tail's image. Close it when the child runs.
	TailFile *os.File
}

type lowerer struct {
	b       *child.Builder
	p       *plan.Plan
	fds     Fds
	filter  []seccompbpf.Insn
	root    child.Reg // the rootfs; 0 before there is one
	null    child.Reg // the host's /dev/null; 0 before it is needed
	empty   child.Reg // an empty filesystem that masks directories; 0 before it is needed
	argv    child.Ptr // the program's path, then its arguments
	path    child.Reg // the program's path once found
	keepFDs bool      // the parent stays: the ladder is kept open over the start
	i       int       // index of the operation
	lookOp  int       // index of LookPath
}

// Options say what a program depends on beside plan and descriptors.
type Options struct {
	Filter []seccompbpf.Insn
	// Foreground keeps the ladder open until the execve.
	Foreground bool
}

// Lower writes the program of p.
func Lower(p *plan.Plan, fds Fds, o Options) (*Program, error) {
	b, err := child.NewBuilder()
	if err != nil {
		return nil, err
	}
	l := &lowerer{b: b, p: p, fds: fds, filter: o.Filter, keepFDs: o.Foreground}
	l.path = b.Reg()
	out := &Program{Builder: b}
	b.Sys(unix.SYS_CLOSE, child.Imm(fds.LadderParent)).Ignore()
	b.Sys(unix.SYS_UMASK, child.Imm(0))
	n := l.finishStart()
	for l.i = 0; l.i < n; l.i++ {
		b.Op(l.i)
		if err := l.op(p.Ops[l.i]); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Ops[l.i], err)
		}
	}
	l.i = n
	if p.Direct != "" || !child.Supported() {
		err = l.direct()
	} else {
		err = l.withTail(out)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// finishStart is the index of the first operation that the tail makes.
func (l *lowerer) finishStart() int {
	for i, o := range l.p.Ops {
		switch o.(type) {
		case plan.Limits, plan.Identity:
			return i
		}
	}
	return len(l.p.Ops)
}

func (l *lowerer) op(o plan.Op) error {
	b := l.b
	switch o := o.(type) {
	case plan.Undumpable:
		b.Sys(unix.SYS_PRCTL, child.Imm(unix.PR_SET_DUMPABLE), child.Imm(0), child.Imm(0), child.Imm(0), child.Imm(0))
	case plan.AwaitMaps:
		l.awaitMaps()
	case plan.BecomeRoot:
		l.becomeRoot()
	case plan.Join:
		b.Sys(unix.SYS_SETNS, child.Imm(l.fds.ByOp[l.i]), child.Imm(plan.CloneFlag(o.Type)))
	case plan.JoinTask:
		b.Sys(unix.SYS_SETNS, child.Imm(l.fds.Task), child.Imm(o.Flags))
	case plan.TimeOffsets:
		l.timeOffsets(o)
	case plan.Fork:
		l.fork(o)
	case plan.Session:
		b.Sys(unix.SYS_SETSID)
	case plan.Keyring:
		l.keyring(o)
	case plan.LoopbackUp:
		l.loopbackUp()
	case plan.Hostname:
		b.Sys(unix.SYS_SETHOSTNAME, b.Str(o.Name).Arg(), child.Imm(len(o.Name)))
	case plan.Domainname:
		b.Sys(unix.SYS_SETDOMAINNAME, b.Str(o.Name).Arg(), child.Imm(len(o.Name)))
	case plan.CgroupNamespace:
		b.Wait()
		if o.ResetAffinity {
			// To all processors of the cgroup, whatever the runtime was pinned to.
			all := make([]uint64, 128)
			for i := range all {
				all[i] = ^uint64(0)
			}
			b.Sys(unix.SYS_SCHED_SETAFFINITY, child.Imm(0), child.Imm(8*len(all)), b.Words(all...).Arg()).Ignore()
		}
		if o.New {
			b.Sys(unix.SYS_UNSHARE, child.Imm(unix.CLONE_NEWCGROUP))
		}
	case plan.Sysctl:
		l.procWrite("sys/"+plan.SysctlPath(o.Name), o.Value)
	case plan.Personality:
		b.Sys(unix.SYS_PERSONALITY, child.Imm(o.Persona))
	case plan.Scheduler:
		l.scheduler(o)
	case plan.IOPriority:
		b.Sys(unix.SYS_IOPRIO_SET, child.Imm(1), child.Imm(0), child.Imm(o.Value)) // IOPRIO_WHO_PROCESS
	case plan.MemoryPolicy:
		mask := b.Words(append(o.Nodes, 0)...)
		b.Sys(unix.SYS_SET_MEMPOLICY, child.Imm(o.Mode), mask.Arg(), child.Imm(64*len(o.Nodes)+1))
	case plan.Affinity:
		b.Sys(unix.SYS_SCHED_SETAFFINITY, child.Imm(0), child.Imm(8*len(o.Mask)), b.Words(o.Mask...).Arg())
	case plan.HostHooks:
		b.Report(child.KindStage, child.Imm(StageHooks))
		b.Wait()
	case plan.RunHook:
		l.hook(o)
	case plan.Stdio:
		for _, fd := range l.fds.Chown {
			b.Sys(unix.SYS_FCHOWN, child.Imm(fd), child.Imm(o.UID), child.Imm(-1)).Ignore()
		}
	case plan.Chdir:
		l.chdir(o)
	case plan.LookPath:
		l.lookOp = l.i
		l.lookPath(o)
	case plan.Label:
		l.label(o)
	default:
		return l.fileOp(o)
	}
	return nil
}

func (l *lowerer) fileOp(o plan.Op) error {
	switch o := o.(type) {
	case plan.Rootfs:
		l.rootfs(o)
	case plan.Filesystem:
		l.filesystem(o)
	case plan.CopyUp:
		l.moveTree(child.Imm(l.fds.ByOp[l.i]), o.Dest, true)
	case plan.Bind:
		l.bind(o)
	case plan.Remount:
		l.remount(o)
	case plan.Device:
		l.device(o)
	case plan.Link:
		l.link(o)
	case plan.Console:
		l.console(o)
	case plan.Mask:
		l.mask(o)
	case plan.ReadOnly:
		l.readOnly(o)
	case plan.Pivot:
		l.pivot(o)
	case plan.RootAttrs:
		l.rootAttrs(o)
	default:
		return fmt.Errorf("operation %T: %w", o, errdefs.ErrNotImplemented)
	}
	return nil
}

func (l *lowerer) awaitMaps() {
	l.b.Report(child.KindStage, child.Imm(StageMaps))
	l.b.Wait()
	l.becomeRoot()
}

// becomeRoot becomes user 0. A namespace without one keeps the user as it is.
func (l *lowerer) becomeRoot() {
	zero := child.Imm(0)
	l.b.Sys(unix.SYS_SETGROUPS, zero, zero).Ignore() // may be denied: setgroups(2)
	l.b.Sys(unix.SYS_SETRESGID, zero, zero, zero).Ignore(unix.EINVAL)
	l.b.Sys(unix.SYS_SETRESUID, zero, zero, zero).Ignore(unix.EINVAL)
}

func (l *lowerer) timeOffsets(o plan.TimeOffsets) {
	l.b.Sys(unix.SYS_UNSHARE, child.Imm(unix.CLONE_NEWTIME))
	if o.Text != "" {
		// Becoming root made the process not dumpable, and its /proc files the host's root's.
		// Only a new user namespace is joined yet, so nobody is there to look.
		if l.p.Flags&unix.CLONE_NEWUSER != 0 {
			l.b.Sys(unix.SYS_PRCTL, child.Imm(unix.PR_SET_DUMPABLE), child.Imm(1), child.Imm(0), child.Imm(0), child.Imm(0))
		}
		l.procWrite("self/timens_offsets", o.Text)
	}
}

// fork goes on in a new child of the parent; this process reports its pid and ends.
func (l *lowerer) fork(o plan.Fork) {
	b := l.b
	r := b.Reg()
	on := b.Label()
	zero := child.Imm(0)
	b.Sys(unix.SYS_CLONE, child.Imm(o.Flags|unix.CLONE_PARENT|uint64(unix.SIGCHLD)), zero, zero, zero, zero).Into(r)
	b.JumpEq(r.Arg(), zero, on)
	b.Report(child.KindPID, r.Arg())
	b.Exit(0)
	b.Mark(on)
}

// keyring joins a session keyring and lets the user search it, as runc does.
// Source: keyctl(2).
func (l *lowerer) keyring(o plan.Keyring) {
	const join, setPerm, perm = 1, 5, 0x3f1b0000
	b := l.b
	r := b.Reg()
	done := b.Label()
	b.Sys(unix.SYS_KEYCTL, child.Imm(join), b.Str(o.Name).Arg()).Into(r).On(unix.ENOSYS, done).OnAny(done).Warn()
	b.Sys(unix.SYS_KEYCTL, child.Imm(setPerm), r.Arg(), child.Imm(perm)).Ignore()
	b.Mark(done)
}

func (l *lowerer) loopbackUp() {
	b := l.b
	r := b.Reg()
	req := make([]byte, 40)
	copy(req, "lo")
	binary.NativeEndian.PutUint16(req[16:], unix.IFF_UP|unix.IFF_RUNNING)
	b.Sys(unix.SYS_SOCKET, child.Imm(unix.AF_INET), child.Imm(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), child.Imm(0)).Into(r)
	b.Sys(unix.SYS_IOCTL, r.Arg(), child.Imm(unix.SIOCSIFFLAGS), b.Bytes(req).Arg())
	b.Sys(unix.SYS_CLOSE, r.Arg())
	b.Free(r)
}

func (l *lowerer) scheduler(o plan.Scheduler) {
	a := o.Attr
	buf := make([]byte, 48)
	le := binary.NativeEndian
	le.PutUint32(buf, a.Size)
	le.PutUint32(buf[4:], a.Policy)
	le.PutUint64(buf[8:], a.Flags)
	le.PutUint32(buf[16:], uint32(a.Nice))
	le.PutUint32(buf[20:], a.Priority)
	le.PutUint64(buf[24:], a.Runtime)
	le.PutUint64(buf[32:], a.Deadline)
	le.PutUint64(buf[40:], a.Period)
	l.b.Sys(unix.SYS_SCHED_SETATTR, child.Imm(0), l.b.Bytes(buf).Arg(), child.Imm(0))
}

// procWrite writes a file of the host's /proc, which shows the namespaces of whoever
// reads it.
func (l *lowerer) procWrite(path, value string) {
	b := l.b
	r := b.Reg()
	resolve := uint64(unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV)
	if path[:5] != "self/" {
		resolve |= unix.RESOLVE_NO_SYMLINKS
	}
	b.Sys(unix.SYS_OPENAT2, child.Imm(l.fds.HostProc), b.Str(path).Arg(), l.how(unix.O_WRONLY|unix.O_CLOEXEC, 0, resolve), child.Imm(24)).Into(r)
	b.Sys(unix.SYS_WRITE, r.Arg(), b.Str(value).Arg(), child.Imm(len(value)))
	b.Sys(unix.SYS_CLOSE, r.Arg())
	b.Free(r)
}

// label sets the LSM's label for the next execve.
func (l *lowerer) label(o plan.Label) {
	if o.AppArmor != "" {
		l.procWrite("self/attr/apparmor/exec", "exec "+o.AppArmor)
	}
	if o.SELinux != "" {
		l.procWrite("self/attr/exec", o.SELinux)
	}
}

// hook runs a program with the state on its standard input and waits for it.
func (l *lowerer) hook(o plan.RunHook) {
	b := l.b
	zero := child.Imm(0)
	pid, fd, st := b.Reg(), b.Reg(), b.Reg()
	parent, late, done := b.Label(), b.Label(), b.Label()
	b.Sys(unix.SYS_CLONE, child.Imm(int(unix.SIGCHLD)), zero, zero, zero, zero).Into(pid)
	b.JumpNe(pid.Arg(), zero, parent)
	failed := b.Label()
	b.Sys(unix.SYS_LSEEK, child.Imm(l.fds.HookState), zero, child.Imm(unix.SEEK_SET)).OnAny(failed)
	b.Sys(unix.SYS_DUP3, child.Imm(l.fds.HookState), zero, zero).OnAny(failed)
	b.Sys(unix.SYS_DUP3, child.Imm(2), child.Imm(1), zero).OnAny(failed)
	args := o.Hook.Args
	if len(args) == 0 {
		args = []string{o.Hook.Path}
	}
	b.Sys(unix.SYS_EXECVE, b.Str(o.Hook.Path).Arg(), b.Strs(args).Arg(), b.Strs(o.Hook.Env).Arg()).OnAny(failed)
	b.Mark(failed)
	b.Exit(127)
	b.Mark(parent)
	timeout := zero
	if o.Hook.Timeout != nil {
		timeout = b.Words(uint64(*o.Hook.Timeout), 0).Arg()
	}
	b.Sys(unix.SYS_PIDFD_OPEN, pid.Arg(), zero).Into(fd)
	poll := b.Buf(8)
	b.Store32(poll, fd.Arg())
	b.Store32(poll.At(4), child.Imm(unix.POLLIN))
	b.Sys(unix.SYS_PPOLL, poll.Arg(), child.Imm(1), timeout, zero, zero).Into(st)
	b.Sys(unix.SYS_CLOSE, fd.Arg())
	b.JumpEq(st.Arg(), zero, late)
	status := b.Buf(8)
	b.Sys(unix.SYS_WAIT4, pid.Arg(), status.Arg(), zero, zero)
	b.Load32(st, status)
	b.JumpEq(st.Arg(), zero, done)
	b.Fail(child.FailHook)
	b.Mark(late)
	b.Sys(unix.SYS_KILL, pid.Arg(), child.Imm(int(unix.SIGKILL)))
	b.Fail(child.FailHookTime)
	b.Mark(done)
	b.Free(pid)
}
