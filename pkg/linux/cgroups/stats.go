package cgroups

import (
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
)

// Stats is one reading. A field that the host does not account is zero; a limit that is
// not set is the largest number (v1 rounds it down to a page).
type Stats struct {
	V2      bool
	CPU     CPUStats
	Memory  MemoryStats
	Pids    PidsStats
	BlockIO BlockIOStats
	Hugetlb []HugetlbStats
	Rdma    []RdmaStats
	// Network priorities and the like have no counters.
}

// CPUStats are times in nanoseconds since the cgroup was made.
type CPUStats struct {
	Usage, User, Kernel       uint64
	PerCPU                    []uint64 // v1 only
	Periods, ThrottledPeriods uint64
	ThrottledTime             uint64
	Bursts, BurstTime         uint64 // v2 only
	Pressure                  *Pressure
}

// MemoryStats are sizes in bytes.
type MemoryStats struct {
	Usage, MaxUsage, Limit, FailCount uint64
	Swap                              MemoryEntry // v1: memory and swap together; v2: swap alone
	Kernel, KernelTCP                 MemoryEntry // v1 only
	Low, High, MaxEvents              uint64      // v2 events
	OOM, OOMKills                     uint64
	Stat                              map[string]uint64 // memory.stat as the kernel names it
	Pressure                          *Pressure
}

// MemoryEntry is one of v1's groups of four files.
type MemoryEntry struct{ Usage, MaxUsage, Limit, FailCount uint64 }

// PidsStats counts tasks. A limit of zero means none.
type PidsStats struct{ Current, Limit uint64 }

// BlockIOStats are counters by device and operation.
type BlockIOStats struct {
	ServiceBytes, Serviced []BlockIOEntry // recursive
	V2                     []IOEntry
	Pressure               *Pressure
}

// BlockIOEntry is a v1 counter; Op is "Read", "Write", "Sync", "Async", "Discard", "Total".
type BlockIOEntry struct {
	Major, Minor uint64
	Op           string
	Value        uint64
}

// IOEntry is a line of io.stat.
type IOEntry struct {
	Major, Minor                             uint64
	ReadBytes, WriteBytes, ReadIOs, WriteIOs uint64
}

// HugetlbStats are sizes in bytes.
type HugetlbStats struct {
	PageSize                          string
	Usage, MaxUsage, Limit, FailCount uint64
}

// RdmaStats are the resources in use on a device.
type RdmaStats struct {
	Device                 string
	HcaHandles, HcaObjects uint64
}

// Pressure is a PSI file: shares in per cent, times in microseconds. v2 only.
type Pressure struct{ Some, Full PressureLine }

// PressureLine is one line of a PSI file.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// Stats reads the counters of the cgroup. The error is of class ErrNotFound if the
// cgroup is gone.
func (m *Manager) Stats() (*Stats, error) {
	if len(m.paths) == 0 {
		return nil, fmt.Errorf("read cgroup: the container has none: %w", errdefs.ErrNotFound)
	}
	if _, err := os.Stat(m.anyDir()); err != nil {
		return nil, fmt.Errorf("read cgroup: %w", classified(err))
	}
	if m.isV2() {
		return statsV2(m.paths[""]), nil
	}
	return m.statsV1(), nil
}

// number is readUint for counters that may be missing.
func number(dir, file string) uint64 {
	n, err := readUint(dir, file)
	if err != nil {
		return 0
	}
	return n
}

// userHZ is the unit of cpuacct.stat: Linux fixes USER_HZ to 100 on all architectures
// that Go supports.
const nanosPerTick = 1e9 / 100

func (m *Manager) statsV1() *Stats {
	s := &Stats{}
	if dir, ok := m.paths["cpuacct"]; ok {
		s.CPU.Usage = number(dir, "cpuacct.usage")
		if text, err := read(dir, "cpuacct.usage_percpu"); err == nil {
			for f := range strings.FieldsSeq(text) {
				s.CPU.PerCPU = append(s.CPU.PerCPU, parseUint(f))
			}
		}
		if kv, err := readKeyed(dir, "cpuacct.stat"); err == nil {
			s.CPU.User, s.CPU.Kernel = kv["user"]*nanosPerTick, kv["system"]*nanosPerTick
		}
	}
	if dir, ok := m.paths["cpu"]; ok {
		if kv, err := readKeyed(dir, "cpu.stat"); err == nil {
			s.CPU.Periods, s.CPU.ThrottledPeriods, s.CPU.ThrottledTime = kv["nr_periods"], kv["nr_throttled"], kv["throttled_time"]
		}
	}
	if dir, ok := m.paths["memory"]; ok {
		s.Memory = memoryV1(dir)
	}
	if dir, ok := m.paths["pids"]; ok {
		s.Pids = pidsStats(dir)
	}
	if dir, ok := m.paths["blkio"]; ok {
		s.BlockIO.ServiceBytes = blkioEntries(dir, "io_service_bytes_recursive")
		s.BlockIO.Serviced = blkioEntries(dir, "io_serviced_recursive")
	}
	if dir, ok := m.paths["hugetlb"]; ok {
		s.Hugetlb = hugetlbStats(dir, "usage_in_bytes", "limit_in_bytes")
	}
	if dir, ok := m.paths["rdma"]; ok {
		s.Rdma = rdmaStats(dir)
	}
	return s
}

func memoryV1(dir string) MemoryStats {
	entry := func(prefix string) MemoryEntry {
		return MemoryEntry{
			Usage: number(dir, prefix+"usage_in_bytes"), MaxUsage: number(dir, prefix+"max_usage_in_bytes"),
			Limit: number(dir, prefix+"limit_in_bytes"), FailCount: number(dir, prefix+"failcnt"),
		}
	}
	e := entry("memory.")
	mem := MemoryStats{
		Usage: e.Usage, MaxUsage: e.MaxUsage, Limit: e.Limit, FailCount: e.FailCount,
		Swap: entry("memory.memsw."), Kernel: entry("memory.kmem."), KernelTCP: entry("memory.kmem.tcp."),
	}
	mem.Stat, _ = readKeyed(dir, "memory.stat")
	if kv, err := readKeyed(dir, "memory.oom_control"); err == nil {
		mem.OOM, mem.OOMKills = kv["under_oom"], kv["oom_kill"]
	}
	return mem
}

func pidsStats(dir string) PidsStats {
	s := PidsStats{Current: number(dir, "pids.current"), Limit: number(dir, "pids.max")}
	if s.Limit == ^uint64(0) {
		s.Limit = 0
	}
	return s
}

// blkioEntries reads the throttle layer, which counts with every I/O scheduler, else
// what BFQ counts.
func blkioEntries(dir, what string) []BlockIOEntry {
	for _, prefix := range []string{"blkio.throttle.", "blkio.bfq.", "blkio."} {
		if e := blkioFile(dir, prefix+what); len(e) > 0 {
			return e
		}
	}
	return nil
}

// blkioFile reads "8:0 Read 4096" lines; the last line, "Total N", has no device.
func blkioFile(dir, file string) []BlockIOEntry {
	text, err := read(dir, file)
	if err != nil {
		return nil
	}
	var out []BlockIOEntry
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		major, minor, ok := strings.Cut(f[0], ":")
		if !ok {
			continue
		}
		out = append(out, BlockIOEntry{Major: parseUint(major), Minor: parseUint(minor), Op: f[1], Value: parseUint(f[2])})
	}
	return out
}

// hugetlbStats finds the page sizes by the files that are there.
func hugetlbStats(dir, usage, limit string) []HugetlbStats {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []HugetlbStats
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), "hugetlb.")
		if !ok {
			continue
		}
		size, ok := strings.CutSuffix(rest, "."+usage)
		if !ok || strings.Contains(size, ".") {
			continue
		}
		p := "hugetlb." + size + "."
		out = append(out, HugetlbStats{
			PageSize: size, Usage: number(dir, p+usage), Limit: number(dir, p+limit),
			MaxUsage: number(dir, p+"max_usage_in_bytes"), FailCount: number(dir, p+"failcnt"),
		})
	}
	return out
}

// rdmaStats reads "mlx4_0 hca_handle=2 hca_object=2000" lines.
func rdmaStats(dir string) []RdmaStats {
	text, err := read(dir, "rdma.current")
	if err != nil {
		return nil
	}
	var out []RdmaStats
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		s := RdmaStats{Device: f[0]}
		for _, kv := range f[1:] {
			switch k, v, _ := strings.Cut(kv, "="); k {
			case "hca_handle":
				s.HcaHandles = parseUint(v)
			case "hca_object":
				s.HcaObjects = parseUint(v)
			}
		}
		out = append(out, s)
	}
	return out
}
