package supervisor

import (
	"context"
	"fmt"
	"strings"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/engined/internal/stats"
)

// Type URLs of metrics, by cgroup version.
const (
	metricsV1 = "io.containerd.cgroups.v1.Metrics"
	metricsV2 = "io.containerd.cgroups.v2.Metrics"
)

// Metrics returns what the cgroup of a container's task says. The host's share (CPU.System,
// CPU.Online) and the network are left out. The error is of class ErrNotFound if there is
// no task.
func (c *Client) Metrics(ctx context.Context, containerID string) (stats.Sample, error) {
	resp, err := tasks.NewTasksClient(c.conn).Metrics(c.scope(ctx), &tasks.MetricsRequest{Filters: []string{"id==" + containerID}})
	if err != nil {
		return stats.Sample{}, fmt.Errorf("metrics of task %q: %w", containerID, err)
	}
	if len(resp.Metrics) == 0 || resp.Metrics[0].Data == nil {
		return stats.Sample{}, fmt.Errorf("metrics of task %q: %w", containerID, errdefs.ErrNotFound)
	}
	m := resp.Metrics[0]
	s, err := fromMetrics(m.Data)
	if err != nil {
		return stats.Sample{}, fmt.Errorf("metrics of task %q: %w", containerID, err)
	}
	s.Read = m.Timestamp.AsTime()
	return s, nil
}

func fromMetrics(data *anypb.Any) (stats.Sample, error) {
	switch url := strings.TrimPrefix(data.TypeUrl, "type.googleapis.com/"); url {
	case metricsV1:
		var m v1.Metrics
		if err := proto.Unmarshal(data.Value, &m); err != nil {
			return stats.Sample{}, fmt.Errorf("decode %s: %w", url, err)
		}
		return fromV1(&m), nil
	case metricsV2:
		var m v2.Metrics
		if err := proto.Unmarshal(data.Value, &m); err != nil {
			return stats.Sample{}, fmt.Errorf("decode %s: %w", url, err)
		}
		return fromV2(&m), nil
	default:
		return stats.Sample{}, fmt.Errorf("metrics of unknown type %q: %w", url, errdefs.ErrNotImplemented)
	}
}

// unlimited is above any real limit: cgroup v1 writes "none" as the largest multiple of
// the page size.
const unlimited = 1 << 62

func limit(n uint64) uint64 {
	if n >= unlimited {
		return 0
	}
	return n
}

func fromV1(m *v1.Metrics) stats.Sample {
	cpu, throttle, mem := m.GetCPU().GetUsage(), m.GetCPU().GetThrottling(), m.GetMemory()
	s := stats.Sample{
		CPU: stats.CPU{
			Total: cpu.GetTotal(), Kernel: cpu.GetKernel(), User: cpu.GetUser(), PerCPU: cpu.GetPerCPU(),
			Periods: throttle.GetPeriods(), ThrottledPeriods: throttle.GetThrottledPeriods(), Throttled: throttle.GetThrottledTime(),
		},
		Memory: stats.Memory{
			Usage: mem.GetUsage().GetUsage(), Max: mem.GetUsage().GetMax(), Limit: limit(mem.GetUsage().GetLimit()), Failures: mem.GetUsage().GetFailcnt(),
			Details: map[string]uint64{
				"cache": mem.GetCache(), "rss": mem.GetRSS(), "rss_huge": mem.GetRSSHuge(), "mapped_file": mem.GetMappedFile(),
				"dirty": mem.GetDirty(), "writeback": mem.GetWriteback(), "pgpgin": mem.GetPgPgIn(), "pgpgout": mem.GetPgPgOut(),
				"pgfault": mem.GetPgFault(), "pgmajfault": mem.GetPgMajFault(), "inactive_anon": mem.GetInactiveAnon(),
				"active_anon": mem.GetActiveAnon(), "inactive_file": mem.GetInactiveFile(), "active_file": mem.GetActiveFile(),
				"unevictable": mem.GetUnevictable(), "hierarchical_memory_limit": mem.GetHierarchicalMemoryLimit(),
				"hierarchical_memsw_limit": mem.GetHierarchicalSwapLimit(), "total_cache": mem.GetTotalCache(), "total_rss": mem.GetTotalRSS(),
				"total_inactive_file": mem.GetTotalInactiveFile(), "total_active_file": mem.GetTotalActiveFile(),
				"total_inactive_anon": mem.GetTotalInactiveAnon(), "total_active_anon": mem.GetTotalActiveAnon(),
				"total_pgfault": mem.GetTotalPgFault(), "total_pgmajfault": mem.GetTotalPgMajFault(),
			},
		},
		Pids: stats.Pids{Current: m.GetPids().GetCurrent(), Limit: m.GetPids().GetLimit()},
	}
	for _, e := range m.GetBlkio().GetIoServiceBytesRecursive() {
		if op := strings.ToLower(e.GetOp()); op == "read" || op == "write" {
			s.Blkio = append(s.Blkio, stats.Blkio{Major: e.GetMajor(), Minor: e.GetMinor(), Op: op, Bytes: e.GetValue()})
		}
	}
	return s
}

func fromV2(m *v2.Metrics) stats.Sample {
	const usec = 1000 // nanoseconds
	cpu, mem := m.GetCPU(), m.GetMemory()
	s := stats.Sample{
		CPU: stats.CPU{
			Total: cpu.GetUsageUsec() * usec, Kernel: cpu.GetSystemUsec() * usec, User: cpu.GetUserUsec() * usec,
			Periods: cpu.GetNrPeriods(), ThrottledPeriods: cpu.GetNrThrottled(), Throttled: cpu.GetThrottledUsec() * usec,
		},
		Memory: stats.Memory{
			Usage: mem.GetUsage(), Max: mem.GetMaxUsage(), Limit: limit(mem.GetUsageLimit()), Failures: m.GetMemoryEvents().GetMax(),
			Details: map[string]uint64{
				"anon": mem.GetAnon(), "file": mem.GetFile(), "kernel_stack": mem.GetKernelStack(), "slab": mem.GetSlab(), "sock": mem.GetSock(),
				"shmem": mem.GetShmem(), "file_mapped": mem.GetFileMapped(), "file_dirty": mem.GetFileDirty(), "file_writeback": mem.GetFileWriteback(),
				"anon_thp": mem.GetAnonThp(), "inactive_anon": mem.GetInactiveAnon(), "active_anon": mem.GetActiveAnon(),
				"inactive_file": mem.GetInactiveFile(), "active_file": mem.GetActiveFile(), "unevictable": mem.GetUnevictable(),
				"slab_reclaimable": mem.GetSlabReclaimable(), "slab_unreclaimable": mem.GetSlabUnreclaimable(),
				"pgfault": mem.GetPgfault(), "pgmajfault": mem.GetPgmajfault(),
			},
		},
		Pids: stats.Pids{Current: m.GetPids().GetCurrent(), Limit: limit(m.GetPids().GetLimit())},
	}
	for _, e := range m.GetIo().GetUsage() {
		s.Blkio = append(
			s.Blkio,
			stats.Blkio{Major: e.GetMajor(), Minor: e.GetMinor(), Op: "read", Bytes: e.GetRbytes()},
			stats.Blkio{Major: e.GetMajor(), Minor: e.GetMinor(), Op: "write", Bytes: e.GetWbytes()},
		)
	}
	return s
}
