package seccompbpf

import (
	"fmt"
	"runtime"
	"slices"
	"sort"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Filter flags of seccomp(2).
const (
	FlagTSync            = 1 << 0
	FlagLog              = 1 << 1
	FlagSpecAllow        = 1 << 2
	FlagNewListener      = 1 << 3
	FlagWaitKillableRecv = 1 << 5
)

// Program is a compiled profile.
type Program struct {
	// Insns is what the kernel loads, at most 4096 instructions.
	Insns []Insn
	// Flags are for SECCOMP_SET_MODE_FILTER. TSYNC is never set: the caller has one thread.
	Flags uint32
	// Notify says that a rule hands calls to a listener; FlagNewListener is set.
	Notify bool
}

// maxInsns is BPF_MAXINSNS.
const maxInsns = 4096

// Compile makes the program of a profile for this machine's architecture and those
// that its kernel also runs, as far as the profile lists them. Errors are of class
// ErrInvalidArgument.
func Compile(p *specs.LinuxSeccomp) (*Program, error) {
	return compileFor(p, families[runtime.GOARCH])
}

func compileFor(p *specs.LinuxSeccomp, family []specs.Arch) (*Program, error) {
	if len(family) == 0 {
		return nil, fmt.Errorf("seccomp on %s: %w", runtime.GOARCH, errdefs.ErrNotImplemented)
	}
	def, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("seccomp default action: %w", err)
	}
	for _, a := range p.Architectures {
		if !known(a) {
			return nil, fmt.Errorf("seccomp architecture %q: %w", a, errdefs.ErrInvalidArgument)
		}
	}
	rules, err := parseRules(p, def)
	if err != nil {
		return nil, err
	}
	prog := &Program{}
	if prog.Flags, err = flags(p.Flags); err != nil {
		return nil, err
	}
	for _, r := range rules {
		prog.Notify = prog.Notify || r.ret == retNotify
	}
	if def == retNotify {
		return nil, fmt.Errorf("seccomp default action %s: %w", p.DefaultAction, errdefs.ErrInvalidArgument)
	}
	if prog.Notify {
		prog.Flags |= FlagNewListener
	} else {
		prog.Flags &^= FlagWaitKillableRecv
	}
	var sections []section
	for i, name := range family {
		if i > 0 && !slices.Contains(p.Architectures, name) {
			continue // the native architecture is always part of a filter
		}
		a, ok := find(name)
		if !ok {
			continue
		}
		sections = append(sections, section{a, intervals(a, rules, def)})
	}
	prog.Insns = emit(sections)
	if len(prog.Insns) > maxInsns {
		return nil, fmt.Errorf("seccomp profile needs %d instructions, the kernel takes %d: %w", len(prog.Insns), maxInsns, errdefs.ErrInvalidArgument)
	}
	return prog, nil
}

// section is the code of one architecture.
type section struct {
	arch   arch
	ranges []interval
}

// condition compares an argument.
type condition struct {
	index      uint
	op         specs.LinuxSeccompOperator
	value, two uint64
}

// rule is what to return for a call if all conditions hold.
type rule struct {
	name  string
	ret   uint32
	conds []condition
	noop  bool // says what the default says: it only counts as "the profile knows this call"
}

func parseRules(p *specs.LinuxSeccomp, def uint32) ([]rule, error) {
	var rules []rule
	for _, s := range p.Syscalls {
		ret, err := action(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, fmt.Errorf("seccomp rule for %q: %w", s.Names, err)
		}
		groups, err := conditionGroups(s.Args)
		if err != nil {
			return nil, fmt.Errorf("seccomp rule for %q: %w", s.Names, err)
		}
		for _, name := range s.Names {
			if ret == retNotify && (name == "write" || name == "sendmsg") {
				// The runtime itself needs these to hand over the listener.
				return nil, fmt.Errorf("%s cannot be used for the %s syscall: %w", s.Action, name, errdefs.ErrInvalidArgument)
			}
			for _, g := range groups {
				rules = append(rules, rule{name: name, ret: ret, conds: g, noop: ret == def})
			}
		}
	}
	return rules, nil
}

// conditionGroups splits the conditions of one spec entry into rules: one, or one for
// each condition if two of them test the same argument.
func conditionGroups(args []specs.LinuxSeccompArg) ([][]condition, error) {
	var all []condition
	seen := [6]int{}
	for _, a := range args {
		if a.Index > 5 {
			return nil, fmt.Errorf("argument index %d: %w", a.Index, errdefs.ErrInvalidArgument)
		}
		switch a.Op {
		case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
		default:
			return nil, fmt.Errorf("operator %q: %w", a.Op, errdefs.ErrInvalidArgument)
		}
		seen[a.Index]++
		all = append(all, condition{a.Index, a.Op, a.Value, a.ValueTwo})
	}
	if slices.Max(seen[:]) < 2 {
		return [][]condition{all}, nil
	}
	var groups [][]condition
	for _, c := range all {
		groups = append(groups, []condition{c})
	}
	return groups, nil
}

// interval is a range of system call numbers with one answer; it ends where the next
// one starts.
type interval struct {
	start uint32
	ret   uint32
	rules []rule // conditional rules, tried in order before ret
}

// intervals lays out all numbers of an architecture.
func intervals(a arch, rules []rule, def uint32) []interval {
	type call struct {
		nr    uint32
		ret   uint32
		fixed bool
		rules []rule
	}
	calls := map[uint32]*call{}
	last := uint32(0)
	add := func(name string, r rule) {
		nr, ok := a.number(name)
		if !ok {
			return
		}
		last = max(last, nr)
		if r.noop {
			return
		}
		c := calls[nr]
		if c == nil {
			c = &call{nr: nr, ret: def}
			calls[nr] = c
		}
		switch {
		case c.fixed:
		case len(r.conds) == 0:
			c.ret, c.fixed, c.rules = r.ret, true, nil
		default:
			c.rules = append(c.rules, r)
		}
	}
	for _, r := range rules {
		add(r.name, r)
		if m, ok := multiplexed[r.name]; ok && a.col == col386 && len(r.conds) == 0 {
			add(m.call, rule{m.call, r.ret, []condition{{0, specs.OpEqualTo, m.nr, 0}}, r.noop})
		}
	}
	sorted := make([]*call, 0, len(calls))
	for _, c := range calls {
		sorted = append(sorted, c)
	}
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].nr < sorted[j].nr })
	out := []interval{{start: 0, ret: def}}
	put := func(iv interval) {
		p := &out[len(out)-1]
		switch {
		case p.start == iv.start:
			*p = iv
			if len(out) > 1 && same(out[len(out)-2], iv) {
				out = out[:len(out)-1]
			}
		case !same(*p, iv):
			out = append(out, iv)
		}
	}
	for _, c := range sorted {
		put(interval{c.nr, c.ret, c.rules})
		put(interval{start: c.nr + 1, ret: def})
	}
	if denies(def) && last > 0 {
		put(interval{start: last + 1, ret: retErrno | enosys})
	}
	if a.audit == auditX8664 && !a.x32 {
		put(interval{start: x32Bit, ret: retKillThread})
		put(interval{start: ^uint32(0), ret: def}) // -1: a tracer skipped the call
	}
	return out
}

func same(a, b interval) bool { return len(a.rules) == 0 && len(b.rules) == 0 && a.ret == b.ret }
