package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mkdirV2 walks from the mount point down to the cgroup, makes what is missing and
// hands every available controller down. Where a parent with processes cannot do that, only
// an unlimited cgroup is made.
func (m *Manager) mkdirV2(made *[]string, unlimited bool) error {
	dir := m.paths[""]
	rel, err := filepath.Rel(m.unified, dir)
	if err != nil || strings.HasPrefix(rel, "..") {
		return fmt.Errorf("cgroup %q is not below %q: %w", dir, m.unified, errdefs.ErrInvalidArgument)
	}
	at := m.unified
	for part := range strings.SplitSeq(rel, "/") {
		if err := enableControllers(at); err != nil && !(unlimited && errors.Is(err, unix.EBUSY)) {
			return err
		}
		at = filepath.Join(at, part)
		if err := mkdirTracked(at, made); err != nil {
			return err
		}
	}
	if t, err := read(at, "cgroup.type"); err == nil && t != "domain" {
		return fmt.Errorf("cgroup %q is of type %q, which holds no ordinary processes: %w", at, t, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// enableControllers makes the controllers of dir available to its children. It writes
// nothing if they are.
func enableControllers(dir string) error {
	have, err := read(dir, "cgroup.controllers")
	if err != nil {
		return err
	}
	enabled, err := read(dir, "cgroup.subtree_control")
	if err != nil {
		return err
	}
	var missing []string
	on := strings.Fields(enabled)
	for c := range strings.FieldsSeq(have) {
		if !slices.Contains(on, c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	err = write(dir, "cgroup.subtree_control", strings.Join(missing, " "))
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("cgroup %q has processes of its own, so its children get no controllers; move them into a child cgroup, or choose another parent: %w", dir, err)
	}
	if isDenied(err) {
		return nil // a delegated subtree: a limit that needs the controller will say so
	}
	for _, c := range missing { // one that cannot be enabled must not keep the others off
		_ = write(dir, "cgroup.subtree_control", c)
	}
	return nil
}

func (m *Manager) applyV2(res *specs.LinuxResources) error {
	dir := m.paths[""]
	if err := setDevicesV2(dir, res.Devices); err != nil && (!m.rootless || !isDenied(err)) {
		return err
	}
	for _, set := range []func(string, *specs.LinuxResources) error{setMemoryV2, setCPUV2, setPidsV2, setIOV2, setHugetlbV2} {
		if err := set(dir, res); err != nil {
			return explainMissing(dir, err)
		}
	}
	if err := m.setRdma(res); err != nil {
		return explainMissing(dir, err)
	}
	return setUnified(dir, res.Unified)
}

// explainMissing says which controller a missing file belongs to.
func explainMissing(dir string, err error) error {
	var w *writeError
	if !errors.As(err, &w) || w.errno != unix.ENOENT || !exists(dir, "cgroup.controllers") {
		return err
	}
	controller, _, _ := strings.Cut(filepath.Base(w.path), ".")
	have, _ := read(dir, "cgroup.controllers")
	if slices.Contains(strings.Fields(have), controller) {
		return fmt.Errorf("%w; this kernel does not have that limit", err)
	}
	return fmt.Errorf("%w; controller %q is not enabled here (enabled: %s)", err, controller, have)
}

// limitV2 turns a limit of the spec into what v2 takes; -1 is "max".
func limitV2(n int64) string {
	if n == -1 {
		return "max"
	}
	return itoa(n)
}

// swapV2 converts the spec's limit of memory and swap together, as v1 counts, to the
// limit of swap alone that v2 takes.
func swapV2(mem *specs.LinuxMemory) (string, error) {
	switch {
	case mem.Swap == nil || *mem.Swap == 0:
		if mem.Limit != nil && *mem.Limit == -1 && (mem.Swap == nil || *mem.Swap == 0) {
			return "max", nil
		}
		return "", nil
	case *mem.Swap == -1:
		return "max", nil
	case mem.Limit == nil || *mem.Limit == 0 || *mem.Limit == -1:
		return "", fmt.Errorf("memory+swap limit %d needs a memory limit: %w", *mem.Swap, errdefs.ErrInvalidArgument)
	case *mem.Swap < 0 || *mem.Limit < 0:
		return "", fmt.Errorf("memory limit %d with swap %d: only -1 may be negative: %w", *mem.Limit, *mem.Swap, errdefs.ErrInvalidArgument)
	case *mem.Swap < *mem.Limit:
		return "", fmt.Errorf("memory+swap limit %d is below the memory limit %d: %w", *mem.Swap, *mem.Limit, errdefs.ErrInvalidArgument)
	default:
		return itoa(*mem.Swap - *mem.Limit), nil
	}
}

func setMemoryV2(dir string, res *specs.LinuxResources) error {
	mem := res.Memory
	if mem == nil {
		return nil
	}
	swap, err := swapV2(mem)
	if err != nil {
		return err
	}
	if mem.CheckBeforeUpdate != nil && *mem.CheckBeforeUpdate && mem.Limit != nil && *mem.Limit > 0 {
		// memory.max below the usage invokes the OOM killer instead of failing.
		if used, err := readUint(dir, "memory.current"); err == nil && used > uint64(*mem.Limit) {
			return fmt.Errorf("memory limit %d is below the current usage of %d: %w", *mem.Limit, used, errdefs.ErrInvalidArgument)
		}
	}
	if swap != "" {
		err := write(dir, "memory.swap.max", swap)
		if err != nil && !(errors.Is(err, os.ErrNotExist) && (swap == "max" || swap == "0")) {
			return err // without swap in the kernel there is nothing to limit or to lift
		}
	}
	if mem.Limit != nil && *mem.Limit != 0 {
		if err := write(dir, "memory.max", limitV2(*mem.Limit)); err != nil {
			return err
		}
	}
	if mem.Reservation != nil && *mem.Reservation != 0 {
		return write(dir, "memory.low", limitV2(*mem.Reservation))
	}
	return nil
}

// CPUWeight converts cpu.shares of v1 (2–262144, 1024 usual) to cpu.weight of v2
// (1–10000, 100 usual), so that the two defaults and the two ends meet. Zero stays zero:
// not set.
//
// Source: runc 1.3 and crun 1.23 changed from a straight line, which turned 1024 into
// 39, to this curve: 10^((l²/612) + (125·l/612) − 7/34), l = log2(shares).
func CPUWeight(shares uint64) uint64 {
	switch {
	case shares == 0:
		return 0
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	return weightCurve(shares)
}

func setCPUV2(dir string, res *specs.LinuxResources) error {
	cpu := res.CPU
	if cpu == nil {
		return nil
	}
	if cpu.RealtimePeriod != nil && *cpu.RealtimePeriod != 0 || cpu.RealtimeRuntime != nil && *cpu.RealtimeRuntime != 0 {
		return fmt.Errorf("realtime cpu limits do not exist on cgroup v2: %w", errdefs.ErrInvalidArgument)
	}
	if cpu.Idle != nil {
		if err := write(dir, "cpu.idle", itoa(*cpu.Idle)); err != nil {
			return err
		}
	}
	idle := cpu.Idle != nil && *cpu.Idle == 1 // an idle cgroup has no weight
	if cpu.Shares != nil && *cpu.Shares != 0 && !idle {
		if err := write(dir, "cpu.weight", utoa(CPUWeight(*cpu.Shares))); err != nil {
			return err
		}
	}
	if err := setBandwidthV2(dir, cpu); err != nil {
		return err
	}
	return setCpuset(dir, cpu)
}

func setBandwidthV2(dir string, cpu *specs.LinuxCPU) error {
	burst := func() error { return write(dir, "cpu.max.burst", utoa(*cpu.Burst)) }
	late := false
	if cpu.Burst != nil {
		if err := burst(); errors.Is(err, unix.EINVAL) && cpu.Quota != nil {
			late = true // above the old quota
		} else if err != nil {
			return err
		}
	}
	hasQuota := cpu.Quota != nil && *cpu.Quota != 0
	hasPeriod := cpu.Period != nil && *cpu.Period != 0
	if hasQuota || hasPeriod {
		var value string
		switch {
		case !hasQuota: // keep the quota, change the period
			old, err := read(dir, "cpu.max")
			if err != nil {
				return err
			}
			value, _, _ = strings.Cut(old, " ")
		case *cpu.Quota < 0:
			value = "max"
		default:
			value = itoa(*cpu.Quota)
		}
		if hasPeriod {
			value += " " + utoa(*cpu.Period)
		}
		if err := write(dir, "cpu.max", value); err != nil {
			return err
		}
	}
	if late {
		return burst()
	}
	return nil
}

func setPidsV2(dir string, res *specs.LinuxResources) error {
	value, ok := pidsMax(res)
	if !ok {
		return nil
	}
	return write(dir, "pids.max", value)
}

// ioWeight converts blkio.weight of v1 (10–1000) to io.weight of v2 (1–10000).
func ioWeight(w uint16) uint64 {
	if w == 0 {
		return 0
	}
	if w < 10 {
		w = 10
	}
	return 1 + (uint64(w)-10)*9999/990
}

func setIOV2(dir string, res *specs.LinuxResources) error {
	b := res.BlockIO
	if b == nil {
		return nil
	}
	bfq := exists(dir, "io.bfq.weight")
	if b.Weight != nil && *b.Weight != 0 {
		file, value := "io.weight", "default "+utoa(ioWeight(*b.Weight))
		if bfq {
			file, value = "io.bfq.weight", utoa(uint64(*b.Weight))
		}
		if err := write(dir, file, value); err != nil {
			return err
		}
	}
	for _, d := range b.WeightDevice {
		if d.Weight == nil || *d.Weight == 0 {
			continue
		}
		file, value := "io.weight", ioWeight(*d.Weight)
		if bfq {
			file, value = "io.bfq.weight", uint64(*d.Weight)
		}
		if err := write(dir, file, device(d.Major, d.Minor)+" "+utoa(value)); err != nil {
			return err
		}
	}
	for _, t := range []struct {
		key     string
		devices []specs.LinuxThrottleDevice
	}{{"rbps", b.ThrottleReadBpsDevice}, {"wbps", b.ThrottleWriteBpsDevice}, {"riops", b.ThrottleReadIOPSDevice}, {"wiops", b.ThrottleWriteIOPSDevice}} {
		for _, d := range t.devices {
			rate := utoa(d.Rate)
			if d.Rate == 0 {
				rate = "max"
			}
			if err := write(dir, "io.max", device(d.Major, d.Minor)+" "+t.key+"="+rate); err != nil {
				return err
			}
		}
	}
	return nil
}

func setHugetlbV2(dir string, res *specs.LinuxResources) error {
	for _, l := range res.HugepageLimits {
		if strings.Contains(l.Pagesize, "/") {
			return fmt.Errorf("huge page size %q: %w", l.Pagesize, errdefs.ErrInvalidArgument)
		}
		if err := write(dir, "hugetlb."+l.Pagesize+".max", utoa(l.Limit)); err != nil {
			return err
		}
		if err := write(dir, "hugetlb."+l.Pagesize+".rsvd.max", utoa(l.Limit)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// setUnified writes the spec's own v2 files, in the order of their names. A value of
// several lines is written line by line, as cgroupfs takes them.
func setUnified(dir string, unified map[string]string) error {
	keys := make([]string, 0, len(unified))
	for k := range unified {
		if strings.Contains(k, "/") || !strings.Contains(k, ".") {
			return fmt.Errorf("unified resource %q must be a file name with a controller: %w", k, errdefs.ErrInvalidArgument)
		}
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		for line := range strings.SplitSeq(strings.TrimRight(unified[k], "\n"), "\n") {
			if err := write(dir, k, line); err != nil {
				return explainMissing(dir, err)
			}
		}
	}
	return nil
}
