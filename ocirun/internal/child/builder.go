package child

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memorySize is how much address space a program's strings and buffers have. Pages
// that are not touched cost nothing. The arguments and environment of a process may
// take up to 6 MiB (execve(2)).
const memorySize = 16 << 20

// Arg is an argument of an instruction: a number, an address or a register.
type Arg struct {
	value uintptr
	reg   bool
}

// Imm is a number.
func Imm[T ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{value: uintptr(v)}
}

// Arg makes an argument of the register's value.
func (r Reg) Arg() Arg { return Arg{value: uintptr(r), reg: true} }

// Ptr is a piece of the program's memory.
type Ptr struct {
	off, addr uintptr
}

// Arg makes an argument of the address.
func (p Ptr) Arg() Arg { return Arg{value: p.addr} }

// At returns the address n bytes on.
func (p Ptr) At(n int) Ptr { return Ptr{p.off + uintptr(n), p.addr + uintptr(n)} }

// Label is a place in the program.
type Label int

// Builder writes a program. Its memory is outside the Go heap, so that addresses stay.
// Errors (too long a program) come from Start.
type Builder struct {
	mem    []byte
	used   int
	code   []instr
	labels []int // position of each label, -1 before Mark
	op     uint16
	nextR  int
	interm map[string]Ptr
	err    error
}

// NewBuilder returns an empty program. Close it when the child runs.
func NewBuilder() (*Builder, error) {
	mem, err := unix.Mmap(-1, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("memory for the child's program: mmap: %w", err)
	}
	// Instruction 0 is never a jump's target: 0 means none.
	return &Builder{mem: mem, nextR: 1, interm: map[string]Ptr{}, code: make([]instr, 1, 512)}, nil
}

// Close frees the program's memory.
func (b *Builder) Close() error { return unix.Munmap(b.mem) }

// Op says that what follows belongs to operation n.
func (b *Builder) Op(n int) { b.op = uint16(n) }

// Reg returns a new register.
func (b *Builder) Reg() Reg {
	if b.nextR >= numRegs {
		b.err = fmt.Errorf("internal error: the program needs more than %d registers", numRegs)
		return 0
	}
	b.nextR++
	return Reg(b.nextR - 1)
}

// Free gives back all registers from r on.
func (b *Builder) Free(r Reg) { b.nextR = int(r) }

// Buf returns n bytes of zeros, aligned to 8.
func (b *Builder) Buf(n int) Ptr {
	b.used = (b.used + 7) &^ 7
	if b.used+n > len(b.mem) {
		b.err = fmt.Errorf("the program's strings take more than %d bytes: %w", len(b.mem), unix.E2BIG)
		return Ptr{}
	}
	p := Ptr{uintptr(b.used), uintptr(unsafe.Pointer(&b.mem[b.used]))}
	b.used += n
	return p
}

// Bytes returns a copy of data.
func (b *Builder) Bytes(data []byte) Ptr {
	p := b.Buf(len(data) + 1)
	copy(b.mem[p.off:], data)
	return p
}

// Str returns s with a terminating zero. Equal strings share their memory.
func (b *Builder) Str(s string) Ptr {
	if p, ok := b.interm[s]; ok {
		return p
	}
	p := b.Buf(len(s) + 1)
	copy(b.mem[p.off:], s)
	b.interm[s] = p
	return p
}

// Words returns an array of 64-bit words.
func (b *Builder) Words(words ...uint64) Ptr {
	p := b.Buf(8 * len(words))
	for i, w := range words {
		binary.NativeEndian.PutUint64(b.mem[int(p.off)+8*i:], w)
	}
	return p
}

// Strs returns an array of pointers to strings, ended by a null pointer.
func (b *Builder) Strs(list []string) Ptr {
	words := make([]uint64, len(list)+1)
	for i, s := range list {
		words[i] = uint64(b.Str(s).addr)
	}
	return b.Words(words...)
}

// Step is the instruction just added.
type Step struct {
	b *Builder
	i int
}

func (b *Builder) add(in instr, args ...Arg) Step {
	in.op = b.op
	for i, a := range args {
		in.a[i] = a.value
		if a.reg {
			in.regs |= 1 << i
		}
	}
	b.code = append(b.code, in)
	return Step{b, len(b.code) - 1}
}

// Sys adds a system call.
func (b *Builder) Sys(nr int, args ...Arg) Step {
	return b.add(instr{code: codeSyscall, nr: uint32(nr)}, args...)
}

// Into puts the result in r.
func (s Step) Into(r Reg) Step {
	s.b.code[s.i].dst = uint8(r)
	return s
}

// On goes to l if the call fails with errno e.
func (s Step) On(e unix.Errno, l Label) Step { return s.on(uint16(e), uint16(l), true) }

// OnAny goes to l if the call fails.
func (s Step) OnAny(l Label) Step { return s.on(anyErrno, uint16(l), true) }

// Ignore goes on if the call fails with one of list, or with any error if it is empty.
func (s Step) Ignore(list ...unix.Errno) Step {
	if len(list) == 0 {
		return s.on(anyErrno, uint16(s.i+1), false)
	}
	for _, e := range list {
		s.on(uint16(e), uint16(s.i+1), false)
	}
	return s
}

// Warn tells the parent about errors that On or Ignore catch.
func (s Step) Warn() Step {
	s.b.code[s.i].target = warn
	return s
}

// labelBit marks a target that is a label until link puts the position there.
const labelBit = 0x8000

func (s Step) on(errno, target uint16, label bool) Step {
	if label {
		target |= labelBit
	}
	in := &s.b.code[s.i]
	for i := range in.errs {
		if in.errs[i].errno == 0 {
			in.errs[i] = errJump{errno, target}
			return s
		}
	}
	s.b.err = fmt.Errorf("internal error: instruction %d has too many error targets", s.i)
	return s
}

// Label returns a new label; Mark gives it a place.
func (b *Builder) Label() Label {
	b.labels = append(b.labels, -1)
	return Label(len(b.labels) - 1)
}

// Mark places l here.
func (b *Builder) Mark(l Label) { b.labels[l] = len(b.code) }

// Jump goes to l.
func (b *Builder) Jump(l Label) {
	b.add(instr{code: codeJump, target: uint16(l) | labelBit})
}

// JumpEq goes to l if x == y.
func (b *Builder) JumpEq(x, y Arg, l Label) {
	b.add(instr{code: codeJumpEq, target: uint16(l) | labelBit}, x, y)
}

// JumpNe goes to l if x != y.
func (b *Builder) JumpNe(x, y Arg, l Label) {
	b.add(instr{code: codeJumpNe, target: uint16(l) | labelBit}, x, y)
}

// Load8 reads memory, as Load32 and Load64 do.
func (b *Builder) Load8(r Reg, p Ptr) { b.add(instr{code: codeLoad8, dst: uint8(r)}, Imm(p.off)) }

// Load32 reads 32 bits.
func (b *Builder) Load32(r Reg, p Ptr) { b.add(instr{code: codeLoad32, dst: uint8(r)}, Imm(p.off)) }

// Load64 reads 64 bits.
func (b *Builder) Load64(r Reg, p Ptr) { b.add(instr{code: codeLoad64, dst: uint8(r)}, Imm(p.off)) }

// Store32 writes the low 32 bits of a.
func (b *Builder) Store32(p Ptr, a Arg) { b.add(instr{code: codeStore32}, Imm(p.off), a) }

// Store64 writes a.
func (b *Builder) Store64(p Ptr, a Arg) { b.add(instr{code: codeStore64}, Imm(p.off), a) }

// And puts x & y in r.
func (b *Builder) And(r Reg, x, y Arg) { b.add(instr{code: codeAnd, dst: uint8(r)}, x, y) }

// Move puts x in r.
func (b *Builder) Move(r Reg, x Arg) { b.add(instr{code: codeMove, dst: uint8(r)}, x) }

// Report tells the parent.
func (b *Builder) Report(k Kind, value Arg) { b.add(instr{code: codeReport}, Imm(uint32(k)), value) }

// Wait blocks until the parent says go, and ends the child if it never will.
func (b *Builder) Wait() { b.add(instr{code: codeWait}) }

// Fail ends the child with an errno or one of the Fail values.
func (b *Builder) Fail(errno int) { b.add(instr{code: codeFail}, Imm(errno)) }

// Exit ends the child quietly.
func (b *Builder) Exit(status int) { b.add(instr{code: codeExit}, Imm(status)) }

// Len is the number of instructions so far.
func (b *Builder) Len() int { return len(b.code) }

// Syscall returns the number of the system call at instruction pc, or -1.
func (b *Builder) Syscall(pc int) int {
	if pc <= 0 || pc >= len(b.code) || b.code[pc].code != codeSyscall {
		return -1
	}
	return int(b.code[pc].nr)
}

// link turns labels into positions.
func (b *Builder) link() error {
	if b.err != nil {
		return b.err
	}
	if len(b.code) >= labelBit {
		return fmt.Errorf("the program takes %d instructions: %w", len(b.code), unix.E2BIG)
	}
	place := func(t *uint16) error {
		if *t&labelBit == 0 {
			return nil
		}
		pos := b.labels[*t&^labelBit]
		if pos < 0 {
			return fmt.Errorf("internal error: label %d has no place", *t&^labelBit)
		}
		*t = uint16(pos)
		return nil
	}
	for i := range b.code {
		in := &b.code[i]
		if err := place(&in.target); err != nil {
			return err
		}
		for j := range in.errs {
			if err := place(&in.errs[j].target); err != nil {
				return err
			}
		}
	}
	return nil
}
