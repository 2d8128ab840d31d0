package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/container"

	"strata/engined/internal/stats"
)

// statsInterval is the time between two samples of a stream.
const statsInterval = time.Second

// statsSource samples containers.
type statsSource interface {
	// Stats returns the container's id, its name with the leading slash, and what it
	// uses now; the sample is empty but for Read if the container does not run.
	Stats(ctx context.Context, containerID string) (id, name string, s stats.Sample, err error)
}

// statsAPI serves GET /containers/{id}/stats.
type statsAPI struct {
	source statsSource
}

func (a statsAPI) routes() []route {
	return []route{{http.MethodGet, "/containers/{name}/stats", a.stats}}
}

// stats answers with one sample at once (one-shot), with one that knows the sample before
// it (stream=0), or with one a second until the client goes away or the container is
// removed.
func (a statsAPI) stats(w http.ResponseWriter, r *request) error {
	ctx := r.Context()
	stream := !r.URL.Query().Has("stream") || r.Bool("stream")
	id, name, sample, err := a.source.Stats(ctx, r.Var("name"))
	if err != nil {
		return err
	}
	if !stream && r.Bool("one-shot") {
		return writeJSON(w, http.StatusOK, statsResponse(id, name, sample, stats.Sample{}))
	}
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	previous := stats.Sample{}
	if !stream {
		// The client computes a rate: wait for the second sample of the two.
		previous = sample
		if sample, err = a.next(ctx, tick, id); err != nil {
			return err
		}
	}
	for {
		if err := enc.Encode(statsResponse(id, name, sample, previous)); err != nil || !stream {
			return err
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
		previous = sample
		if sample, err = a.next(ctx, tick, id); err != nil {
			return err
		}
	}
}

func (a statsAPI) next(ctx context.Context, tick *time.Ticker, containerID string) (stats.Sample, error) {
	select {
	case <-ctx.Done():
		return stats.Sample{}, ctx.Err()
	case <-tick.C:
	}
	_, _, s, err := a.source.Stats(ctx, containerID)
	return s, err
}

func statsResponse(id, name string, s, previous stats.Sample) container.StatsResponse {
	out := container.StatsResponse{
		ID: id, Name: name, OSType: "linux", Read: s.Read, PreRead: previous.Read,
		CPUStats: cpuStats(s.CPU), PreCPUStats: cpuStats(previous.CPU),
		MemoryStats: container.MemoryStats{Usage: s.Memory.Usage, MaxUsage: s.Memory.Max, Limit: s.Memory.Limit, Failcnt: s.Memory.Failures, Stats: s.Memory.Details},
		PidsStats:   container.PidsStats{Current: s.Pids.Current, Limit: s.Pids.Limit},
	}
	for _, b := range s.Blkio {
		out.BlkioStats.IoServiceBytesRecursive = append(out.BlkioStats.IoServiceBytesRecursive,
			container.BlkioStatEntry{Major: b.Major, Minor: b.Minor, Op: b.Op, Value: b.Bytes})
	}
	if len(s.Network) > 0 {
		out.Networks = make(map[string]container.NetworkStats, len(s.Network))
		for name, n := range s.Network {
			out.Networks[name] = container.NetworkStats{
				RxBytes: n.RxBytes, RxPackets: n.RxPackets, RxErrors: n.RxErrors, RxDropped: n.RxDropped,
				TxBytes: n.TxBytes, TxPackets: n.TxPackets, TxErrors: n.TxErrors, TxDropped: n.TxDropped,
			}
		}
	}
	return out
}

func cpuStats(c stats.CPU) container.CPUStats {
	return container.CPUStats{
		CPUUsage:    container.CPUUsage{TotalUsage: c.Total, PercpuUsage: c.PerCPU, UsageInKernelmode: c.Kernel, UsageInUsermode: c.User},
		SystemUsage: c.System, OnlineCPUs: c.Online,
		ThrottlingData: container.ThrottlingData{Periods: c.Periods, ThrottledPeriods: c.ThrottledPeriods, ThrottledTime: c.Throttled},
	}
}
