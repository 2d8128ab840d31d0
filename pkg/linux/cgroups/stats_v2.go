package cgroups

import (
	"strconv"
	"strings"
)

func statsV2(dir string) *Stats {
	s := &Stats{V2: true}
	if kv, err := readKeyed(dir, "cpu.stat"); err == nil {
		s.CPU = CPUStats{
			Usage: kv["usage_usec"] * 1000, User: kv["user_usec"] * 1000, Kernel: kv["system_usec"] * 1000,
			Periods: kv["nr_periods"], ThrottledPeriods: kv["nr_throttled"], ThrottledTime: kv["throttled_usec"] * 1000,
			Bursts: kv["nr_bursts"], BurstTime: kv["burst_usec"] * 1000,
		}
	}
	s.CPU.Pressure = pressure(dir, "cpu.pressure")
	s.Memory = MemoryStats{
		Usage: number(dir, "memory.current"), MaxUsage: number(dir, "memory.peak"), Limit: number(dir, "memory.max"),
		Swap:     MemoryEntry{Usage: number(dir, "memory.swap.current"), MaxUsage: number(dir, "memory.swap.peak"), Limit: number(dir, "memory.swap.max")},
		Pressure: pressure(dir, "memory.pressure"),
	}
	s.Memory.Stat, _ = readKeyed(dir, "memory.stat")
	if kv, err := readKeyed(dir, "memory.events"); err == nil {
		s.Memory.Low, s.Memory.High, s.Memory.MaxEvents = kv["low"], kv["high"], kv["max"]
		s.Memory.OOM, s.Memory.OOMKills, s.Memory.FailCount = kv["oom"], kv["oom_kill"], kv["max"]
	}
	s.Pids = pidsStats(dir)
	s.BlockIO = BlockIOStats{V2: ioEntries(dir), Pressure: pressure(dir, "io.pressure")}
	s.Hugetlb = hugetlbStats(dir, "current", "max")
	s.Rdma = rdmaStats(dir)
	return s
}

// ioEntries reads "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0" lines.
func ioEntries(dir string) []IOEntry {
	text, err := read(dir, "io.stat")
	if err != nil {
		return nil
	}
	var out []IOEntry
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		major, minor, ok := strings.Cut(f[0], ":")
		if !ok {
			continue
		}
		e := IOEntry{Major: parseUint(major), Minor: parseUint(minor)}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			switch k {
			case "rbytes":
				e.ReadBytes = parseUint(v)
			case "wbytes":
				e.WriteBytes = parseUint(v)
			case "rios":
				e.ReadIOs = parseUint(v)
			case "wios":
				e.WriteIOs = parseUint(v)
			}
		}
		out = append(out, e)
	}
	return out
}

// pressure reads a PSI file; it is nil where the kernel has none.
//
// Source: Linux Documentation/accounting/psi.rst.
func pressure(dir, file string) *Pressure {
	text, err := read(dir, file)
	if err != nil {
		return nil
	}
	p := &Pressure{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		var l PressureLine
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			avg, _ := strconv.ParseFloat(v, 64) // a number by the kernel's format
			switch k {
			case "avg10":
				l.Avg10 = avg
			case "avg60":
				l.Avg60 = avg
			case "avg300":
				l.Avg300 = avg
			case "total":
				l.Total = parseUint(v)
			}
		}
		switch f[0] {
		case "some":
			p.Some = l
		case "full":
			p.Full = l
		}
	}
	return p
}
