package seccompbpf

import (
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Insn is an instruction of classic BPF, in the layout of struct sock_filter.
type Insn struct {
	Code   uint16
	Jt, Jf uint8
	K      uint32
}

// Instruction codes. Source: Linux include/uapi/linux/bpf_common.h.
const (
	opLoad = 0x20 // BPF_LD | BPF_W | BPF_ABS
	opJA   = 0x05
	opJEq  = 0x15
	opJGt  = 0x25
	opJGe  = 0x35
	opAnd  = 0x54
	opRet  = 0x06
)

// Offsets in struct seccomp_data.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// emit joins the sections: the architecture is tested once, the number loaded once.
func emit(sections []section) []Insn {
	out := []Insn{{Code: opLoad, K: offArch}}
	for i := range sections {
		s := sections[i]
		body := []Insn{{Code: opLoad, K: offNr}}
		ranges := s.ranges
		if s.arch.audit == auditX8664 {
			for _, x := range sections {
				if x.arch.x32 && !s.arch.x32 {
					ranges = joinX32(ranges, x.ranges)
				}
			}
			if s.arch.x32 {
				continue
			}
		}
		body = append(body, tree(ranges, s.arch.width)...)
		// Conditional jumps reach 255 instructions, a section is longer.
		out = append(out, Insn{opJEq, 1, 0, s.arch.audit}, Insn{opJA, 0, 0, uint32(len(body))})
		out = append(out, body...)
	}
	return append(out, Insn{Code: opRet, K: retKillThread})
}

// joinX32 puts the numbers of x32 behind those of x86_64.
func joinX32(amd64, x32 []interval) []interval {
	var out []interval
	for _, iv := range amd64 {
		if iv.start < x32Bit {
			out = append(out, iv)
		}
	}
	first := interval{start: x32Bit, ret: x32[0].ret, rules: x32[0].rules}
	for _, iv := range x32 {
		if iv.start <= x32Bit {
			first = interval{start: x32Bit, ret: iv.ret, rules: iv.rules}
		}
	}
	out = append(out, first)
	for _, iv := range x32 {
		if iv.start > x32Bit {
			out = append(out, iv)
		}
	}
	return append(out, interval{start: ^uint32(0), ret: x32[0].ret})
}

// tree is a binary search over the ranges; the number is in the accumulator.
func tree(r []interval, width int) []Insn {
	if len(r) == 1 {
		return leaf(r[0], width)
	}
	m := len(r) / 2
	left, right := tree(r[:m], width), tree(r[m:], width)
	var out []Insn
	if len(left) <= 255 {
		out = append(out, Insn{opJGe, uint8(len(left)), 0, r[m].start})
	} else {
		out = append(out, Insn{opJGe, 0, 1, r[m].start}, Insn{opJA, 0, 0, uint32(len(left))})
	}
	return append(append(out, left...), right...)
}

// leaf answers for one range: each rule is a chain of conditions that falls through
// to its return and jumps to the next rule when one fails.
func leaf(iv interval, width int) []Insn {
	var out []Insn
	for _, r := range iv.rules {
		block := []Insn{{Code: opRet, K: r.ret}}
		for _, v := range slices.Backward(r.conds) {
			block = append(test(v, len(block), width), block...)
		}
		out = append(out, block...)
	}
	return append(out, Insn{Code: opRet, K: iv.ret})
}

// argOffsets returns where the halves of an argument are.
func argOffsets(index uint) (lo, hi uint32) {
	base := offArgs + 8*uint32(index)
	if runtime.GOARCH == "s390x" {
		return base + 4, base
	}
	return base, base + 4
}

// test is the code of a condition: it falls through when it holds and skips rest
// instructions when not. A rule has at most six conditions of at most six
// instructions, so the jumps fit.
func test(c condition, rest, width int) []Insn {
	if width == 32 {
		return test32(c, rest)
	}
	lo, hi := argOffsets(c.index)
	vlo, vhi := uint32(c.value), uint32(c.value>>32)
	fail := uint8(rest)
	switch c.op {
	case specs.OpEqualTo:
		return []Insn{{opLoad, 0, 0, hi}, {opJEq, 0, fail + 2, vhi}, {opLoad, 0, 0, lo}, {opJEq, 0, fail, vlo}}
	case specs.OpNotEqual:
		return []Insn{{opLoad, 0, 0, hi}, {opJEq, 0, 2, vhi}, {opLoad, 0, 0, lo}, {opJEq, fail, 0, vlo}}
	case specs.OpMaskedEqual: // (argument & value) == two
		tlo, thi := uint32(c.two), uint32(c.two>>32)
		return []Insn{
			{opLoad, 0, 0, hi},
			{opAnd, 0, 0, vhi},
			{opJEq, 0, fail + 3, thi},
			{opLoad, 0, 0, lo},
			{opAnd, 0, 0, vlo},
			{opJEq, 0, fail, tlo},
		}
	case specs.OpGreaterThan:
		return []Insn{{opLoad, 0, 0, hi}, {opJGt, 3, 0, vhi}, {opJEq, 0, fail + 2, vhi}, {opLoad, 0, 0, lo}, {opJGt, 0, fail, vlo}}
	case specs.OpGreaterEqual:
		return []Insn{{opLoad, 0, 0, hi}, {opJGt, 3, 0, vhi}, {opJEq, 0, fail + 2, vhi}, {opLoad, 0, 0, lo}, {opJGe, 0, fail, vlo}}
	case specs.OpLessThan: // not >=
		return []Insn{{opLoad, 0, 0, hi}, {opJGt, fail + 3, 0, vhi}, {opJEq, 0, 2, vhi}, {opLoad, 0, 0, lo}, {opJGe, fail, 0, vlo}}
	case specs.OpLessEqual: // not >
		return []Insn{{opLoad, 0, 0, hi}, {opJGt, fail + 3, 0, vhi}, {opJEq, 0, 2, vhi}, {opLoad, 0, 0, lo}, {opJGt, fail, 0, vlo}}
	}
	panic("internal error: seccomp operator " + string(c.op))
}

// test32 compares the low half only: the arguments of a 32-bit call have no other.
func test32(c condition, rest int) []Insn {
	lo, _ := argOffsets(c.index)
	v := uint32(c.value)
	fail := uint8(rest)
	load := Insn{opLoad, 0, 0, lo}
	switch c.op {
	case specs.OpEqualTo:
		return []Insn{load, {opJEq, 0, fail, v}}
	case specs.OpNotEqual:
		return []Insn{load, {opJEq, fail, 0, v}}
	case specs.OpMaskedEqual:
		return []Insn{load, {opAnd, 0, 0, v}, {opJEq, 0, fail, uint32(c.two)}}
	case specs.OpGreaterThan:
		return []Insn{load, {opJGt, 0, fail, v}}
	case specs.OpGreaterEqual:
		return []Insn{load, {opJGe, 0, fail, v}}
	case specs.OpLessThan:
		return []Insn{load, {opJGe, fail, 0, v}}
	case specs.OpLessEqual:
		return []Insn{load, {opJGt, fail, 0, v}}
	}
	panic("internal error: seccomp operator " + string(c.op))
}
