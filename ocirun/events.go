package ocirun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"strata/ocirun/internal/state"
	"strata/pkg/linux/cgroups"
)

// event is a line of events, as runc writes it and go-runc reads it.
type event struct {
	Type string      `json:"type"`
	ID   string      `json:"id"`
	Data *eventStats `json:"data,omitempty"`
}

type eventStats struct {
	CPU     eventCPU                `json:"cpu"`
	Memory  eventMemory             `json:"memory"`
	Pids    eventPids               `json:"pids"`
	Blkio   eventBlkio              `json:"blkio"`
	Hugetlb map[string]eventHugetlb `json:"hugetlb"`
}

type eventCPU struct {
	Usage struct {
		Total  uint64   `json:"total"`
		PerCPU []uint64 `json:"percpu,omitempty"`
		Kernel uint64   `json:"kernel"`
		User   uint64   `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
}

type eventMemoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type eventMemory struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     eventMemoryEntry  `json:"usage"`
	Swap      eventMemoryEntry  `json:"swap"`
	Kernel    eventMemoryEntry  `json:"kernel"`
	KernelTCP eventMemoryEntry  `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
}

type eventPids struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

type eventBlkio struct {
	ServiceBytes []eventBlkioEntry `json:"ioServiceBytesRecursive,omitempty"`
	Serviced     []eventBlkioEntry `json:"ioServicedRecursive,omitempty"`
}

type eventBlkioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

type eventHugetlb struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// events prints the counters once (--stats), or every interval and at each kill by the
// OOM killer until the container has ended.
func (a *app) events(ctx context.Context, args []string) error {
	var once bool
	interval := "5s"
	f := newFlags("events")
	f.bool(&once, "stats")
	f.str(&interval, "interval")
	id, err := f.parseID(args)
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(interval)
	if err != nil || d <= 0 {
		return errors.New("duration interval must be greater than 0")
	}
	st, err := a.store.Load(id)
	if err != nil {
		return err
	}
	if s := a.status(st); s == state.Stopped {
		return fmt.Errorf("container with id %s is not running", st.ID)
	}
	m, err := cgroupOf(st)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(a.cfg.Stdout)
	if once {
		return printStats(enc, st)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ooms, err := m.OOM(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case _, ok := <-ooms:
			if !ok {
				return nil // the cgroup is gone
			}
			if err := enc.Encode(event{Type: "oom", ID: st.ID}); err != nil {
				return err
			}
		case <-tick.C:
			if !st.Alive() {
				return nil
			}
			if err := printStats(enc, st); err != nil {
				return err
			}
		}
	}
}

func printStats(enc *json.Encoder, st *state.State) error {
	s, err := manager(st).Stats()
	if err != nil {
		return err
	}
	return enc.Encode(event{Type: "stats", ID: st.ID, Data: convertStats(s)})
}

func convertStats(s *cgroups.Stats) *eventStats {
	out := &eventStats{Hugetlb: map[string]eventHugetlb{}}
	u := &out.CPU.Usage
	u.Total, u.PerCPU, u.Kernel, u.User = s.CPU.Usage, s.CPU.PerCPU, s.CPU.Kernel, s.CPU.User
	t := &out.CPU.Throttling
	t.Periods, t.ThrottledPeriods, t.ThrottledTime = s.CPU.Periods, s.CPU.ThrottledPeriods, s.CPU.ThrottledTime
	m := s.Memory
	out.Memory = eventMemory{
		Usage:     eventMemoryEntry{Limit: m.Limit, Usage: m.Usage, Max: m.MaxUsage, Failcnt: m.FailCount},
		Swap:      memoryEntry(m.Swap),
		Kernel:    memoryEntry(m.Kernel),
		KernelTCP: memoryEntry(m.KernelTCP),
		Raw:       m.Stat,
		Cache:     m.Stat["cache"],
	}
	if s.V2 {
		out.Memory.Cache = m.Stat["file"]
	}
	out.Pids = eventPids{s.Pids.Current, s.Pids.Limit}
	for _, e := range s.BlockIO.ServiceBytes {
		out.Blkio.ServiceBytes = append(out.Blkio.ServiceBytes, eventBlkioEntry(e))
	}
	for _, e := range s.BlockIO.Serviced {
		out.Blkio.Serviced = append(out.Blkio.Serviced, eventBlkioEntry(e))
	}
	for _, e := range s.BlockIO.V2 {
		out.Blkio.ServiceBytes = append(out.Blkio.ServiceBytes,
			eventBlkioEntry{e.Major, e.Minor, "Read", e.ReadBytes}, eventBlkioEntry{e.Major, e.Minor, "Write", e.WriteBytes})
		out.Blkio.Serviced = append(out.Blkio.Serviced,
			eventBlkioEntry{e.Major, e.Minor, "Read", e.ReadIOs}, eventBlkioEntry{e.Major, e.Minor, "Write", e.WriteIOs})
	}
	for _, h := range s.Hugetlb {
		out.Hugetlb[h.PageSize] = eventHugetlb{h.Usage, h.MaxUsage, h.FailCount}
	}
	return out
}

func memoryEntry(e cgroups.MemoryEntry) eventMemoryEntry {
	return eventMemoryEntry{Limit: e.Limit, Usage: e.Usage, Max: e.MaxUsage, Failcnt: e.FailCount}
}
