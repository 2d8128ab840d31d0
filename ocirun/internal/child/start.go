package child

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These three are what the syscall package itself calls around a fork: they block
// signals, keep the scheduler out and put the child's signal handlers back. The Go
// team keeps them reachable by linkname (runtime/proc.go names gVisor as the user).

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// Clone says how the child is made.
type Clone struct {
	// Flags are CLONE_NEW* flags.
	Flags uint64
	// Cgroup, if not nil, is the directory of the v2 cgroup that the child starts in.
	Cgroup *os.File
	// Ladder is the child's end of the ladder.
	Ladder *os.File
}

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// Start makes the child and returns its pid and a pidfd. The caller's thread must be
// the one whose namespaces the child shall start from.
//
// Source: clone(2); Linux 5.7 for CLONE_INTO_CGROUP, 5.2 for CLONE_PIDFD.
func (b *Builder) Start(c Clone) (pid int, pidfd *os.File, err error) {
	if err := b.link(); err != nil {
		return 0, nil, err
	}
	var fd int32 = -1
	args := cloneArgs{
		flags:      c.Flags | unix.CLONE_PIDFD,
		pidfd:      uint64(uintptr(unsafe.Pointer(&fd))),
		exitSignal: uint64(unix.SIGCHLD),
	}
	if c.Cgroup != nil {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(c.Cgroup.Fd())
	}
	m := &machine{
		base:   unsafe.Pointer(unsafe.SliceData(b.mem)),
		code:   unsafe.Pointer(unsafe.SliceData(b.code)),
		ladder: c.Ladder.Fd(),
		pc:     1,
	}
	syscall.ForkLock.Lock()
	n, errno := fork(&args, m)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(b)
	runtime.KeepAlive(c.Cgroup)
	runtime.KeepAlive(c.Ladder)
	if errno != 0 {
		return 0, nil, os.NewSyscallError("clone3", errno)
	}
	return int(n), os.NewFile(uintptr(fd), "pidfd"), nil
}

// fork returns in the parent only.
//
//go:noinline
//go:norace
//go:nocheckptr
func fork(args *cloneArgs, m *machine) (uintptr, unix.Errno) {
	beforeFork()
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	m.main()
	return 0, 0
}
