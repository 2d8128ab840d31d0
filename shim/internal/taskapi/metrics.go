package taskapi

import (
	"strconv"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"

	"strata/pkg/linux/cgroups"
)

// statsToWire packs a measurement as the message that clients of the host's cgroup
// version expect.
func statsToWire(s *cgroups.Stats) (*task.StatsResponse, error) {
	var m proto.Message
	if s.V2 {
		m = metricsV2(s)
	} else {
		m = metricsV1(s)
	}
	a, err := toAny(m)
	if err != nil {
		return nil, err
	}
	return &task.StatsResponse{Stats: a}, nil
}

func metricsV1(s *cgroups.Stats) *v1.Metrics {
	stat := s.Memory.Stat
	m := &v1.Metrics{
		Pids: &v1.PidsStat{Current: s.Pids.Current, Limit: s.Pids.Limit},
		CPU: &v1.CPUStat{
			Usage:      &v1.CPUUsage{Total: s.CPU.Usage, Kernel: s.CPU.Kernel, User: s.CPU.User, PerCPU: s.CPU.PerCPU},
			Throttling: &v1.Throttle{Periods: s.CPU.Periods, ThrottledPeriods: s.CPU.ThrottledPeriods, ThrottledTime: s.CPU.ThrottledTime},
		},
		Memory: &v1.MemoryStat{
			Cache: stat["cache"], RSS: stat["rss"], RSSHuge: stat["rss_huge"], MappedFile: stat["mapped_file"],
			Dirty: stat["dirty"], Writeback: stat["writeback"], PgPgIn: stat["pgpgin"], PgPgOut: stat["pgpgout"],
			PgFault: stat["pgfault"], PgMajFault: stat["pgmajfault"], InactiveAnon: stat["inactive_anon"],
			ActiveAnon: stat["active_anon"], InactiveFile: stat["inactive_file"], ActiveFile: stat["active_file"],
			Unevictable: stat["unevictable"], HierarchicalMemoryLimit: stat["hierarchical_memory_limit"],
			HierarchicalSwapLimit: stat["hierarchical_memsw_limit"], TotalCache: stat["total_cache"],
			TotalRSS: stat["total_rss"], TotalRSSHuge: stat["total_rss_huge"], TotalMappedFile: stat["total_mapped_file"],
			TotalDirty: stat["total_dirty"], TotalWriteback: stat["total_writeback"], TotalPgPgIn: stat["total_pgpgin"],
			TotalPgPgOut: stat["total_pgpgout"], TotalPgFault: stat["total_pgfault"], TotalPgMajFault: stat["total_pgmajfault"],
			TotalInactiveAnon: stat["total_inactive_anon"], TotalActiveAnon: stat["total_active_anon"],
			TotalInactiveFile: stat["total_inactive_file"], TotalActiveFile: stat["total_active_file"],
			TotalUnevictable: stat["total_unevictable"],
			Usage: &v1.MemoryEntry{
				Usage: s.Memory.Usage, Max: s.Memory.MaxUsage, Limit: s.Memory.Limit, Failcnt: s.Memory.FailCount,
			},
			Swap: memoryEntry(s.Memory.Swap), Kernel: memoryEntry(s.Memory.Kernel), KernelTCP: memoryEntry(s.Memory.KernelTCP),
		},
		MemoryOomControl: &v1.MemoryOomControl{OomKill: s.Memory.OOMKills},
		Blkio: &v1.BlkIOStat{
			IoServiceBytesRecursive: blkioEntries(s.BlockIO.ServiceBytes),
			IoServicedRecursive:     blkioEntries(s.BlockIO.Serviced),
		},
	}
	for _, h := range s.Hugetlb {
		m.Hugetlb = append(m.Hugetlb, &v1.HugetlbStat{Pagesize: h.PageSize, Usage: h.Usage, Max: h.MaxUsage, Failcnt: h.FailCount})
	}
	if len(s.Rdma) > 0 {
		m.Rdma = &v1.RdmaStat{}
	}
	for _, r := range s.Rdma {
		m.Rdma.Current = append(m.Rdma.Current, &v1.RdmaEntry{Device: r.Device, HcaHandles: uint32(r.HcaHandles), HcaObjects: uint32(r.HcaObjects)})
	}
	return m
}

func memoryEntry(e cgroups.MemoryEntry) *v1.MemoryEntry {
	return &v1.MemoryEntry{Usage: e.Usage, Max: e.MaxUsage, Limit: e.Limit, Failcnt: e.FailCount}
}

func blkioEntries(entries []cgroups.BlockIOEntry) []*v1.BlkIOEntry {
	wire := make([]*v1.BlkIOEntry, 0, len(entries))
	for _, e := range entries {
		wire = append(wire, &v1.BlkIOEntry{
			Op: e.Op, Major: e.Major, Minor: e.Minor, Value: e.Value,
			Device: strconv.FormatUint(e.Major, 10) + ":" + strconv.FormatUint(e.Minor, 10),
		})
	}
	return wire
}

func metricsV2(s *cgroups.Stats) *v2.Metrics {
	stat := s.Memory.Stat
	const usec = 1000 // nanoseconds; the kernel counts microseconds
	m := &v2.Metrics{
		Pids: &v2.PidsStat{Current: s.Pids.Current, Limit: s.Pids.Limit},
		CPU: &v2.CPUStat{
			UsageUsec: s.CPU.Usage / usec, UserUsec: s.CPU.User / usec, SystemUsec: s.CPU.Kernel / usec,
			NrPeriods: s.CPU.Periods, NrThrottled: s.CPU.ThrottledPeriods, ThrottledUsec: s.CPU.ThrottledTime / usec,
			NrBursts: s.CPU.Bursts, BurstUsec: s.CPU.BurstTime / usec, PSI: pressure(s.CPU.Pressure),
		},
		Memory: &v2.MemoryStat{
			Anon: stat["anon"], File: stat["file"], KernelStack: stat["kernel_stack"], Slab: stat["slab"], Sock: stat["sock"],
			Shmem: stat["shmem"], FileMapped: stat["file_mapped"], FileDirty: stat["file_dirty"],
			FileWriteback: stat["file_writeback"], AnonThp: stat["anon_thp"], InactiveAnon: stat["inactive_anon"],
			ActiveAnon: stat["active_anon"], InactiveFile: stat["inactive_file"], ActiveFile: stat["active_file"],
			Unevictable: stat["unevictable"], SlabReclaimable: stat["slab_reclaimable"],
			SlabUnreclaimable: stat["slab_unreclaimable"], Pgfault: stat["pgfault"], Pgmajfault: stat["pgmajfault"],
			WorkingsetRefault:     stat["workingset_refault_anon"] + stat["workingset_refault_file"],
			WorkingsetActivate:    stat["workingset_activate_anon"] + stat["workingset_activate_file"],
			WorkingsetNodereclaim: stat["workingset_nodereclaim"], Pgrefill: stat["pgrefill"], Pgscan: stat["pgscan"],
			Pgsteal: stat["pgsteal"], Pgactivate: stat["pgactivate"], Pgdeactivate: stat["pgdeactivate"],
			Pglazyfree: stat["pglazyfree"], Pglazyfreed: stat["pglazyfreed"], ThpFaultAlloc: stat["thp_fault_alloc"],
			ThpCollapseAlloc: stat["thp_collapse_alloc"], Usage: s.Memory.Usage, UsageLimit: s.Memory.Limit,
			MaxUsage: s.Memory.MaxUsage, SwapUsage: s.Memory.Swap.Usage, SwapLimit: s.Memory.Swap.Limit,
			SwapMaxUsage: s.Memory.Swap.MaxUsage, PSI: pressure(s.Memory.Pressure),
		},
		MemoryEvents: &v2.MemoryEvents{
			Low: s.Memory.Low, High: s.Memory.High, Max: s.Memory.MaxEvents, Oom: s.Memory.OOM, OomKill: s.Memory.OOMKills,
		},
		Io: &v2.IOStat{PSI: pressure(s.BlockIO.Pressure)},
	}
	for _, e := range s.BlockIO.V2 {
		m.Io.Usage = append(m.Io.Usage, &v2.IOEntry{
			Major: e.Major, Minor: e.Minor, Rbytes: e.ReadBytes, Wbytes: e.WriteBytes, Rios: e.ReadIOs, Wios: e.WriteIOs,
		})
	}
	for _, h := range s.Hugetlb {
		m.Hugetlb = append(m.Hugetlb, &v2.HugeTlbStat{Current: h.Usage, Max: h.Limit, Pagesize: h.PageSize, Failcnt: h.FailCount})
	}
	if len(s.Rdma) > 0 {
		m.Rdma = &v2.RdmaStat{}
	}
	for _, r := range s.Rdma {
		m.Rdma.Current = append(m.Rdma.Current, &v2.RdmaEntry{Device: r.Device, HcaHandles: uint32(r.HcaHandles), HcaObjects: uint32(r.HcaObjects)})
	}
	return m
}

func pressure(p *cgroups.Pressure) *v2.PSIStats {
	if p == nil {
		return nil
	}
	line := func(l cgroups.PressureLine) *v2.PSIData {
		return &v2.PSIData{Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300, Total: l.Total}
	}
	return &v2.PSIStats{Some: line(p.Some), Full: line(p.Full)}
}
