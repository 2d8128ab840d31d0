package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mkdirV1 makes the directory in each hierarchy. Controllers mounted together share one.
func (m *Manager) mkdirV1(made *[]string) error {
	for name, dir := range m.paths {
		if err := mkdirTracked(dir, made); err != nil {
			return err
		}
		if name == "cpuset" {
			if err := inheritCpuset(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// mkdirTracked is MkdirAll that notes what it made.
func mkdirTracked(dir string, made *[]string) error {
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, os.ErrNotExist) {
		if perr := mkdirTracked(filepath.Dir(dir), made); perr != nil {
			return perr
		}
		err = os.Mkdir(dir, 0o755)
	}
	switch {
	case err == nil:
		*made = append(*made, dir)
		return nil
	case errors.Is(err, os.ErrExist):
		return nil
	default:
		return err
	}
}

// inheritCpuset fills cpuset.cpus and cpuset.mems of dir and its ancestors from above:
// a v1 cpuset begins empty and takes no process until both are set.
func inheritCpuset(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if _, err := inheritCpusetFile(dir, file); err != nil {
			return err
		}
	}
	return nil
}

func inheritCpusetFile(dir, file string) (string, error) {
	value, err := read(dir, file)
	if err != nil || value != "" {
		return value, err
	}
	parent := filepath.Dir(dir)
	if !exists(parent, file) {
		return "", nil // dir is the root: nothing to take
	}
	if value, err = inheritCpusetFile(parent, file); err != nil {
		return "", err
	}
	return value, write(dir, file, value)
}

// applyV1 writes the limits, controller by controller.
func (m *Manager) applyV1(res *specs.LinuxResources) error {
	if len(res.Unified) > 0 {
		return fmt.Errorf("unified resources need cgroup v2, and this host uses v1: %w", errdefs.ErrInvalidArgument)
	}
	for _, set := range []func(*specs.LinuxResources) error{
		m.setDevicesV1, m.setMemoryV1, m.setCPUV1, m.setCpusetV1, m.setPidsV1, m.setBlockIOV1, m.setHugetlbV1, m.setNetworkV1, m.setRdma,
	} {
		if err := set(res); err != nil {
			return err
		}
	}
	return nil
}

// dir returns the directory of a v1 controller; the error is of class
// ErrInvalidArgument if the host does not have it.
func (m *Manager) dir(controller, what string) (string, error) {
	dir, ok := m.paths[controller]
	if !ok {
		return "", fmt.Errorf("%s: cgroup controller %s is not mounted on this host: %w", what, controller, errdefs.ErrInvalidArgument)
	}
	return dir, nil
}

// setDevicesV1 applies the rules in their order: v1 keeps them as the kernel's list.
func (m *Manager) setDevicesV1(res *specs.LinuxResources) error {
	if len(res.Devices) == 0 {
		return nil
	}
	dir, err := m.dir("devices", "device rules")
	if err != nil {
		return err
	}
	rules, err := compileRules(res.Devices)
	if err != nil {
		return err
	}
	for _, r := range rules {
		file := "devices.deny"
		if r.allow {
			file = "devices.allow"
		}
		if err := write(dir, file, r.String()); err != nil {
			if m.rootless && isDenied(err) {
				return nil
			}
			return err
		}
	}
	return nil
}

func (m *Manager) setMemoryV1(res *specs.LinuxResources) error {
	mem := res.Memory
	if mem == nil {
		return nil
	}
	if mem.Limit == nil && mem.Swap == nil && mem.Reservation == nil && mem.KernelTCP == nil && mem.Swappiness == nil && mem.DisableOOMKiller == nil {
		return nil
	}
	dir, err := m.dir("memory", "memory limit")
	if err != nil {
		return err
	}
	if err := setMemoryAndSwapV1(dir, mem); err != nil {
		return err
	}
	if mem.Reservation != nil && *mem.Reservation != 0 {
		if err := write(dir, "memory.soft_limit_in_bytes", itoa(*mem.Reservation)); err != nil {
			return err
		}
	}
	if mem.KernelTCP != nil && *mem.KernelTCP != 0 {
		if err := write(dir, "memory.kmem.tcp.limit_in_bytes", itoa(*mem.KernelTCP)); err != nil {
			return err
		}
	}
	if mem.Swappiness != nil {
		if *mem.Swappiness > 100 {
			return fmt.Errorf("memory swappiness %d is not within 0–100: %w", *mem.Swappiness, errdefs.ErrInvalidArgument)
		}
		if err := write(dir, "memory.swappiness", utoa(*mem.Swappiness)); err != nil {
			return err
		}
	}
	if mem.DisableOOMKiller != nil {
		return setOOMControl(dir, *mem.DisableOOMKiller)
	}
	return nil
}

// setOOMControl writes memory.oom_control only for a change: some kernels refuse it.
func setOOMControl(dir string, disable bool) error {
	value := "0"
	if disable {
		value = "1"
	}
	if kv, err := readKeyed(dir, "memory.oom_control"); err == nil && utoa(kv["oom_kill_disable"]) == value {
		return nil
	}
	return write(dir, "memory.oom_control", value)
}

// setMemoryAndSwapV1 writes memory.limit_in_bytes and memory.memsw.limit_in_bytes in
// the order that keeps memory ≤ memory+swap true at each moment, which the kernel
// insists on.
func setMemoryAndSwapV1(dir string, mem *specs.LinuxMemory) error {
	var limit, swap int64
	if mem.Limit != nil {
		limit = *mem.Limit
	}
	if mem.Swap != nil {
		swap = *mem.Swap
	}
	hasSwap := exists(dir, "memory.memsw.limit_in_bytes")
	if limit == -1 && swap == 0 && hasSwap {
		swap = -1 // no limit on memory means none on memory and swap together
	}
	if swap > 0 && limit > 0 && swap < limit {
		return fmt.Errorf("memory+swap limit %d is below the memory limit %d: %w", swap, limit, errdefs.ErrInvalidArgument)
	}
	if limit > 0 && mem.CheckBeforeUpdate != nil && *mem.CheckBeforeUpdate {
		if used, err := readUint(dir, "memory.usage_in_bytes"); err == nil && used > uint64(limit) {
			return fmt.Errorf("memory limit %d is below the current usage of %d: %w", limit, used, errdefs.ErrInvalidArgument)
		}
	}
	setLimit := func() error {
		if limit == 0 {
			return nil
		}
		return limitError(dir, "memory.usage_in_bytes", write(dir, "memory.limit_in_bytes", itoa(limit)))
	}
	setSwap := func() error {
		if swap == 0 {
			return nil
		}
		err := write(dir, "memory.memsw.limit_in_bytes", itoa(swap))
		if errors.Is(err, os.ErrNotExist) && !hasSwap && swap == -1 {
			return nil // no swap accounting: there is no limit to lift
		}
		return err
	}
	first, second := setLimit, setSwap
	if limit != 0 && swap != 0 {
		cur, err := readUint(dir, "memory.memsw.limit_in_bytes")
		if err == nil && (swap == -1 || (limit > 0 && cur < uint64(limit))) {
			first, second = setSwap, setLimit // growing: the outer limit first
		}
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

// limitError adds the usage to the error of a limit that the kernel refused as too low.
func limitError(dir, usageFile string, err error) error {
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	used, rerr := readUint(dir, usageFile)
	if rerr != nil {
		return err
	}
	return fmt.Errorf("%w (current usage is %d)", err, used)
}

func (m *Manager) setCPUV1(res *specs.LinuxResources) error {
	cpu := res.CPU
	if cpu == nil || (cpu.Shares == nil && cpu.Quota == nil && cpu.Period == nil && cpu.Burst == nil && cpu.Idle == nil &&
		cpu.RealtimePeriod == nil && cpu.RealtimeRuntime == nil) {
		return nil
	}
	dir, err := m.dir("cpu", "cpu limit")
	if err != nil {
		return err
	}
	if cpu.Shares != nil && *cpu.Shares != 0 {
		if err := setShares(dir, *cpu.Shares); err != nil {
			return err
		}
	}
	if err := setRealtime(dir, cpu); err != nil {
		return err
	}
	if err := setBandwidthV1(dir, cpu); err != nil {
		return err
	}
	if cpu.Idle != nil {
		return write(dir, "cpu.idle", itoa(*cpu.Idle))
	}
	return nil
}

// setShares tells when the kernel clamped the value instead of refusing it.
func setShares(dir string, shares uint64) error {
	if err := write(dir, "cpu.shares", utoa(shares)); err != nil {
		return err
	}
	got, err := readUint(dir, "cpu.shares")
	if err != nil {
		return err
	}
	switch {
	case shares > got:
		return fmt.Errorf("cpu shares %d: the maximum allowed cpu-shares is %d: %w", shares, got, errdefs.ErrInvalidArgument)
	case shares < got:
		return fmt.Errorf("cpu shares %d: the minimum allowed cpu-shares is %d: %w", shares, got, errdefs.ErrInvalidArgument)
	}
	return nil
}

// setRealtime writes the period first: a runtime above the period is refused.
func setRealtime(dir string, cpu *specs.LinuxCPU) error {
	if cpu.RealtimePeriod != nil && *cpu.RealtimePeriod != 0 {
		if err := write(dir, "cpu.rt_period_us", utoa(*cpu.RealtimePeriod)); err != nil {
			return err
		}
	}
	if cpu.RealtimeRuntime != nil && *cpu.RealtimeRuntime != 0 {
		return write(dir, "cpu.rt_runtime_us", itoa(*cpu.RealtimeRuntime))
	}
	return nil
}

// setBandwidthV1 writes burst, period and quota. A burst above the old quota, and a
// shorter period below the old quota, are refused until the quota is written.
func setBandwidthV1(dir string, cpu *specs.LinuxCPU) error {
	var late []func() error
	if cpu.Burst != nil {
		burst := func() error { return write(dir, "cpu.cfs_burst_us", utoa(*cpu.Burst)) }
		if err := burst(); errors.Is(err, unix.EINVAL) && cpu.Quota != nil {
			late = append(late, burst)
		} else if err != nil {
			return err
		}
	}
	if cpu.Period != nil && *cpu.Period != 0 {
		period := func() error { return write(dir, "cpu.cfs_period_us", utoa(*cpu.Period)) }
		if err := period(); errors.Is(err, unix.EINVAL) && cpu.Quota != nil && *cpu.Quota != 0 {
			late = append(late, period)
		} else if err != nil {
			return err
		}
	}
	if cpu.Quota != nil && *cpu.Quota != 0 {
		if err := write(dir, "cpu.cfs_quota_us", itoa(*cpu.Quota)); err != nil {
			return err
		}
	}
	for _, fn := range late {
		if err := fn(); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) setCpusetV1(res *specs.LinuxResources) error {
	if res.CPU == nil || (res.CPU.Cpus == "" && res.CPU.Mems == "") {
		return nil
	}
	dir, err := m.dir("cpuset", "cpuset")
	if err != nil {
		return err
	}
	return setCpuset(dir, res.CPU)
}

func setCpuset(dir string, cpu *specs.LinuxCPU) error {
	if cpu.Cpus != "" {
		if err := write(dir, "cpuset.cpus", cpu.Cpus); err != nil {
			return err
		}
	}
	if cpu.Mems != "" {
		return write(dir, "cpuset.mems", cpu.Mems)
	}
	return nil
}

// pidsMax returns the value of pids.max, and whether there is one to set. Zero means no
// limit was asked for: callers with a runtime-spec older than 1.3 cannot leave it out.
func pidsMax(res *specs.LinuxResources) (string, bool) {
	switch {
	case res.Pids == nil || res.Pids.Limit == nil || *res.Pids.Limit == 0:
		return "", false
	case *res.Pids.Limit < 0:
		return "max", true
	default:
		return itoa(*res.Pids.Limit), true
	}
}

func (m *Manager) setPidsV1(res *specs.LinuxResources) error {
	value, ok := pidsMax(res)
	if !ok {
		return nil
	}
	dir, err := m.dir("pids", "pids limit")
	if err != nil {
		return err
	}
	return write(dir, "pids.max", value)
}

func (m *Manager) setBlockIOV1(res *specs.LinuxResources) error {
	b := res.BlockIO
	if b == nil {
		return nil
	}
	dir, err := m.dir("blkio", "block I/O limit")
	if err != nil {
		return err
	}
	weight, weightDevice := "blkio.weight", "blkio.weight_device"
	if !exists(dir, weight) { // CFQ is gone since Linux 5.0
		weight, weightDevice = "blkio.bfq.weight", "blkio.bfq.weight_device"
	}
	if b.Weight != nil && *b.Weight != 0 {
		if err := write(dir, weight, utoa(uint64(*b.Weight))); err != nil {
			return err
		}
	}
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		if err := write(dir, "blkio.leaf_weight", utoa(uint64(*b.LeafWeight))); err != nil {
			return err
		}
	}
	for _, d := range b.WeightDevice {
		if d.Weight != nil && *d.Weight != 0 {
			if err := write(dir, weightDevice, device(d.Major, d.Minor)+" "+utoa(uint64(*d.Weight))); err != nil {
				return err
			}
		}
		if d.LeafWeight != nil && *d.LeafWeight != 0 {
			if err := write(dir, "blkio.leaf_weight_device", device(d.Major, d.Minor)+" "+utoa(uint64(*d.LeafWeight))); err != nil {
				return err
			}
		}
	}
	for _, t := range []struct {
		file    string
		devices []specs.LinuxThrottleDevice
	}{
		{"blkio.throttle.read_bps_device", b.ThrottleReadBpsDevice},
		{"blkio.throttle.write_bps_device", b.ThrottleWriteBpsDevice},
		{"blkio.throttle.read_iops_device", b.ThrottleReadIOPSDevice},
		{"blkio.throttle.write_iops_device", b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.devices {
			if err := write(dir, t.file, device(d.Major, d.Minor)+" "+utoa(d.Rate)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Manager) setHugetlbV1(res *specs.LinuxResources) error {
	for _, l := range res.HugepageLimits {
		dir, err := m.dir("hugetlb", "huge page limit")
		if err != nil {
			return err
		}
		if strings.Contains(l.Pagesize, "/") {
			return fmt.Errorf("huge page size %q: %w", l.Pagesize, errdefs.ErrInvalidArgument)
		}
		if err := write(dir, "hugetlb."+l.Pagesize+".limit_in_bytes", utoa(l.Limit)); err != nil {
			return err
		}
		// Reservations are limited too where the kernel can (Linux 5.7).
		if err := write(dir, "hugetlb."+l.Pagesize+".rsvd.limit_in_bytes", utoa(l.Limit)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (m *Manager) setNetworkV1(res *specs.LinuxResources) error {
	if res.Network == nil {
		return nil
	}
	if res.Network.ClassID != nil && *res.Network.ClassID != 0 {
		dir, err := m.dir("net_cls", "network class")
		if err != nil {
			return err
		}
		if err := write(dir, "net_cls.classid", utoa(uint64(*res.Network.ClassID))); err != nil {
			return err
		}
	}
	for _, p := range res.Network.Priorities {
		dir, err := m.dir("net_prio", "network priority")
		if err != nil {
			return err
		}
		if err := write(dir, "net_prio.ifpriomap", p.Name+" "+utoa(uint64(p.Priority))); err != nil {
			return err
		}
	}
	return nil
}

// setRdma serves both versions: the file is the same.
func (m *Manager) setRdma(res *specs.LinuxResources) error {
	for name, l := range res.Rdma {
		dir := m.Path("rdma")
		if dir == "" {
			return fmt.Errorf("rdma limit: cgroup controller rdma is not mounted on this host: %w", errdefs.ErrInvalidArgument)
		}
		value := name
		if l.HcaHandles != nil {
			value += " hca_handle=" + utoa(uint64(*l.HcaHandles))
		}
		if l.HcaObjects != nil {
			value += " hca_object=" + utoa(uint64(*l.HcaObjects))
		}
		if err := write(dir, "rdma.max", value); err != nil {
			return err
		}
	}
	return nil
}

func device(major, minor int64) string { return itoa(major) + ":" + itoa(minor) }
func itoa(n int64) string              { return strconv.FormatInt(n, 10) }
func utoa(n uint64) string             { return strconv.FormatUint(n, 10) }
