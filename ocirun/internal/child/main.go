package child

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// machine is the state of the interpreter. Everything is in it, because the child
// must not grow its stack.
type machine struct {
	regs   [numRegs]uintptr
	base   unsafe.Pointer // of the program's memory
	code   unsafe.Pointer // of the first instruction
	ladder uintptr
	msg    [4]uint32
	pc     uintptr
}

// main runs the program in the child; it does not return.
//
//go:nosplit
//go:norace
//go:nocheckptr
//go:noinline
func (m *machine) main() {
	for {
		in := (*instr)(unsafe.Add(m.code, m.pc*unsafe.Sizeof(instr{})))
		a := in.a
		for i := range a {
			if in.regs&(1<<i) != 0 {
				a[i] = m.regs[a[i]%numRegs]
			}
		}
		next := m.pc + 1
		switch in.code {
		case codeSyscall:
			r, _, e := unix.RawSyscall6(uintptr(in.nr), a[0], a[1], a[2], a[3], a[4], a[5])
			if e != 0 {
				t := m.onError(in, uintptr(e))
				if t == 0 {
					m.fail(in, uintptr(e))
				}
				if in.code == codeSyscall && in.target == warn {
					m.report(uintptr(KindWarn), uintptr(in.op), uintptr(e))
				}
				next = t
				break
			}
			m.set(in.dst, r)
		case codeLoad8:
			m.set(in.dst, uintptr(*(*uint8)(unsafe.Add(m.base, a[0]))))
		case codeLoad32:
			m.set(in.dst, uintptr(*(*uint32)(unsafe.Add(m.base, a[0]))))
		case codeLoad64:
			m.set(in.dst, uintptr(*(*uint64)(unsafe.Add(m.base, a[0]))))
		case codeStore32:
			*(*uint32)(unsafe.Add(m.base, a[0])) = uint32(a[1])
		case codeStore64:
			*(*uint64)(unsafe.Add(m.base, a[0])) = uint64(a[1])
		case codeAnd:
			m.set(in.dst, a[0]&a[1])
		case codeMove:
			m.set(in.dst, a[0])
		case codeJump:
			next = uintptr(in.target)
		case codeJumpEq:
			if a[0] == a[1] {
				next = uintptr(in.target)
			}
		case codeJumpNe:
			if a[0] != a[1] {
				next = uintptr(in.target)
			}
		case codeReport:
			m.report(a[0], uintptr(in.op), a[1])
		case codeWait:
			n, _, _ := unix.RawSyscall(unix.SYS_READ, m.ladder, uintptr(unsafe.Pointer(&m.msg)), 1)
			if n != 1 {
				exit(1) // the parent has gone: nobody waits for an answer
			}
		case codeFail:
			m.fail(in, a[0])
		case codeExit:
			exit(a[0])
		}
		m.pc = next
	}
}

// warn in the target of a system call asks for a KindWarn when its error is ignored.
const warn = 1

//go:nosplit
//go:norace
func (m *machine) set(dst uint8, v uintptr) {
	if dst != 0 {
		m.regs[dst%numRegs] = v
	}
}

// onError returns where to go on after errno e; 0 means nowhere.
//
//go:nosplit
//go:norace
func (m *machine) onError(in *instr, e uintptr) uintptr {
	for i := range in.errs {
		if c := in.errs[i]; c.errno != 0 && (c.errno == anyErrno || uintptr(c.errno) == e) {
			return uintptr(c.target)
		}
	}
	return 0
}

//go:nosplit
//go:norace
func (m *machine) report(kind, op, value uintptr) {
	m.msg = [4]uint32{uint32(kind), uint32(op), uint32(m.pc), uint32(value)}
	unix.RawSyscall6(unix.SYS_SENDTO, m.ladder, uintptr(unsafe.Pointer(&m.msg)), MessageSize, unix.MSG_NOSIGNAL, 0, 0)
}

//go:nosplit
//go:norace
func (m *machine) fail(in *instr, errno uintptr) {
	m.report(uintptr(KindFailed), uintptr(in.op), errno)
	exit(1)
}

//go:nosplit
//go:norace
func exit(status uintptr) {
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, status, 0, 0)
	}
}
