package parent

import (
	"fmt"

	"golang.org/x/sys/unix"

	"strata/ocirun/internal/child"
	"strata/ocirun/internal/plan"
)

// ExecError says that the execve of the program failed. The process has told its own
// standard error already.
type ExecError struct {
	Program string
	Err     error
}

func (e *ExecError) Error() string { return "exec " + e.Program + ": " + e.Err.Error() }

// Unwrap returns the errno.
func (e *ExecError) Unwrap() error { return e.Err }

// failure words what the child reported.
func (r *run) failure(m child.Message) error {
	op := int(m.Op)
	var nr int
	if m.Kind == child.KindTailFailed {
		op, nr = r.prog.Tail.Entry(int(m.PC))
	} else {
		nr = r.prog.Syscall(int(m.PC))
	}
	if op >= 0 && op < len(r.args.Plan.Ops) {
		switch o := r.args.Plan.Ops[op].(type) {
		case plan.LookPath:
			return lookPathError(o, m.Value)
		case plan.Exec:
			if nr == unix.SYS_EXECVE {
				return &ExecError{o.Args[0], unix.Errno(m.Value)}
			}
		case plan.Bind:
			if nr == unix.SYS_OPEN_TREE {
				return fmt.Errorf("error mounting %q to rootfs at %q: open %s: %w", o.Source, o.Dest, o.Source, unix.Errno(m.Value))
			}
		case plan.Chdir:
			if ownFailure(m.Value) == "" {
				return fmt.Errorf("chdir to cwd (%q) set in config.json failed: %w", o.Path, unix.Errno(m.Value))
			}
		case plan.Label:
			if o.AppArmor != "" && m.Value == uint32(unix.ENOENT) {
				return fmt.Errorf("apparmor profile %q is not loaded", o.AppArmor)
			}
		case plan.RunHook:
			if why := ownFailure(m.Value); why != "" {
				return fmt.Errorf("error running %s hook #%d: %s: %s", o.Name, o.Index, o.Hook.Path, why)
			}
		case plan.Filesystem:
			if (o.Type == "proc" || o.Type == "sysfs") && (m.Value == uint32(unix.ELOOP) || m.Value == uint32(unix.ENOTDIR)) {
				return fmt.Errorf("filesystem %q must be mounted on ordinary directory: %s: %w", o.Type, o.Dest, unix.Errno(m.Value))
			}
		}
	}
	text := fmt.Sprintf("op %d %s", op, r.opText(op))
	if name := syscallName(nr); name != "" {
		text += ": " + name
	}
	if why := ownFailure(m.Value); why != "" {
		return fmt.Errorf("%s: %s", text, why)
	}
	return fmt.Errorf("%s: %w", text, unix.Errno(m.Value))
}

func (r *run) opText(i int) string {
	if i < 0 || i >= len(r.args.Plan.Ops) {
		return "prologue"
	}
	return r.args.Plan.Ops[i].String()
}

// lookPathError has the words of Go's exec.LookPath, which dockerd and others look for
// to tell 127 from 126.
func lookPathError(o plan.LookPath, value uint32) error {
	switch value {
	case child.FailNotFound:
		return fmt.Errorf("exec: %q: executable file not found in $PATH", o.Name)
	case child.FailIsDir:
		return fmt.Errorf("exec: %q: %w", o.Name, unix.EISDIR)
	case uint32(unix.ENOENT), uint32(unix.ENOTDIR), uint32(unix.ELOOP):
		return fmt.Errorf("exec: %q: stat %s: %w", o.Name, o.Name, unix.Errno(value))
	}
	return fmt.Errorf("exec: %q: %w", o.Name, unix.Errno(value))
}

// ownFailure words the failures that are no errno.
func ownFailure(value uint32) string {
	switch value {
	case child.FailNotProc:
		return "not the filesystem it must be"
	case child.FailCwd:
		return "current working directory is outside of container mount namespace root -- possible container breakout detected"
	case child.FailNotDevice:
		return "not the device it must be"
	case child.FailHook:
		return "it failed"
	case child.FailHookTime:
		return "it took too long and was killed"
	}
	return ""
}

// syscallName names the calls that programs are made of.
func syscallName(nr int) string {
	for _, s := range [...]struct {
		nr   int
		name string
	}{
		{unix.SYS_OPENAT2, "openat2"},
		{unix.SYS_OPENAT, "openat"},
		{unix.SYS_OPEN_TREE, "open_tree"},
		{unix.SYS_MOVE_MOUNT, "move_mount"},
		{unix.SYS_MOUNT_SETATTR, "mount_setattr"},
		{unix.SYS_MOUNT, "mount"},
		{unix.SYS_MKDIRAT, "mkdirat"},
		{unix.SYS_MKNODAT, "mknodat"},
		{unix.SYS_SYMLINKAT, "symlinkat"},
		{unix.SYS_UNLINKAT, "unlinkat"},
		{unix.SYS_FCHOWNAT, "fchownat"},
		{unix.SYS_FCHDIR, "fchdir"},
		{unix.SYS_PIVOT_ROOT, "pivot_root"},
		{unix.SYS_UMOUNT2, "umount2"},
		{unix.SYS_SETNS, "setns"},
		{unix.SYS_UNSHARE, "unshare"},
		{unix.SYS_CLONE, "clone"},
		{unix.SYS_SETHOSTNAME, "sethostname"},
		{unix.SYS_SETDOMAINNAME, "setdomainname"},
		{unix.SYS_IOCTL, "ioctl"},
		{unix.SYS_SENDMSG, "sendmsg"},
		{unix.SYS_WRITE, "write"},
		{unix.SYS_PRLIMIT64, "prlimit64"},
		{unix.SYS_PRCTL, "prctl"},
		{unix.SYS_CAPSET, "capset"},
		{unix.SYS_SECCOMP, "seccomp"},
		{unix.SYS_SETGROUPS, "setgroups"},
		{unix.SYS_SETRESGID, "setresgid"},
		{unix.SYS_SETRESUID, "setresuid"},
		{unix.SYS_EXECVEAT, "execveat"},
		{unix.SYS_EXECVE, "execve"},
		{unix.SYS_SCHED_SETATTR, "sched_setattr"},
		{unix.SYS_IOPRIO_SET, "ioprio_set"},
		{unix.SYS_SET_MEMPOLICY, "set_mempolicy"},
		{unix.SYS_SCHED_SETAFFINITY, "sched_setaffinity"},
		{unix.SYS_GETCWD, "getcwd"},
		{unix.SYS_STATX, "statx"},
		{unix.SYS_FACCESSAT, "faccessat"},
	} {
		if s.nr == nr {
			return s.name
		}
	}
	return ""
}
