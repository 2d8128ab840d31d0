package cgroups

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// insn is one eBPF instruction.
//
// Source: Linux Documentation/bpf/standardization/instruction-set.rst, "Instruction
// encoding".
type insn struct {
	op   uint8
	regs uint8 // source << 4 | destination
	off  int16
	imm  int32
}

// The opcodes that the program needs.
const (
	opLoadW   = 0x61 // dst = *(u32 *)(src + off)
	opMovImm  = 0xb7 // dst = imm
	opMovReg  = 0xbf // dst = src
	opAnd32   = 0x54 // (u32) dst &= imm
	opRsh32   = 0x74 // (u32) dst >>= imm
	opJeqImm  = 0x16 // if (u32) dst == imm goto off
	opJneImm  = 0x56 // if (u32) dst != imm goto off
	opJneReg  = 0x5e // if (u32) dst != (u32) src goto off
	opExit    = 0x95
	regResult = 0
	regCtx    = 1 // scratch after the loads
	regType   = 2
	regAccess = 3
	regMajor  = 4
	regMinor  = 5
)

// deviceProgram compiles rules to a BPF_PROG_TYPE_CGROUP_DEVICE program. The last rule
// that matches a request decides; without one it is refused. A request may ask for
// several kinds of access at once: an allow rule must cover all of them, a deny rule
// refuses if it names one.
//
// Source: Linux include/uapi/linux/bpf.h, struct bpf_cgroup_dev_ctx: access_type (type
// in the low half, access in the high half), major, minor.
func deviceProgram(rules []rule) []insn {
	p := []insn{
		{op: opLoadW, regs: regCtx<<4 | regType, off: 0},
		{op: opMovReg, regs: regType<<4 | regAccess},
		{op: opAnd32, regs: regType, imm: 0xffff},
		{op: opRsh32, regs: regAccess, imm: 16},
		{op: opLoadW, regs: regCtx<<4 | regMajor, off: 4},
		{op: opLoadW, regs: regCtx<<4 | regMinor, off: 8},
	}
	rules = merge(rules)
	for _, v := range slices.Backward(rules) {
		p = append(p, ruleBlock(v)...)
		if v.all() {
			return p // it decides everything that is left
		}
	}
	return append(p, insn{op: opMovImm, regs: regResult, imm: 0}, insn{op: opExit})
}

// ruleBlock returns the instructions of one rule: conditions that jump behind the
// block, then the verdict.
func ruleBlock(r rule) []insn {
	var b []insn
	switch r.kind {
	case 'b':
		b = append(b, insn{op: opJneImm, regs: regType, imm: unix.BPF_DEVCG_DEV_BLOCK})
	case 'c':
		b = append(b, insn{op: opJneImm, regs: regType, imm: unix.BPF_DEVCG_DEV_CHAR})
	}
	if r.access != accessAll {
		b = append(b,
			insn{op: opMovReg, regs: regAccess<<4 | regCtx},
			insn{op: opAnd32, regs: regCtx, imm: int32(r.access)})
		if r.allow {
			b = append(b, insn{op: opJneReg, regs: regAccess<<4 | regCtx})
		} else {
			b = append(b, insn{op: opJeqImm, regs: regCtx, imm: 0})
		}
	}
	if r.major != anyNumber {
		b = append(b, insn{op: opJneImm, regs: regMajor, imm: int32(r.major)})
	}
	if r.minor != anyNumber {
		b = append(b, insn{op: opJneImm, regs: regMinor, imm: int32(r.minor)})
	}
	verdict := int32(0)
	if r.allow {
		verdict = 1
	}
	b = append(b, insn{op: opMovImm, regs: regResult, imm: verdict}, insn{op: opExit})
	for i := range b {
		switch b[i].op {
		case opJeqImm, opJneImm, opJneReg:
			b[i].off = int16(len(b) - i - 1)
		}
	}
	return b
}

// setDevicesV2 replaces the device program of the cgroup at dir. Without rules it does
// nothing: the parent's programs decide, as on v1.
func setDevicesV2(dir string, devices []specs.LinuxDeviceCgroup) error {
	if len(devices) == 0 {
		return nil
	}
	rules, err := compileRules(devices)
	if err != nil {
		return err
	}
	cg, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(cg) }()
	old, err := attachedPrograms(cg)
	if err != nil {
		return fmt.Errorf("query device programs of %s: %w", dir, err)
	}
	prog, err := loadProgram(deviceProgram(rules))
	if err != nil {
		return fmt.Errorf("load device program: %w", err)
	}
	defer func() { _ = unix.Close(prog) }() // the cgroup holds it
	if err := attachProgram(cg, prog); err != nil {
		return fmt.Errorf("attach device program to %s: %w", dir, err)
	}
	// All attached programs must agree to an access: the old ones go now.
	for _, id := range old {
		if err := detachProgram(cg, id); err != nil {
			return fmt.Errorf("detach old device program from %s: %w", dir, err)
		}
	}
	return nil
}

func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR, unix.EAGAIN: // the verifier was interrupted by a signal
		default:
			return -1, os.NewSyscallError("bpf", errno)
		}
	}
}

func loadProgram(p []insn) (int, error) {
	attr := loadAttr{progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, insnCnt: uint32(len(p))}
	license := []byte("Apache-2.0\x00")
	attr.insns, attr.license = ptr(&p[0]), ptr(&license[0])
	copy(attr.name[:], "strata_devices")
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil && !errors.Is(err, unix.EPERM) {
		log := make([]byte, 16<<10) // once more, for the verifier's words
		attr.logLevel, attr.logSize, attr.logBuf = 1, uint32(len(log)), ptr(&log[0])
		if _, lerr := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); lerr != nil {
			text, _, _ := strings.Cut(string(log), "\x00")
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(text))
		}
		runtime.KeepAlive(log)
	}
	runtime.KeepAlive(p)
	runtime.KeepAlive(license)
	return fd, err
}

func attachProgram(cgroup, prog int) error {
	attr := attachAttr{target: uint32(cgroup), prog: uint32(prog), attachType: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

func detachProgram(cgroup int, id uint32) error {
	get := idAttr{id: id}
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	attr := attachAttr{target: uint32(cgroup), prog: uint32(fd), attachType: unix.BPF_CGROUP_DEVICE}
	_, err = bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

func attachedPrograms(cgroup int) ([]uint32, error) {
	ids := make([]uint32, 64) // the kernel's own limit is 64 per cgroup and type
	attr := queryAttr{target: uint32(cgroup), attachType: unix.BPF_CGROUP_DEVICE, ids: ptr(&ids[0]), count: uint32(len(ids))}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return nil, err
	}
	runtime.KeepAlive(ids)
	return ids[:min(int(attr.count), len(ids))], nil
}

func ptr[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

// The parts of union bpf_attr that are used. Source: Linux include/uapi/linux/bpf.h.
type (
	loadAttr struct {
		progType, insnCnt  uint32
		insns, license     uint64
		logLevel, logSize  uint32
		logBuf             uint64
		kernVersion, flags uint32
		name               [16]byte
	}
	attachAttr struct {
		target, prog, attachType, flags uint32
	}
	idAttr struct {
		id, next, flags uint32
	}
	queryAttr struct {
		target, attachType, queryFlags, attachFlags uint32
		ids                                         uint64
		count, _                                    uint32
	}
)
