package lower

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"

	"strata/ocirun/internal/child"
	"strata/ocirun/internal/plan"
)

// setattr changes the mount that fd is the root of. Source: mount_setattr(2).
func (l *lowerer) setattr(fd child.Arg, set, clear, propagation uint64, userns int, recursive bool) child.Step { //nolint:revive // the parts of one thing, used once
	flags := unix.AT_EMPTY_PATH
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := l.b.Words(set, clear, propagation, uint64(userns))
	return l.b.Sys(unix.SYS_MOUNT_SETATTR, fd, l.b.Str("").Arg(), child.Imm(flags), attr.Arg(), child.Imm(32))
}

// openTree makes a detached copy of the mounts at a path of the host, in tree.
func (l *lowerer) openTree(tree child.Reg, path string, recursive bool) child.Step {
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return l.b.Sys(unix.SYS_OPEN_TREE, child.Imm(unix.AT_FDCWD), l.b.Str(path).Arg(), child.Imm(flags)).Into(tree)
}

// cloneFD makes a detached copy of the mount at an open file.
func (l *lowerer) cloneFD(tree, fd child.Reg, recursive bool) {
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	l.b.Sys(unix.SYS_OPEN_TREE, fd.Arg(), l.b.Str("").Arg(), child.Imm(flags)).Into(tree)
}

// move attaches a detached mount to an open file or directory.
func (l *lowerer) move(tree child.Arg, target child.Reg) {
	empty := l.b.Str("").Arg()
	l.b.Sys(unix.SYS_MOVE_MOUNT, tree, empty, target.Arg(), empty, child.Imm(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// moveTree attaches a detached mount to a path of the container, made if missing.
func (l *lowerer) moveTree(tree child.Arg, dest string, dir bool) {
	r := l.b.Reg()
	if dir {
		l.mkdirs(r, dest)
	} else {
		l.file(r, dest)
	}
	l.move(tree, r)
	l.close(r)
	l.b.Free(r)
}

// rootfs copies the rootfs' mounts and attaches them over the rootfs' own path. A user
// namespace whose root may not reach that path gets them over "/" instead.
func (l *lowerer) rootfs(o plan.Rootfs) {
	b := l.b
	attr := b.Words(0, 0, unix.MS_SLAVE, 0)
	b.Sys(unix.SYS_MOUNT_SETATTR, child.Imm(unix.AT_FDCWD), b.Str("/").Arg(), child.Imm(unix.AT_RECURSIVE), attr.Arg(), child.Imm(32))
	root := b.Reg()
	if fd, ok := l.fds.ByOp[l.i]; ok {
		b.Move(root, child.Imm(fd))
	} else {
		l.openTree(root, o.Source, true)
	}
	if o.Propagation != unix.MS_SHARED {
		l.setattr(root.Arg(), 0, 0, o.Propagation, 0, true)
	}
	over, done := b.Label(), b.Label()
	empty := b.Str("").Arg()
	b.Sys(unix.SYS_MOVE_MOUNT, root.Arg(), empty, child.Imm(unix.AT_FDCWD), b.Str(o.Source).Arg(), child.Imm(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)).On(unix.EACCES, over)
	b.Jump(done)
	b.Mark(over)
	b.Sys(unix.SYS_MOVE_MOUNT, root.Arg(), empty, child.Imm(unix.AT_FDCWD), b.Str("/").Arg(), child.Imm(unix.MOVE_MOUNT_F_EMPTY_PATH))
	b.Mark(done)
	l.root = root
}

// mountFlags are the flags of mount(2) for attributes.
func mountFlags(a plan.Attrs) uint64 {
	set := a.Set | a.RecSet
	var f uint64
	for _, m := range [...]struct{ attr, flag uint64 }{
		{unix.MOUNT_ATTR_RDONLY, unix.MS_RDONLY},
		{unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID},
		{unix.MOUNT_ATTR_NODEV, unix.MS_NODEV},
		{unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC},
		{unix.MOUNT_ATTR_NOATIME, unix.MS_NOATIME},
		{unix.MOUNT_ATTR_STRICTATIME, unix.MS_STRICTATIME},
		{unix.MOUNT_ATTR_NODIRATIME, unix.MS_NODIRATIME},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, unix.MS_NOSYMFOLLOW},
	} {
		if set&m.attr != 0 {
			f |= m.flag
		}
	}
	for _, w := range a.SB {
		switch w {
		case "ro":
			f |= unix.MS_RDONLY
		case "sync":
			f |= unix.MS_SYNCHRONOUS
		case "dirsync":
			f |= unix.MS_DIRSYNC
		case "lazytime":
			f |= unix.MS_LAZYTIME
		case "mand":
			f |= unix.MS_MANDLOCK
		}
	}
	return f
}

// mountOn mounts a new filesystem on an open directory: by going there, so that no
// path is looked up again.
func (l *lowerer) mountOn(dir child.Reg, fstype, source string, flags uint64, data string) child.Step {
	b := l.b
	b.Sys(unix.SYS_FCHDIR, dir.Arg())
	d := child.Imm(0)
	if data != "" {
		d = b.Str(data).Arg()
	}
	return b.Sys(unix.SYS_MOUNT, b.Str(source).Arg(), b.Str(".").Arg(), b.Str(fstype).Arg(), child.Imm(flags), d)
}

func (l *lowerer) filesystem(o plan.Filesystem) {
	b := l.b
	dir := b.Reg()
	if o.Type == "proc" || o.Type == "sysfs" {
		l.ordinaryDir(dir, o.Dest)
	} else {
		l.mkdirs(dir, o.Dest)
	}
	step := l.mountOn(dir, o.Type, o.Source, mountFlags(o.Attrs), strings.Join(o.Data, ","))
	if o.Fallback != "" {
		other, done := b.Label(), b.Label()
		step.On(unix.EPERM, other).On(unix.EBUSY, other)
		b.Jump(done)
		b.Mark(other)
		tree := b.Reg()
		l.openTree(tree, o.Fallback, true)
		l.setattr(tree.Arg(), o.Attrs.Set, 0, unix.MS_SLAVE, 0, true)
		l.move(tree.Arg(), dir)
		l.close(tree)
		b.Mark(done)
	}
	l.close(dir)
	if p := o.Attrs.Propagation; p != 0 {
		l.open(dir, o.Dest, unix.O_PATH|unix.O_DIRECTORY, 0, inRoot)
		l.setattr(dir.Arg(), 0, 0, p, 0, o.Attrs.PropagationRec)
		l.close(dir)
	}
	b.Free(dir)
}

// ordinaryDir is mkdirs for proc and sysfs, whose place must not be a symlink: later
// writes to files below it decide about security.
func (l *lowerer) ordinaryDir(into child.Reg, dest string) {
	b := l.b
	make, done := b.Label(), b.Label()
	strict := uint64(unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS)
	l.open(into, dest, unix.O_PATH|unix.O_DIRECTORY, 0, strict).On(unix.ENOENT, make)
	b.Jump(done)
	b.Mark(make)
	l.mkdirs(into, dest)
	b.Mark(done)
}

// bindFlags are the attributes that a bind with flags does not inherit.
const bindFlags = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC |
	unix.MOUNT_ATTR_NODIRATIME | unix.MOUNT_ATTR_NOSYMFOLLOW

func (l *lowerer) bind(o plan.Bind) {
	b := l.b
	tree := b.Reg()
	if fd, ok := l.fds.ByOp[l.i]; ok {
		b.Move(tree, child.Imm(fd))
	} else {
		l.openTree(tree, o.Source, o.Recursive)
	}
	a := o.Attrs
	first := o.Propagation
	if first == unix.MS_SHARED {
		first = 0 // stays in the peer group of the host's mount
	}
	if o.Recursive {
		if first|a.RecSet|a.RecClear != 0 {
			l.setattr(tree.Arg(), a.RecSet, a.RecClear, first, 0, true)
		}
	} else {
		a.Set, a.Clear = a.Set|a.RecSet, a.Clear|a.RecClear
		if first != 0 {
			l.setattr(tree.Arg(), 0, 0, first, 0, false)
		}
	}
	if a.Set|a.Clear != 0 {
		// As runc has it: a bind with any flag has exactly the flags that it names, as far
		// as those of the source are not locked. Source: runc libcontainer/SPEC and its
		// tests (mounts_sshfs.bats).
		locked, done := b.Label(), b.Label()
		l.setattr(tree.Arg(), a.Set, a.Clear|bindFlags&^a.RecSet, 0, 0, false).On(unix.EPERM, locked)
		b.Jump(done)
		b.Mark(locked)
		l.setattr(tree.Arg(), a.Set, a.Clear, 0, 0, false)
		b.Mark(done)
	}
	if o.IDMap != nil && l.fds.IDMaps[l.i] != 0 {
		l.setattr(tree.Arg(), unix.MOUNT_ATTR_IDMAP, 0, 0, l.fds.IDMaps[l.i], o.IDMap.Recursive)
	}
	if a.Propagation != 0 {
		l.setattr(tree.Arg(), 0, 0, a.Propagation, 0, a.PropagationRec)
	}
	if dir, ok := l.fds.Dirs[l.i]; ok {
		l.moveTree(tree.Arg(), o.Dest, dir)
	} else {
		mode := b.Reg()
		dir, done := b.Label(), b.Label()
		l.stat(tree, mode, 0)
		b.JumpEq(mode.Arg(), child.Imm(unix.S_IFDIR), dir)
		l.moveTree(tree.Arg(), o.Dest, false)
		b.Jump(done)
		b.Mark(dir)
		l.moveTree(tree.Arg(), o.Dest, true)
		b.Mark(done)
	}
	l.close(tree)
	b.Free(tree)
}

func (l *lowerer) remount(o plan.Remount) {
	b := l.b
	r := b.Reg()
	l.open(r, o.Dest, unix.O_PATH, 0, inRoot)
	a := o.Attrs
	if !o.Bind {
		l.mountOn(r, "", "", unix.MS_REMOUNT|mountFlags(a), strings.Join(o.Data, ","))
	} else if a.Set|a.Clear != 0 {
		l.setattr(r.Arg(), a.Set, a.Clear, 0, 0, false)
	}
	if a.RecSet|a.RecClear != 0 {
		l.setattr(r.Arg(), a.RecSet, a.RecClear, 0, 0, true)
	}
	if a.Propagation != 0 {
		l.setattr(r.Arg(), 0, 0, a.Propagation, 0, a.PropagationRec)
	}
	l.close(r)
	b.Free(r)
}

// device makes a node, or binds the host's where nodes cannot be made.
func (l *lowerer) device(o plan.Device) {
	b := l.b
	dir := b.Reg()
	base := l.split(dir, o.Path)
	done := b.Label()
	if !o.Bind {
		types := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}
		bind := b.Label()
		b.Sys(unix.SYS_MKNODAT, dir.Arg(), b.Str(base).Arg(), child.Imm(types[o.Type]|o.Mode), child.Imm(unix.Mkdev(o.Major, o.Minor))).
			On(unix.EPERM, bind).On(unix.EEXIST, done)
		b.Sys(unix.SYS_FCHOWNAT, dir.Arg(), b.Str(base).Arg(), child.Imm(o.UID), child.Imm(o.GID), child.Imm(unix.AT_SYMLINK_NOFOLLOW))
		b.Jump(done)
		b.Mark(bind)
	}
	file, tree := b.Reg(), b.Reg()
	l.create(file, dir, base)
	l.openTree(tree, o.Path, false)
	l.move(tree.Arg(), file)
	l.close(tree)
	l.close(file)
	b.Mark(done)
	l.close(dir)
	b.Free(dir)
}

func (l *lowerer) link(o plan.Link) {
	b := l.b
	dir := b.Reg()
	base := l.split(dir, o.Path)
	if o.Replace {
		b.Sys(unix.SYS_UNLINKAT, dir.Arg(), b.Str(base).Arg(), child.Imm(0)).Ignore(unix.ENOENT)
	}
	b.Sys(unix.SYS_SYMLINKAT, b.Str(o.Target).Arg(), dir.Arg(), b.Str(base).Arg()).Ignore(unix.EEXIST)
	l.close(dir)
	b.Free(dir)
}

// console opens a terminal of the container's own devpts, which is checked to be one.
func (l *lowerer) console(o plan.Console) {
	b := l.b
	if l.root == 0 {
		l.openRoot()
	}
	ptmx, slave, r := b.Reg(), b.Reg(), b.Reg()
	good := b.Label()
	l.open(ptmx, "/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
	buf := b.Buf(128) // struct statfs
	b.Sys(unix.SYS_FSTATFS, ptmx.Arg(), buf.Arg())
	b.Load64(r, buf)
	b.JumpEq(r.Arg(), child.Imm(unix.DEVPTS_SUPER_MAGIC), good)
	b.Fail(child.FailNotDevice)
	b.Mark(good)
	b.Sys(unix.SYS_IOCTL, ptmx.Arg(), child.Imm(unix.TIOCSPTLCK), b.Words(0).Arg())
	b.Sys(unix.SYS_IOCTL, ptmx.Arg(), child.Imm(unix.TIOCGPTPEER), child.Imm(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)).Into(slave)
	if o.Width|o.Height != 0 {
		ws := make([]byte, 8)
		binary.NativeEndian.PutUint16(ws, o.Height)
		binary.NativeEndian.PutUint16(ws[2:], o.Width)
		b.Sys(unix.SYS_IOCTL, ptmx.Arg(), child.Imm(unix.TIOCSWINSZ), b.Bytes(ws).Arg())
	}
	if o.Raw {
		termios := b.Buf(64)
		b.Sys(unix.SYS_IOCTL, slave.Arg(), child.Imm(unix.TCGETS), termios.Arg())
		b.Load32(r, termios.At(4)) // c_oflag
		b.And(r, r.Arg(), child.Imm(^uint32(unix.ONLCR)))
		b.Store32(termios.At(4), r.Arg())
		b.Sys(unix.SYS_IOCTL, slave.Arg(), child.Imm(unix.TCSETS), termios.Arg())
	}
	l.sendFD(child.Imm(l.fds.ConsoleSocket), ptmx, "/dev/ptmx")
	if o.Mount {
		dir, file, tree := b.Reg(), b.Reg(), b.Reg()
		base := l.split(dir, "/dev/console")
		l.create(file, dir, base)
		l.cloneFD(tree, slave, false)
		l.move(tree.Arg(), file)
		l.close(tree)
		l.close(file)
		l.close(dir)
		b.Free(dir)
	}
	b.Sys(unix.SYS_FCHOWN, slave.Arg(), child.Imm(o.UID), child.Imm(-1)).Ignore()
	b.Sys(unix.SYS_IOCTL, slave.Arg(), child.Imm(unix.TIOCSCTTY), child.Imm(0))
	for fd := range 3 {
		b.Sys(unix.SYS_DUP3, slave.Arg(), child.Imm(fd), child.Imm(0))
	}
	l.close(ptmx)
	b.Free(ptmx)
}

// openRoot opens the root of a process that has joined its namespaces.
func (l *lowerer) openRoot() {
	l.root = l.b.Reg()
	l.b.Sys(unix.SYS_OPENAT, child.Imm(unix.AT_FDCWD), l.b.Str("/").Arg(), child.Imm(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC), child.Imm(0)).Into(l.root)
}

// sendFD sends a descriptor over a socket, with a word. Source: unix(7), SCM_RIGHTS.
func (l *lowerer) sendFD(socket child.Arg, fd child.Reg, word string) {
	b := l.b
	control := b.Buf(24)
	b.Store64(control, child.Imm(20)) // cmsg_len: header and one int
	b.Store32(control.At(8), child.Imm(unix.SOL_SOCKET))
	b.Store32(control.At(12), child.Imm(unix.SCM_RIGHTS))
	b.Store32(control.At(16), fd.Arg())
	iov := b.Buf(16)
	b.Store64(iov, b.Str(word).Arg())
	b.Store64(iov.At(8), child.Imm(len(word)))
	msg := b.Buf(56)
	b.Store64(msg.At(16), iov.Arg())
	b.Store64(msg.At(24), child.Imm(1))
	b.Store64(msg.At(32), control.Arg())
	b.Store64(msg.At(40), child.Imm(24))
	b.Sys(unix.SYS_SENDMSG, socket, msg.Arg(), child.Imm(unix.MSG_NOSIGNAL))
}

// mask hides a file behind the host's null device and a directory behind an empty
// filesystem. What is not there needs no hiding.
func (l *lowerer) mask(o plan.Mask) {
	b := l.b
	null := l.hostNull()
	if l.empty == 0 {
		l.empty = b.Reg()
		b.Move(l.empty, child.Imm(0)) // 0 until there is an empty filesystem
	}
	r, mode, tree := b.Reg(), b.Reg(), b.Reg()
	dir, first, done, gone := b.Label(), b.Label(), b.Label(), b.Label()
	l.open(r, o.Path, unix.O_PATH, 0, inRoot).On(unix.ENOENT, gone).On(unix.ENOTDIR, gone)
	l.stat(r, mode, 0)
	b.JumpEq(mode.Arg(), child.Imm(unix.S_IFDIR), dir)
	l.cloneFD(tree, null, false)
	l.move(tree.Arg(), r)
	l.close(tree)
	b.Jump(done)
	b.Mark(dir)
	b.JumpEq(l.empty.Arg(), child.Imm(0), first)
	l.cloneFD(tree, l.empty, false)
	l.move(tree.Arg(), r)
	l.close(tree)
	b.Jump(done)
	b.Mark(first)
	l.mountOn(r, "tmpfs", "tmpfs", unix.MS_RDONLY, "nr_blocks=1,nr_inodes=1")
	l.open(l.empty, o.Path, unix.O_PATH|unix.O_DIRECTORY, 0, inRoot)
	b.Mark(done)
	l.close(r)
	b.Mark(gone)
	b.Free(r)
}

func (l *lowerer) readOnly(o plan.ReadOnly) {
	b := l.b
	r, tree := b.Reg(), b.Reg()
	gone := b.Label()
	l.open(r, o.Path, unix.O_PATH, 0, inRoot).On(unix.ENOENT, gone).On(unix.ENOTDIR, gone)
	l.cloneFD(tree, r, true)
	l.setattr(tree.Arg(), unix.MOUNT_ATTR_RDONLY, 0, 0, 0, true)
	l.move(tree.Arg(), r)
	l.close(tree)
	l.close(r)
	b.Mark(gone)
	b.Free(r)
}

// pivot makes the rootfs the root: the old one lies over it for a moment and is then
// let go of. Source: pivot_root(2), "pivot_root(".", ".")".
func (l *lowerer) pivot(o plan.Pivot) {
	b := l.b
	dot, slash := b.Str(".").Arg(), b.Str("/").Arg()
	b.Sys(unix.SYS_FCHDIR, l.root.Arg())
	if o.Move {
		// The old root stays below. Its procfs and sysfs, of which nothing is masked, would
		// let a user namespace of the container mount its own.
		for _, p := range l.fds.ProcMounts {
			cover, next := b.Label(), b.Label()
			b.Sys(unix.SYS_UMOUNT2, b.Str(p).Arg(), child.Imm(unix.MNT_DETACH)).On(unix.EPERM, cover).On(unix.EINVAL, cover).OnAny(next)
			b.Jump(next)
			b.Mark(cover)
			b.Sys(unix.SYS_MOUNT, b.Str("tmpfs").Arg(), b.Str(p).Arg(), b.Str("tmpfs").Arg(), child.Imm(0), b.Str("mode=000").Arg())
			b.Mark(next)
		}
		b.Sys(unix.SYS_MOUNT, dot, slash, child.Imm(0), child.Imm(unix.MS_MOVE), child.Imm(0))
		b.Sys(unix.SYS_CHROOT, dot)
	} else {
		b.Sys(unix.SYS_PIVOT_ROOT, dot, dot)
		b.Sys(unix.SYS_UMOUNT2, dot, child.Imm(unix.MNT_DETACH))
	}
	b.Sys(unix.SYS_CHDIR, slash)
}

func (l *lowerer) rootAttrs(o plan.RootAttrs) {
	if o.Propagation != 0 {
		l.setattr(l.root.Arg(), 0, 0, o.Propagation, 0, false)
	}
	if o.ReadOnly {
		l.setattr(l.root.Arg(), unix.MOUNT_ATTR_RDONLY, 0, 0, 0, false)
	}
}

// chdir goes to the working directory and asks the kernel where that is: a directory
// that cannot be reached from the root has a name that does not begin with "/"
// (CVE-2024-21626). Source: getcwd(2).
func (l *lowerer) chdir(o plan.Chdir) {
	b := l.b
	if l.root == 0 {
		l.openRoot()
	}
	r := b.Reg()
	good := b.Label()
	if o.Make {
		l.mkdirs(r, o.Path)
	} else {
		l.open(r, o.Path, unix.O_PATH|unix.O_DIRECTORY, 0, inRoot)
	}
	b.Sys(unix.SYS_FCHDIR, r.Arg())
	buf := b.Buf(4096)
	b.Sys(unix.SYS_GETCWD, buf.Arg(), child.Imm(4096))
	b.Load8(r, buf)
	b.JumpEq(r.Arg(), child.Imm('/'), good)
	b.Fail(child.FailCwd)
	b.Mark(good)
	b.Free(r)
}

// lookPath finds the program and puts its path into argv[0].
func (l *lowerer) lookPath(o plan.LookPath) {
	b := l.b
	args := l.p.Ops[len(l.p.Ops)-1].(plan.Exec).Args
	l.argv = b.Strs(append([]string{""}, args...))
	mode := b.Reg()
	found := b.Label()
	buf := b.Buf(256)
	byName := !strings.Contains(o.Name, "/")
	for _, p := range o.Path {
		next := b.Label()
		path := b.Str(p).Arg()
		st := b.Sys(unix.SYS_STATX, child.Imm(unix.AT_FDCWD), path, child.Imm(0), child.Imm(unix.STATX_TYPE), buf.Arg())
		b.Load32(mode, buf.At(0x1c))
		b.And(mode, mode.Arg(), child.Imm(unix.S_IFMT))
		if byName {
			st.OnAny(next)
			b.JumpEq(mode.Arg(), child.Imm(unix.S_IFDIR), next)
			b.Sys(unix.SYS_FACCESSAT, child.Imm(unix.AT_FDCWD), path, child.Imm(unix.X_OK)).OnAny(next)
		} else {
			file := b.Label()
			b.JumpNe(mode.Arg(), child.Imm(unix.S_IFDIR), file)
			b.Fail(child.FailIsDir)
			b.Mark(file)
			b.Sys(unix.SYS_FACCESSAT, child.Imm(unix.AT_FDCWD), path, child.Imm(unix.X_OK))
		}
		b.Move(l.path, path)
		b.Jump(found)
		b.Mark(next)
	}
	b.Fail(child.FailNotFound)
	b.Mark(found)
	b.Store64(l.argv, l.path.Arg())
	b.Free(mode)
}
