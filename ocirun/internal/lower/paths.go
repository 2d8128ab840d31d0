package lower

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"strata/ocirun/internal/child"
)

// inRoot are the rules by which paths of the container are resolved.
const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// how is struct open_how of openat2(2).
func (l *lowerer) how(flags, mode int, resolve uint64) child.Arg {
	return l.b.Words(uint64(flags), uint64(mode), resolve).Arg()
}

// rel makes an absolute path of the container relative to its root.
func rel(path string) string {
	if p := strings.TrimPrefix(filepath.Clean("/"+path), "/"); p != "" {
		return p
	}
	return "."
}

// open opens a path of the container.
func (l *lowerer) open(into child.Reg, path string, flags, mode int, resolve uint64) child.Step {
	return l.b.Sys(unix.SYS_OPENAT2, l.root.Arg(), l.b.Str(rel(path)).Arg(), l.how(flags|unix.O_CLOEXEC, mode, resolve), child.Imm(24)).Into(into)
}

func (l *lowerer) close(r child.Reg) { l.b.Sys(unix.SYS_CLOSE, r.Arg()) }

// mkdirs opens directory path of the container, made if it is missing. Each missing
// component is made in the descriptor of the one above it, never by its path.
func (l *lowerer) mkdirs(into child.Reg, path string) {
	b := l.b
	make, done := b.Label(), b.Label()
	l.open(into, path, unix.O_PATH|unix.O_DIRECTORY, 0, inRoot).On(unix.ENOENT, make)
	b.Jump(done)
	b.Mark(make)
	up, next := b.Reg(), b.Reg()
	b.Sys(unix.SYS_DUP, l.root.Arg()).Into(up)
	var prefix strings.Builder
	for name := range strings.SplitSeq(rel(path), "/") {
		prefix.WriteString("/" + name)
		missing, have := b.Label(), b.Label()
		l.open(next, prefix.String(), unix.O_PATH|unix.O_DIRECTORY, 0, inRoot).On(unix.ENOENT, missing)
		b.Jump(have)
		b.Mark(missing)
		b.Sys(unix.SYS_MKDIRAT, up.Arg(), b.Str(name).Arg(), child.Imm(0o755)).Ignore(unix.EEXIST)
		b.Sys(unix.SYS_OPENAT2, up.Arg(), b.Str(name).Arg(),
			l.how(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS), child.Imm(24)).Into(next)
		b.Mark(have)
		l.close(up)
		b.Move(up, next.Arg())
	}
	b.Move(into, up.Arg())
	b.Free(up)
	b.Mark(done)
}

// split opens the directory of path (made if missing) and returns the last component.
func (l *lowerer) split(into child.Reg, path string) string {
	l.mkdirs(into, filepath.Dir(filepath.Clean("/"+path)))
	return filepath.Base(path)
}

// file opens a file of the container with O_PATH, made empty if it is missing.
func (l *lowerer) file(into child.Reg, path string) {
	b := l.b
	make, done := b.Label(), b.Label()
	l.open(into, path, unix.O_PATH, 0, inRoot).On(unix.ENOENT, make)
	b.Jump(done)
	b.Mark(make)
	dir := b.Reg()
	base := l.split(dir, path)
	l.create(into, dir, base)
	l.close(dir)
	b.Free(dir)
	b.Mark(done)
}

// create opens name in dir with O_PATH, made empty if it is missing. It is no symlink.
func (l *lowerer) create(into, dir child.Reg, name string) {
	b := l.b
	have := b.Label()
	beneath := uint64(unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS)
	b.Sys(unix.SYS_OPENAT2, dir.Arg(), b.Str(name).Arg(),
		l.how(unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o755, beneath), child.Imm(24)).Into(into).On(unix.EEXIST, have)
	l.close(into)
	b.Mark(have)
	b.Sys(unix.SYS_OPENAT2, dir.Arg(), b.Str(name).Arg(), l.how(unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0, beneath), child.Imm(24)).Into(into)
}

// stat puts the type of an open file into mode and its device number into dev (if not 0).
func (l *lowerer) stat(fd, mode, dev child.Reg) {
	b := l.b
	buf := b.Buf(256) // struct statx
	b.Sys(unix.SYS_STATX, fd.Arg(), b.Str("").Arg(), child.Imm(unix.AT_EMPTY_PATH), child.Imm(unix.STATX_TYPE), buf.Arg())
	b.Load32(mode, buf.At(0x1c)) // stx_mode, and two bytes of spare
	b.And(mode, mode.Arg(), child.Imm(unix.S_IFMT))
	if dev != 0 {
		b.Load64(dev, buf.At(0x80)) // stx_rdev_major, stx_rdev_minor
	}
}

// rdev is what stat gives for a device.
func rdev(major, minor uint32) child.Arg { return child.Imm(uint64(minor)<<32 | uint64(major)) }

// hostNull opens the host's /dev/null and checks that it is the null device.
func (l *lowerer) hostNull() child.Reg {
	if l.null != 0 {
		return l.null
	}
	b := l.b
	null, mode, dev := b.Reg(), b.Reg(), b.Reg()
	good, bad := b.Label(), b.Label()
	b.Sys(unix.SYS_OPENAT, child.Imm(unix.AT_FDCWD), b.Str("/dev/null").Arg(), child.Imm(unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC), child.Imm(0)).Into(null)
	l.stat(null, mode, dev)
	b.JumpNe(mode.Arg(), child.Imm(unix.S_IFCHR), bad)
	b.JumpEq(dev.Arg(), rdev(1, 3), good)
	b.Mark(bad)
	b.Fail(child.FailNotDevice)
	b.Mark(good)
	b.Free(mode)
	l.null = null
	return null
}
