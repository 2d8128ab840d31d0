package plan

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// scheduler translates to struct sched_attr. Source: sched_setattr(2).
func scheduler(s *specs.Scheduler) (SchedAttr, error) {
	policies := map[specs.LinuxSchedulerPolicy]uint32{
		specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedISO: 4,
		specs.SchedIdle: 5, specs.SchedDeadline: 6,
	}
	flags := map[specs.LinuxSchedulerFlag]uint64{
		specs.SchedFlagResetOnFork: 1, specs.SchedFlagReclaim: 2, specs.SchedFlagDLOverrun: 4, specs.SchedFlagKeepPolicy: 8,
		specs.SchedFlagKeepParams: 16, specs.SchedFlagUtilClampMin: 32, specs.SchedFlagUtilClampMax: 64,
	}
	a := SchedAttr{Size: 48, Nice: s.Nice, Priority: uint32(s.Priority), Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period}
	p, ok := policies[s.Policy]
	if !ok {
		return a, fmt.Errorf("scheduler policy %q: %w", s.Policy, errdefs.ErrInvalidArgument)
	}
	a.Policy = p
	for _, f := range s.Flags {
		v, ok := flags[f]
		if !ok {
			return a, fmt.Errorf("scheduler flag %q: %w", f, errdefs.ErrInvalidArgument)
		}
		a.Flags |= v
	}
	switch {
	case s.Nice < -20 || s.Nice > 19:
		return a, fmt.Errorf("scheduler nice %d: %w", s.Nice, errdefs.ErrInvalidArgument)
	case s.Priority != 0 && s.Policy != specs.SchedFIFO && s.Policy != specs.SchedRR:
		return a, fmt.Errorf("scheduler priority is for SCHED_FIFO and SCHED_RR: %w", errdefs.ErrInvalidArgument)
	case s.Policy != specs.SchedDeadline && s.Runtime|s.Deadline|s.Period != 0:
		return a, fmt.Errorf("scheduler runtime, deadline and period are for SCHED_DEADLINE: %w", errdefs.ErrInvalidArgument)
	}
	return a, nil
}

// ioPriority translates to the value of ioprio_set(2): class in the upper bits.
func ioPriority(p *specs.LinuxIOPriority) (int, error) {
	classes := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}
	class, ok := classes[p.Class]
	if !ok {
		return 0, fmt.Errorf("io priority class %q: %w", p.Class, errdefs.ErrInvalidArgument)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return 0, fmt.Errorf("io priority %d: %w", p.Priority, errdefs.ErrInvalidArgument)
	}
	return class<<13 | p.Priority, nil
}

// memoryPolicy translates to set_mempolicy(2).
func memoryPolicy(m *specs.LinuxMemoryPolicy) (MemoryPolicy, error) {
	modes := map[specs.MemoryPolicyModeType]int{
		specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3, specs.MpolLocal: 4,
		specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
	}
	flags := map[specs.MemoryPolicyFlagType]int{
		specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13,
	}
	mode, ok := modes[m.Mode]
	if !ok {
		return MemoryPolicy{}, fmt.Errorf("invalid memory policy mode %q: %w", m.Mode, errdefs.ErrInvalidArgument)
	}
	op := MemoryPolicy{Mode: mode}
	for _, f := range m.Flags {
		v, ok := flags[f]
		if !ok {
			return op, fmt.Errorf("invalid memory policy flag %q: %w", f, errdefs.ErrInvalidArgument)
		}
		op.Mode |= v
	}
	if m.Nodes != "" {
		nodes, err := ParseCPUs(m.Nodes)
		if err != nil {
			return op, fmt.Errorf("invalid memory policy node: %w", err)
		}
		op.Nodes = nodes
	}
	return op, nil
}
