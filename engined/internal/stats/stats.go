package stats

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Sample is what a container used up to Read.
type Sample struct {
	Read    time.Time
	CPU     CPU
	Memory  Memory
	Pids    Pids
	Blkio   []Blkio
	Network map[string]Interface
}

// CPU is time in nanoseconds, and how often the quota held the container back.
type CPU struct {
	Total, Kernel, User uint64
	PerCPU              []uint64 // cgroup v1 only
	System              uint64   // of the whole host
	Online              uint32
	Periods             uint64
	ThrottledPeriods    uint64
	Throttled           uint64
}

// Memory is in bytes. Limit is the host's memory if there is no lower one.
type Memory struct {
	Usage, Max, Limit, Failures uint64
	Details                     map[string]uint64 // memory.stat
}

// Pids counts processes and threads. A Limit of zero means none.
type Pids struct{ Current, Limit uint64 }

// Blkio is one device's count of bytes for Op ("read", "write").
type Blkio struct {
	Major, Minor uint64
	Op           string
	Bytes        uint64
}

// Interface counts the traffic of a network interface.
type Interface struct {
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// userHZ is the unit of /proc/stat: 100 per second on every Linux that Go runs on.
const userHZ = 100

// HostCPU returns the CPU time that the host has spent, idle time included, in
// nanoseconds, and the number of processors.
//
// Source: proc_stat(5).
func HostCPU() (uint64, uint32, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, fmt.Errorf("read host cpu time: %w", err)
	}
	total, err := parseHostCPU(data)
	return total, uint32(runtime.NumCPU()), err
}

func parseHostCPU(data []byte) (uint64, error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, fmt.Errorf("parse /proc/stat: first line %q", line)
	}
	var ticks uint64
	for _, f := range fields[1:8] { // user nice system idle iowait irq softirq
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("parse /proc/stat: %w", err)
		}
		ticks += n
	}
	return ticks * (uint64(time.Second) / userHZ), nil
}

// HostMemory returns the memory of the host in bytes, or zero if the kernel does not say.
func HostMemory() uint64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	_, rest, found := strings.Cut(string(data), "MemTotal:")
	fields := strings.Fields(rest)
	if !found || len(fields) == 0 {
		return 0
	}
	kib, err := strconv.ParseUint(fields[0], 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}

// Interfaces returns the counters of the network interfaces that process pid sees, without
// the loopback interface.
//
// Source: proc_pid_net(5).
func Interfaces(pid int) (map[string]Interface, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil, fmt.Errorf("read network counters: %w", err)
	}
	return parseInterfaces(data)
}

func parseInterfaces(data []byte) (map[string]Interface, error) {
	out := map[string]Interface{}
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		name, counters, ok := strings.Cut(sc.Text(), ":")
		name = strings.TrimSpace(name)
		if !ok || name == "lo" {
			continue // the two lines of the heading have no colon
		}
		fields := strings.Fields(counters)
		if len(fields) < 12 {
			return nil, fmt.Errorf("parse counters of interface %q: %d columns", name, len(fields))
		}
		n := make([]uint64, len(fields))
		for i, f := range fields {
			v, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("parse counters of interface %q: %w", name, err)
			}
			n[i] = v
		}
		out[name] = Interface{
			RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		}
	}
	return out, sc.Err()
}
