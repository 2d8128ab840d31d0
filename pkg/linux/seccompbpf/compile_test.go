package seccompbpf

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
)

var amd64Family = families["amd64"]

// run evaluates a program for one call in x/net/bpf's machine, which loads words in
// network order where the kernel loads them in its own.
func run(t *testing.T, insns []Insn, audit, nr uint32, args ...uint64) uint32 {
	t.Helper()
	raw := make([]bpf.RawInstruction, len(insns))
	for i, in := range insns {
		raw[i] = bpf.RawInstruction{Op: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("program does not disassemble")
	}
	// The kernel returns a 32-bit verdict, x/net/bpf an int.
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offNr:], nr)
	binary.BigEndian.PutUint32(data[offArch:], audit)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[offArgs+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[offArgs+8*i+4:], uint32(a>>32))
	}
	out, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(out)
}

func TestRulesWithConditions(t *testing.T) {
	const big = 0x1_0000_0005
	for _, tt := range []struct {
		op    specs.LinuxSeccompOperator
		value uint64
		two   uint64
		hit   []uint64
		miss  []uint64
	}{
		{specs.OpEqualTo, big, 0, []uint64{big}, []uint64{5, 0x1_0000_0004, 0x2_0000_0005}},
		{specs.OpNotEqual, big, 0, []uint64{5, 0x1_0000_0004, 0x2_0000_0005}, []uint64{big}},
		{specs.OpGreaterThan, big, 0, []uint64{big + 1, 0x2_0000_0000}, []uint64{big, 6, 0xffff_ffff}},
		{specs.OpGreaterEqual, big, 0, []uint64{big, 0x2_0000_0000}, []uint64{big - 1, 0xffff_ffff}},
		{specs.OpLessThan, big, 0, []uint64{big - 1, 0xffff_ffff}, []uint64{big, 0x2_0000_0000}},
		{specs.OpLessEqual, big, 0, []uint64{big, 0xffff_ffff}, []uint64{big + 1, 0x2_0000_0000}},
		{specs.OpMaskedEqual, 0xf_0000_00f0, 0x1_0000_0010, []uint64{0x1_0000_0010, 0xf1_0000_0f1f}, []uint64{0x1_0000_0020, 0x10, 0x2_0000_0010}},
	} {
		p := &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Syscalls: []specs.LinuxSyscall{{
				Names: []string{"personality"}, Action: specs.ActErrno, ErrnoRet: new(uint(42)),
				Args: []specs.LinuxSeccompArg{{Index: 1, Op: tt.op, Value: tt.value, ValueTwo: tt.two}},
			}},
		}
		prog, err := compileFor(p, amd64Family)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range tt.hit {
			if got := run(t, prog.Insns, auditX8664, 135, 0, a); got != retErrno|42 {
				t.Errorf("%s %#x: argument %#x gives %#x, want errno 42", tt.op, tt.value, a, got)
			}
		}
		for _, a := range tt.miss {
			if got := run(t, prog.Insns, auditX8664, 135, 0, a); got != retAllow {
				t.Errorf("%s %#x: argument %#x gives %#x, want allow", tt.op, tt.value, a, got)
			}
		}
	}
}

func TestConditionsAreJoinedByAndUnlessOnTheSameArgument(t *testing.T) {
	arg := func(i uint, v uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Value: v, Op: specs.OpEqualTo}
	}
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"socket"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{arg(0, 1), arg(1, 2)}},
		{Names: []string{"socketpair"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{arg(0, 1), arg(0, 2)}},
	}}
	prog, err := compileFor(p, amd64Family)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		nr   uint32
		args []uint64
		want uint32
	}{
		{41, []uint64{1, 2}, retErrno | 1},
		{41, []uint64{1, 3}, retAllow},
		{53, []uint64{1, 0}, retErrno | 1},
		{53, []uint64{2, 0}, retErrno | 1},
		{53, []uint64{3, 0}, retAllow},
	} {
		if got := run(t, prog.Insns, auditX8664, tt.nr, tt.args...); got != tt.want {
			t.Errorf("call %d%v = %#x, want %#x", tt.nr, tt.args, got, tt.want)
		}
	}
}

func TestArchitectures(t *testing.T) {
	p := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchMIPS},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read", "ioctl", "socket", "no_such_call"}, Action: specs.ActAllow},
			{Names: []string{"statx"}, Action: specs.ActAllow},
		},
	}
	all, err := compileFor(p, amd64Family)
	if err != nil {
		t.Fatal(err)
	}
	p.Architectures = []specs.Arch{specs.ArchX86_64}
	one, err := compileFor(p, amd64Family)
	if err != nil {
		t.Fatal(err)
	}
	const x86, arm64 = 0x40000003, 0xc00000b7
	for _, tt := range []struct {
		name  string
		prog  *Program
		audit uint32
		nr    uint32
		args  []uint64
		want  uint32
	}{
		{"listed call", all, auditX8664, 0, nil, retAllow},
		{"other call", all, auditX8664, 2, nil, retErrno | 1},
		{"newer call", all, auditX8664, 435, nil, retErrno | enosys},
		{"x32 common number", all, auditX8664, x32Bit, nil, retAllow},
		{"x32 own number", all, auditX8664, x32Bit | 514, nil, retAllow},
		{"x32 amd64-only number", all, auditX8664, x32Bit | 16, nil, retErrno | 1},
		{"skipped call", all, auditX8664, 0xffffffff, nil, retErrno | 1},
		{"386", all, x86, 3, nil, retAllow},
		{"386 socketcall(socket)", all, x86, 102, []uint64{1}, retAllow},
		{"386 socketcall(bind)", all, x86, 102, []uint64{2}, retErrno | 1},
		{"386 not listed", one, x86, 3, nil, retKillThread},
		{"x32 not listed", one, auditX8664, x32Bit, nil, retKillThread},
		{"skipped call without x32", one, auditX8664, 0xffffffff, nil, retErrno | 1},
		{"foreign architecture", all, arm64, 63, nil, retKillThread},
	} {
		got := run(t, tt.prog.Insns, tt.audit, tt.nr, tt.args...)
		if got != tt.want {
			t.Errorf("%s: %#x, want %#x", tt.name, got, tt.want)
		}
	}
}

func TestUnconditionalRuleHidesConditionalOnes(t *testing.T) {
	cond := []specs.LinuxSeccompArg{{Index: 0, Value: 7, Op: specs.OpEqualTo}}
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"clone"}, Action: specs.ActKill, Args: cond},
		{Names: []string{"clone"}, Action: specs.ActAllow},
	}}
	prog, err := compileFor(p, amd64Family)
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, prog.Insns, auditX8664, 56, 7); got != retAllow {
		t.Errorf("clone(7) = %#x, want allow", got)
	}
}

func TestEveryCallOfDockersProfileIsAnsweredAsWritten(t *testing.T) {
	raw, err := os.ReadFile("testdata/docker.json")
	if err != nil {
		t.Fatal(err)
	}
	var p specs.LinuxSeccomp
	if err := json.Unmarshal(raw, &p); err != nil {
		t.Fatal(err)
	}
	prog, err := compileFor(&p, amd64Family)
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	for _, s := range p.Syscalls {
		for _, n := range s.Names {
			allowed[n] = allowed[n] || s.Action == specs.ActAllow && len(s.Args) == 0
		}
	}
	known := map[string]bool{}
	for _, s := range p.Syscalls {
		for _, n := range s.Names {
			known[n] = true
		}
	}
	for _, a := range []arch{arches[0], arches[1], arches[2]} {
		for _, r := range table {
			nr, ok := a.number(r.name)
			if !ok || known[r.name] && !allowed[r.name] {
				continue
			}
			got := run(t, prog.Insns, a.audit, nr)
			if (got == retAllow) != allowed[r.name] {
				t.Errorf("%s %s: %#x, want allowed %v", a.name, r.name, got, allowed[r.name])
			}
		}
	}
	if n := len(prog.Insns); n > 1300 {
		t.Errorf("docker's profile takes %d instructions", n)
	}
}

func TestRefusals(t *testing.T) {
	for name, p := range map[string]*specs.LinuxSeccomp{
		"action":       {DefaultAction: "SCMP_ACT_MAYBE"},
		"architecture": {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_VAX"}},
		"flag":         {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}},
		"notify write": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"write"}, Action: specs.ActNotify}}},
		"argument": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names: []string{"read"}, Action: specs.ActKill,
			Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}},
		}}},
	} {
		if _, err := compileFor(p, amd64Family); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: Compile = %v, want class ErrInvalidArgument", name, err)
		}
	}
}

func FuzzSeccompProfile(f *testing.F) {
	raw, err := os.ReadFile("testdata/docker.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p specs.LinuxSeccomp
		if json.Unmarshal(data, &p) != nil {
			return
		}
		prog, err := Compile(&p)
		if err != nil {
			return
		}
		run(t, prog.Insns, auditX8664, 0)
	})
}
