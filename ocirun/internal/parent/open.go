package parent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"strata/ocirun/internal/ladder"
	"strata/ocirun/internal/lower"
	"strata/ocirun/internal/plan"
	"strata/pkg/linux/inroot"
	"strata/pkg/linux/memfd"
	"strata/pkg/linux/userns"
)

// prepare opens everything and writes the program.
func (r *run) prepare() error {
	a := r.args
	r.fds = lower.Fds{
		Fifo: -1, ConsoleSocket: -1, Task: -1, HookState: -1, Preserve: a.Preserve,
		ByOp: map[int]int{}, IDMaps: map[int]int{}, Dirs: map[int]bool{},
	}
	proc, err := hostProc()
	if err != nil {
		return err
	}
	r.fds.HostProc = r.keep(proc)
	if r.lad, err = ladder.New(3 + a.Preserve); err != nil {
		return err
	}
	r.fds.Ladder, r.fds.LadderParent = int(r.lad.Child.Fd()), r.lad.FD()
	if a.FIFO != "" {
		if err := r.openFIFO(); err != nil {
			return err
		}
	}
	if a.ConsoleSocket != nil {
		r.fds.ConsoleSocket = int(a.ConsoleSocket.Fd())
	}
	if a.Task != nil {
		r.fds.Task = int(a.Task.Fd())
	}
	r.fds.Chown = streams()
	for i, o := range a.Plan.Ops {
		if err := r.openOp(i, o); err != nil {
			return err
		}
	}
	r.prog, err = lower.Lower(a.Plan, r.fds, lower.Options{Filter: a.Filter, Foreground: a.Foreground})
	return err
}

func (r *run) keep(f *os.File) int {
	r.open = append(r.open, f)
	return int(f.Fd())
}

// hostProc opens /proc and checks that it is procfs.
func hostProc() (*os.File, error) {
	fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/proc", Err: err}
	}
	f := os.NewFile(uintptr(fd), "/proc")
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.PROC_SUPER_MAGIC {
		return nil, errors.Join(fmt.Errorf("/proc of the host is not procfs: %w", errors.Join(err, unix.EINVAL)), f.Close())
	}
	return f, nil
}

// openFIFO opens the start fifo for reading and writing, so that it never ends and the
// open does not wait.
func (r *run) openFIFO() error {
	f, err := os.OpenFile(r.args.FIFO, os.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3+r.args.Preserve)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	high := os.NewFile(uintptr(n), r.args.FIFO)
	r.fds.Fifo = r.keep(high)
	// The os package may have made it non-blocking; the child waits in read(2).
	return unix.SetNonblock(r.fds.Fifo, false)
}

// streams returns the standard streams that are not the null device.
func streams() []int {
	var out []int
	for fd := range 3 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			continue
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			continue
		}
		out = append(out, fd)
	}
	return out
}

// openOp opens what an operation takes from the host.
func (r *run) openOp(i int, o plan.Op) error {
	switch o := o.(type) {
	case plan.Join:
		f, err := os.Open(o.Path)
		if err != nil {
			return fmt.Errorf("%s: %w", o, err)
		}
		r.fds.ByOp[i] = r.keep(f)
	case plan.Rootfs:
		return r.openTree(i, o, o.Source, true)
	case plan.Bind:
		if o.IDMap != nil {
			f, err := userns.Open(userns.Maps{UID: o.IDMap.UID, GID: o.IDMap.GID})
			if err != nil {
				return fmt.Errorf("%s: %w", o, err)
			}
			r.fds.IDMaps[i] = r.keep(f)
		}
		return r.openBind(i, o)
	case plan.Filesystem:
		if o.Type == "tmpfs" {
			return r.inheritMode(i, o)
		}
	case plan.Pivot:
		if o.Move {
			mounts, err := procMounts(r.rootfs())
			if err != nil {
				return err
			}
			r.fds.ProcMounts = mounts
		}
	case plan.CopyUp:
		f, err := copyUp(o, r.rootfs())
		if err != nil {
			return fmt.Errorf("%s: %w", o, err)
		}
		r.fds.ByOp[i] = r.keep(f)
	case plan.RunHook:
		if r.state == nil {
			f, err := memfd.New("state")
			if err != nil {
				return err
			}
			r.state = f
			r.fds.HookState = r.keep(f)
		}
	}
	return nil
}

// openBind opens the source of a bind mount, if the child may not be able to: as root of
// a user namespace, or because the mount shall stay in the peer group of the host's.
// Otherwise the child opens it, and sees what earlier mounts have put there.
func (r *run) openBind(i int, o plan.Bind) error {
	dest, err := r.throughDangling(o.Dest)
	if err != nil {
		return err
	}
	if dest != o.Dest {
		o.Dest = dest
		r.args.Plan.Ops[i] = o
	}
	user := r.args.Plan.Flags&unix.CLONE_NEWUSER != 0 || joinsUser(r.args.Plan)
	inside := strings.HasPrefix(o.Source+"/", r.rootfs()+"/")
	if inside || r.args.Unprivileged || !user && o.Propagation != unix.MS_SHARED {
		return nil
	}
	st, err := os.Stat(o.Source)
	if err != nil {
		return fmt.Errorf("error mounting %q to rootfs at %q: %w", o.Source, o.Dest, err)
	}
	r.fds.Dirs[i] = st.IsDir()
	if err := r.openTree(i, o, o.Source, o.Recursive); err != nil || o.IDMap == nil {
		return err
	}
	// Only the owner of the filesystem may map its ids: not a user namespace's root.
	flags := uint(unix.AT_EMPTY_PATH)
	if o.IDMap.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(r.fds.IDMaps[i])}
	if err := unix.MountSetattr(r.fds.ByOp[i], "", flags, attr); err != nil {
		return fmt.Errorf("%s: mount_setattr: %w", o, err)
	}
	delete(r.fds.IDMaps, i) // done
	return nil
}

func joinsUser(p *plan.Plan) bool {
	for _, o := range p.Ops {
		if _, ok := o.(plan.BecomeRoot); ok {
			return true
		}
	}
	return false
}

// inheritMode gives a tmpfs without a mode of its own that of the directory it hides,
// as runc does.
func (r *run) inheritMode(i int, o plan.Filesystem) error {
	for _, d := range o.Data {
		if strings.HasPrefix(d, "mode=") {
			return nil
		}
	}
	for _, e := range r.args.Plan.Ops[:i] {
		if f, ok := e.(plan.Filesystem); ok && strings.HasPrefix(o.Dest, f.Dest+"/") {
			return nil // the directory is in a mount that is not there yet
		}
	}
	root, err := inroot.Open(r.rootfs())
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := root.OpenFile(o.Dest, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil // it will be made
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	o.Data = append(slices.Clone(o.Data), "mode="+strconv.FormatUint(uint64(st.Mode&0o7777), 8))
	r.args.Plan.Ops[i] = o
	return nil
}

func (r *run) rootfs() string {
	for _, o := range r.args.Plan.Ops {
		if o, ok := o.(plan.Rootfs); ok {
			return o.Source
		}
	}
	return ""
}

// openTree copies mounts of the host. Without privilege the child does it, once it has
// its user namespace.
func (r *run) openTree(i int, o plan.Op, source string, recursive bool) error {
	if r.args.Unprivileged {
		return nil
	}
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return fmt.Errorf("%s: %w", o, &os.PathError{Op: "open_tree", Path: source, Err: err})
	}
	r.fds.ByOp[i] = r.keep(os.NewFile(uintptr(fd), source))
	return nil
}

// closeInherited closes what the child has now.
func (r *run) closeInherited() {
	for _, f := range r.open {
		_ = f.Close()
	}
	r.open = nil
	if r.prog != nil {
		if r.prog.TailFile != nil {
			_ = r.prog.TailFile.Close()
		}
	}
}

func (r *run) closeAll() {
	r.closeInherited()
	if r.lad != nil {
		_ = r.lad.Close()
	}
}
