package spec

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"strata/pkg/linux/device"
)

// cpuPeriod is the CFS period that NanoCPUs is counted in, in microseconds.
const cpuPeriod = 100_000

// Resources returns the limits of a cgroup, without device rules.
func Resources(r *container.Resources, cg Cgroup) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{Memory: memory(r, cg), CPU: cpu(r), Pids: pids(r)}
	var err error
	if out.BlockIO, err = blkio(r); err != nil {
		return nil, err
	}
	return out, nil
}

func memory(r *container.Resources, cg Cgroup) *specs.LinuxMemory {
	m := &specs.LinuxMemory{}
	if r.Memory > 0 {
		m.Limit = &r.Memory
	}
	if r.MemoryReservation > 0 {
		m.Reservation = &r.MemoryReservation
	}
	if r.MemorySwap != 0 && cg.Swap {
		m.Swap = &r.MemorySwap
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness >= 0 && !cg.V2 {
		s := uint64(*r.MemorySwappiness)
		m.Swappiness = &s
	}
	if r.OomKillDisable != nil && *r.OomKillDisable && !cg.V2 {
		m.DisableOOMKiller = r.OomKillDisable
	}
	if *m == (specs.LinuxMemory{}) {
		return nil
	}
	return m
}

func cpu(r *container.Resources) *specs.LinuxCPU {
	c := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		s := uint64(r.CPUShares)
		c.Shares = &s
	}
	if r.NanoCPUs > 0 {
		period, quota := uint64(cpuPeriod), r.NanoCPUs*cpuPeriod/1e9
		c.Period, c.Quota = &period, &quota
	}
	if r.CPUPeriod != 0 {
		p := uint64(r.CPUPeriod)
		c.Period = &p
	}
	if r.CPUQuota != 0 {
		c.Quota = &r.CPUQuota
	}
	if r.CPURealtimePeriod != 0 {
		p := uint64(r.CPURealtimePeriod)
		c.RealtimePeriod = &p
	}
	if r.CPURealtimeRuntime != 0 {
		c.RealtimeRuntime = &r.CPURealtimeRuntime
	}
	if *c == (specs.LinuxCPU{}) {
		return nil
	}
	return c
}

func pids(r *container.Resources) *specs.LinuxPids {
	if r.PidsLimit == nil || *r.PidsLimit == 0 {
		return nil
	}
	limit := *r.PidsLimit
	if limit < 0 {
		limit = -1
	}
	return &specs.LinuxPids{Limit: &limit}
}

func blkio(r *container.Resources) (*specs.LinuxBlockIO, error) {
	b := &specs.LinuxBlockIO{}
	if r.BlkioWeight > 0 {
		b.Weight = &r.BlkioWeight
	}
	for _, w := range r.BlkioWeightDevice {
		d, err := device.Stat(w.Path)
		if err != nil {
			return nil, fmt.Errorf("blkio weight: %w", err)
		}
		wd := specs.LinuxWeightDevice{Weight: &w.Weight}
		wd.Major, wd.Minor = d.Major, d.Minor
		b.WeightDevice = append(b.WeightDevice, wd)
	}
	for _, t := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{r.BlkioDeviceReadBps, &b.ThrottleReadBpsDevice},
		{r.BlkioDeviceWriteBps, &b.ThrottleWriteBpsDevice},
		{r.BlkioDeviceReadIOps, &b.ThrottleReadIOPSDevice},
		{r.BlkioDeviceWriteIOps, &b.ThrottleWriteIOPSDevice},
	} {
		for _, td := range t.from {
			d, err := device.Stat(td.Path)
			if err != nil {
				return nil, fmt.Errorf("blkio throttle: %w", err)
			}
			out := specs.LinuxThrottleDevice{Rate: td.Rate}
			out.Major, out.Minor = d.Major, d.Minor
			*t.to = append(*t.to, out)
		}
	}
	if b.Weight == nil && b.WeightDevice == nil && b.ThrottleReadBpsDevice == nil && b.ThrottleWriteBpsDevice == nil &&
		b.ThrottleReadIOPSDevice == nil && b.ThrottleWriteIOPSDevice == nil {
		return nil, nil
	}
	return b, nil
}

func rule(allow bool, kind string, major, minor int64) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: "rwm"}
}

// defaultDeviceRules allow zero, null, urandom, random, tty and console, and refuse the
// rest.
func defaultDeviceRules() []specs.LinuxDeviceCgroup {
	return []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		rule(true, "c", 1, 5), rule(true, "c", 1, 3), rule(true, "c", 1, 9), rule(true, "c", 1, 8),
		rule(true, "c", 5, 0), rule(true, "c", 5, 1), rule(false, "c", 10, 229),
	}
}

// addDevices adds device nodes and cgroup rules.
func addDevices(s *specs.Spec, h *container.HostConfig) error {
	if h.Privileged {
		all, err := device.HostDevices()
		if err != nil {
			return fmt.Errorf("list devices of the host: %w", err)
		}
		for _, d := range all {
			s.Linux.Devices = append(s.Linux.Devices, node(d, d.Path))
		}
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return nil
	}
	s.Linux.Resources.Devices = defaultDeviceRules()
	for _, m := range h.Devices {
		if err := addDevice(s, m); err != nil {
			return err
		}
	}
	for _, text := range h.DeviceCgroupRules {
		r, err := parseDeviceRule(text)
		if err != nil {
			return err
		}
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, r)
	}
	return nil
}

func addDevice(s *specs.Spec, m container.DeviceMapping) error {
	found, err := device.Below(m.PathOnHost)
	if err != nil {
		return invalid("error gathering device information while adding custom device %q: %v", m.PathOnHost, err)
	}
	target := m.PathInContainer
	if target == "" {
		target = m.PathOnHost
	}
	access := m.CgroupPermissions
	if access == "" {
		access = "rwm"
	}
	for _, d := range found {
		n := node(d, strings.Replace(d.Path, m.PathOnHost, target, 1))
		s.Linux.Devices = append(s.Linux.Devices, n)
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: n.Type, Major: &n.Major, Minor: &n.Minor, Access: access})
	}
	return nil
}

func node(d device.Device, target string) specs.LinuxDevice {
	mode := os.FileMode(d.Perm)
	return specs.LinuxDevice{Path: target, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: &mode, UID: &d.UID, GID: &d.GID}
}

// parseDeviceRule reads "c 1:3 mr"; a "*" is any number.
func parseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	bad := invalid("invalid device cgroup rule format: '%s'", text)
	f := strings.Fields(text)
	if len(f) != 3 || !slices.Contains([]string{"a", "b", "c"}, f[0]) || strings.Trim(f[2], "rwm") != "" {
		return specs.LinuxDeviceCgroup{}, bad
	}
	major, minor, ok := strings.Cut(f[1], ":")
	if !ok {
		return specs.LinuxDeviceCgroup{}, bad
	}
	r := specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Access: f[2]}
	for _, n := range []struct {
		text string
		to   **int64
	}{{major, &r.Major}, {minor, &r.Minor}} {
		v := int64(-1)
		if n.text != "*" {
			parsed, err := strconv.ParseInt(n.text, 10, 64)
			if err != nil || parsed < 0 {
				return r, bad
			}
			v = parsed
		}
		*n.to = &v
	}
	return r, nil
}
