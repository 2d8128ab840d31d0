package lower

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"strata/ocirun/internal/child"
	"strata/ocirun/internal/plan"
	"strata/pkg/linux/caps"
	"strata/pkg/linux/seccompbpf"
)

// sink takes the last, straight row of system calls: the tail, or the machine itself.
type sink interface {
	bytes(data []byte) word
	// pointer puts the address of to at offset off of at.
	pointer(at word, off int, to word)
	sys(nr int, args ...word)
	try(nr int, args ...word)
}

// word is an argument in the terms of either sink.
type word struct {
	imm  child.Arg
	ptr  child.Ptr
	tail child.TailArg
}

// num makes the word of a number, which both sinks take.
func num[T ~int | ~int32 | ~uint32 | ~uint64](v T) word {
	return word{imm: child.Imm(v), tail: child.TailImm(v)}
}

type tailSink struct {
	t  *child.Tail
	op int
}

func (s *tailSink) bytes(data []byte) word { return word{tail: s.t.Bytes(data)} }

func (s *tailSink) pointer(at word, off int, to word) { s.t.Pointer(at.tail, off, to.tail) }

func (s *tailSink) sys(nr int, args ...word) { s.t.Sys(s.op, nr, tailArgs(args)...) }

func (s *tailSink) try(nr int, args ...word) { s.t.Try(s.op, nr, tailArgs(args)...) }

func tailArgs(args []word) []child.TailArg {
	out := make([]child.TailArg, len(args))
	for i, a := range args {
		out[i] = a.tail
	}
	return out
}

type machineSink struct{ b *child.Builder }

func (s machineSink) bytes(data []byte) word {
	p := s.b.Bytes(data)
	return word{imm: p.Arg(), ptr: p}
}

func (s machineSink) pointer(at word, off int, to word) { s.b.Store64(at.ptr.At(off), to.imm) }

func (s machineSink) sys(nr int, args ...word) { s.b.Sys(nr, machineArgs(args)...) }

func (s machineSink) try(nr int, args ...word) { s.b.Sys(nr, machineArgs(args)...).Ignore() }

func machineArgs(args []word) []child.Arg {
	out := make([]child.Arg, len(args))
	for i, a := range args {
		out[i] = a.imm
	}
	return out
}

// closeFDs marks all descriptors above the preserved ones to be closed by execve.
func (l *lowerer) closeFDs() {
	l.b.Sys(unix.SYS_CLOSE_RANGE, child.Imm(3+l.fds.Preserve), child.Imm(^uint32(0)), child.Imm(unix.CLOSE_RANGE_CLOEXEC))
}

// withTail executes the tail, which makes the remaining operations.
func (l *lowerer) withTail(out *Program) error {
	b := l.b
	out.Tail = &child.Tail{}
	s := &tailSink{t: out.Tail, op: l.i}
	exec := l.p.Ops[len(l.p.Ops)-1].(plan.Exec)
	kept := []int{l.fds.Ladder}
	if l.fds.Fifo >= 0 {
		kept = append(kept, l.fds.Fifo)
	}
	for _, fd := range kept {
		s.sys(unix.SYS_FCNTL, num(fd), num(unix.F_SETFD), num(unix.FD_CLOEXEC))
	}
	if l.fds.Fifo >= 0 {
		out.Tail.EndOn(l.i, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	}
	for ; l.i < len(l.p.Ops)-1; l.i++ {
		s.op = l.i
		if err := l.finish(s, l.p.Ops[l.i]); err != nil {
			return err
		}
		if _, ok := l.p.Ops[l.i].(plan.Capabilities); ok {
			out.Tail.Access(l.lookOp)
		}
	}
	name := exec.Args[0]
	out.Tail.Exec(l.i, func(e unix.Errno) string {
		if e == 0 {
			return fmt.Sprintf("exec %s: execve: unknown error\n", name)
		}
		return fmt.Sprintf("exec %s: %s\n", name, e.Error())
	})
	f, err := out.Tail.File(l.fds.Ladder)
	if err != nil {
		return err
	}
	out.TailFile = f
	b.Op(l.i)
	l.closeFDs()
	for _, fd := range kept {
		b.Sys(unix.SYS_FCNTL, child.Imm(fd), child.Imm(unix.F_SETFD), child.Imm(0))
	}
	b.Sys(unix.SYS_EXECVEAT, child.Imm(f.Fd()), b.Str("").Arg(), l.argv.Arg(), b.Strs(exec.Env).Arg(), child.Imm(unix.AT_EMPTY_PATH))
	return nil
}

// direct makes the remaining operations in the machine.
func (l *lowerer) direct() error {
	b := l.b
	s := machineSink{b}
	l.closeFDs()
	for ; l.i < len(l.p.Ops)-1; l.i++ {
		b.Op(l.i)
		if h, ok := l.p.Ops[l.i].(plan.RunHook); ok {
			l.hook(h)
			continue
		}
		if err := l.finish(s, l.p.Ops[l.i]); err != nil {
			return err
		}
	}
	b.Op(l.i)
	exec := l.p.Ops[l.i].(plan.Exec)
	b.Sys(unix.SYS_EXECVE, l.path.Arg(), l.argv.At(8).Arg(), b.Strs(exec.Env).Arg())
	return nil
}

func (l *lowerer) finish(s sink, o plan.Op) error {
	switch o := o.(type) {
	case plan.Limits:
		for _, r := range o.List {
			buf := make([]byte, 16)
			binary.NativeEndian.PutUint64(buf, r.Soft)
			binary.NativeEndian.PutUint64(buf[8:], r.Hard)
			s.sys(unix.SYS_PRLIMIT64, num(0), num(r.Resource), s.bytes(buf), num(0))
		}
	case plan.Identity:
		l.identity(s, o)
	case plan.Capabilities:
		l.capabilities(s, o)
	case plan.NoNewPrivs:
		s.sys(unix.SYS_PRCTL, num(unix.PR_SET_NO_NEW_PRIVS), num(1), num(0), num(0), num(0))
	case plan.Seccomp:
		l.seccomp(s, o)
	case plan.Await:
		l.await(s)
	default:
		return fmt.Errorf("internal error: operation %s after the set-up", o)
	}
	return nil
}

// identity drops the bounding set while it still may, and becomes the user. The
// capabilities stay permitted until the Capabilities operation.
func (l *lowerer) identity(s sink, o plan.Identity) {
	var c plan.Capabilities
	for _, p := range l.p.Ops {
		if x, ok := p.(plan.Capabilities); ok {
			c = x
		}
	}
	for n := 0; n <= c.Last; n++ {
		if !caps.Set(c.Bounding).Has(n) {
			s.sys(unix.SYS_PRCTL, num(unix.PR_CAPBSET_DROP), num(n), num(0), num(0), num(0))
		}
	}
	if o.SetGroups {
		buf := make([]byte, 4*len(o.Groups))
		for i, g := range o.Groups {
			binary.NativeEndian.PutUint32(buf[4*i:], g)
		}
		s.sys(unix.SYS_SETGROUPS, num(len(o.Groups)), s.bytes(buf))
	}
	s.sys(unix.SYS_PRCTL, num(unix.PR_SET_KEEPCAPS), num(1), num(0), num(0), num(0))
	s.sys(unix.SYS_SETRESGID, num(o.GID), num(o.GID), num(o.GID))
	s.sys(unix.SYS_SETRESUID, num(o.UID), num(o.UID), num(o.UID))
	s.sys(unix.SYS_UMASK, num(o.Umask))
}

// capset is struct __user_cap_header_struct and __user_cap_data_struct[2].
func capset(s sink, effective, permitted, inheritable uint64) {
	head := make([]byte, 8)
	binary.NativeEndian.PutUint32(head, unix.LINUX_CAPABILITY_VERSION_3)
	data := make([]byte, 24)
	for i, v := range []uint64{effective, permitted, inheritable} {
		binary.NativeEndian.PutUint32(data[4*i:], uint32(v))
		binary.NativeEndian.PutUint32(data[12+4*i:], uint32(v>>32))
	}
	s.sys(unix.SYS_CAPSET, s.bytes(head), s.bytes(data))
}

func (l *lowerer) capabilities(s sink, o plan.Capabilities) {
	// Effective may only hold what is permitted; ambient what is permitted and inheritable.
	capset(s, o.Effective, o.Permitted, o.Inheritable)
	s.sys(unix.SYS_PRCTL, num(unix.PR_SET_KEEPCAPS), num(0), num(0), num(0), num(0))
	s.try(unix.SYS_PRCTL, num(unix.PR_CAP_AMBIENT), num(unix.PR_CAP_AMBIENT_CLEAR_ALL), num(0), num(0), num(0))
	for n := 0; n <= o.Last; n++ {
		if caps.Set(o.Ambient).Has(n) {
			s.try(unix.SYS_PRCTL, num(unix.PR_CAP_AMBIENT), num(unix.PR_CAP_AMBIENT_RAISE), num(n), num(0), num(0))
		}
	}
}

// seccomp loads the filter. Without no_new_privs that needs CAP_SYS_ADMIN to be
// effective, which it no longer is after a change of user.
func (l *lowerer) seccomp(s sink, o plan.Seccomp) {
	early, user := true, plan.Identity{}
	var c plan.Capabilities
	for _, p := range l.p.Ops {
		switch p := p.(type) {
		case plan.NoNewPrivs:
			early = false
		case plan.Identity:
			user = p
		case plan.Capabilities:
			c = p
		}
	}
	if early && user.UID != 0 {
		admin := uint64(1 << caps.SysAdmin)
		capset(s, admin, c.Permitted|admin, 0)
	}
	insns := s.bytes(insnBytes(l.filter))
	fprog := make([]byte, 16) // struct sock_fprog
	binary.NativeEndian.PutUint16(fprog, uint16(len(l.filter)))
	prog := s.bytes(fprog)
	s.pointer(prog, 8, insns)
	if ms, ok := s.(machineSink); ok && o.Notify {
		fd := ms.b.Reg()
		ms.b.Sys(unix.SYS_SECCOMP, child.Imm(unix.SECCOMP_SET_MODE_FILTER), child.Imm(o.Flags), prog.imm).Into(fd)
		ms.b.Report(child.KindStage, child.Imm(StageNotify))
		l.sendFD(child.Imm(l.fds.Ladder), fd, "n")
		ms.b.Sys(unix.SYS_CLOSE, fd.Arg())
		ms.b.Wait()
		return
	}
	s.sys(unix.SYS_SECCOMP, num(unix.SECCOMP_SET_MODE_FILTER), num(o.Flags), prog)
}

// insnBytes is the memory of a filter: struct sock_filter has the layout of Insn.
func insnBytes(f []seccompbpf.Insn) []byte {
	if len(f) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&f[0])), len(f)*int(unsafe.Sizeof(f[0])))
}

// await says "created", lets go of the parent unless it stays, and waits for a byte.
func (l *lowerer) await(s sink) {
	msg := make([]byte, child.MessageSize)
	binary.NativeEndian.PutUint32(msg, uint32(child.KindStage))
	binary.NativeEndian.PutUint32(msg[4:], uint32(l.i))
	binary.NativeEndian.PutUint32(msg[12:], StageReady)
	s.sys(unix.SYS_SENDTO, num(l.fds.Ladder), s.bytes(msg), num(child.MessageSize), num(unix.MSG_NOSIGNAL), num(0), num(0))
	if !l.keepFDs {
		s.sys(unix.SYS_CLOSE, num(l.fds.Ladder))
	}
	s.sys(unix.SYS_READ, num(l.fds.Fifo), s.bytes(make([]byte, 8)), num(1))
}
