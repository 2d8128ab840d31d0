package runspec

import (
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
)

// resources reads limits and devices.
func (p *parser) resources() container.Resources {
	f := p.f
	r := Limits(f, p.fail)
	r.CgroupParent = f.String("cgroup-parent")
	swappiness := f.Int64("memory-swappiness")
	if swappiness < -1 || swappiness > 100 {
		p.fail(invalid("invalid value: %d. Valid memory swappiness range is 0-100", swappiness))
	}
	r.MemorySwappiness = &swappiness
	oomKill := f.Bool("oom-kill-disable")
	r.OomKillDisable = &oomKill
	r.BlkioWeightDevice = try(parseWeights(f.StringSlice("blkio-weight-device"))).in(p)
	r.BlkioDeviceReadBps = try(parseThrottles(f.StringSlice("device-read-bps"), units.RAMInBytes)).in(p)
	r.BlkioDeviceWriteBps = try(parseThrottles(f.StringSlice("device-write-bps"), units.RAMInBytes)).in(p)
	r.BlkioDeviceReadIOps = try(parseThrottles(f.StringSlice("device-read-iops"), plainNumber)).in(p)
	r.BlkioDeviceWriteIOps = try(parseThrottles(f.StringSlice("device-write-iops"), plainNumber)).in(p)
	r.DeviceCgroupRules = p.deviceRules()
	r.Devices, r.DeviceRequests = p.devices()
	r.Ulimits = try(ParseUlimits(f.StringSlice("ulimit"))).in(p)
	return r
}

// Limits reads the limits that update can change too.
func Limits(f Flags, fail func(error)) container.Resources {
	p := parser{f: f}
	defer func() {
		if p.err != nil {
			fail(p.err)
		}
	}()
	r := container.Resources{
		CPUShares:          f.Int64("cpu-shares"),
		CPUPeriod:          f.Int64("cpu-period"),
		CPUQuota:           f.Int64("cpu-quota"),
		CPURealtimePeriod:  f.Int64("cpu-rt-period"),
		CPURealtimeRuntime: f.Int64("cpu-rt-runtime"),
		CpusetCpus:         f.String("cpuset-cpus"),
		CpusetMems:         f.String("cpuset-mems"),
		Memory:             p.bytes("memory"),
		MemoryReservation:  p.bytes("memory-reservation"),
		MemorySwap:         p.swap(),
	}
	if s := f.String("cpus"); s != "" {
		r.NanoCPUs = try(ParseCPUs(s)).in(&p)
	}
	if w := f.Int64("blkio-weight"); w < 0 || w > 1000 {
		p.fail(invalid("invalid blkio weight %d: want 0, or 10 to 1000", w))
	} else {
		r.BlkioWeight = uint16(w)
	}
	if f.IsSet("pids-limit") {
		n := f.Int64("pids-limit")
		r.PidsLimit = &n
	}
	return r
}

// swap is a size, or -1 for no limit.
func (p *parser) swap() int64 {
	if p.f.String("memory-swap") == "-1" {
		return -1
	}
	return p.bytes("memory-swap")
}

// CheckBytes says whether s is a size.
func CheckBytes(s string) error {
	if s == "" {
		return nil
	}
	_, err := units.RAMInBytes(s)
	return err
}

// CheckSwap says whether s is a size or -1.
func CheckSwap(s string) error {
	if s == "-1" {
		return nil
	}
	return CheckBytes(s)
}

// CheckCPUs says whether s is a number of CPUs.
func CheckCPUs(s string) error {
	_, err := ParseCPUs(s)
	return err
}

// ParseUlimits reads NAME=SOFT[:HARD] items; the last of a name wins.
func ParseUlimits(items []string) ([]*container.Ulimit, error) {
	var out []*container.Ulimit
	for _, item := range items {
		u, err := units.ParseUlimit(item)
		if err != nil {
			return nil, invalid("%v", err)
		}
		replaced := false
		for i, have := range out {
			if have.Name == u.Name {
				out[i], replaced = u, true
			}
		}
		if !replaced {
			out = append(out, u)
		}
	}
	return out, nil
}

func parseWeights(items []string) ([]*blkiodev.WeightDevice, error) {
	out := []*blkiodev.WeightDevice{}
	for _, item := range items {
		path, weight, err := cutDevice(item)
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(weight, 10, 16)
		if err != nil || n > 0 && (n < 10 || n > 1000) {
			return nil, invalid("invalid weight for device: %s", item)
		}
		out = append(out, &blkiodev.WeightDevice{Path: path, Weight: uint16(n)})
	}
	return out, nil
}

func parseThrottles(items []string, number func(string) (int64, error)) ([]*blkiodev.ThrottleDevice, error) {
	var out []*blkiodev.ThrottleDevice
	for _, item := range items {
		path, rate, err := cutDevice(item)
		if err != nil {
			return nil, err
		}
		n, err := number(rate)
		if err != nil || n < 0 {
			return nil, invalid("invalid rate for device: %s. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb", item)
		}
		out = append(out, &blkiodev.ThrottleDevice{Path: path, Rate: uint64(n)})
	}
	return out, nil
}

func plainNumber(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }

func cutDevice(item string) (path, value string, err error) {
	path, value, ok := strings.Cut(item, ":")
	if !ok || value == "" {
		return "", "", invalid("bad format: %s", item)
	}
	if !strings.HasPrefix(path, "/dev/") {
		return "", "", invalid("bad format for device path: %s", item)
	}
	return path, value, nil
}

func (p *parser) deviceRules() []string {
	for _, r := range p.f.StringSlice("device-cgroup-rule") {
		if !validDeviceRule(r) {
			p.fail(invalid("invalid device cgroup format '%s'", r))
		}
	}
	return p.f.StringSlice("device-cgroup-rule")
}

// validDeviceRule wants "a|b|c MAJOR:MINOR rwm", where a number may be "*".
func validDeviceRule(s string) bool {
	parts := strings.Split(s, " ")
	if len(parts) != 3 || len(parts[0]) != 1 || !strings.Contains("abc", parts[0]) {
		return false
	}
	major, minor, ok := strings.Cut(parts[1], ":")
	return ok && numberOrStar(major) && numberOrStar(minor) && validPermissions(parts[2])
}

func numberOrStar(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil || s == "*"
}

// validPermissions wants one to three different letters of r, w, m.
func validPermissions(s string) bool {
	seen := map[rune]bool{}
	for _, c := range s {
		if !strings.ContainsRune("rwm", c) || seen[c] {
			return false
		}
		seen[c] = true
	}
	return len(seen) > 0
}

// devices splits --device into host devices and names of the Container Device Interface
// (vendor.com/class=name).
func (p *parser) devices() ([]container.DeviceMapping, []container.DeviceRequest) {
	mappings := []container.DeviceMapping{}
	var cdi []string
	for _, d := range p.f.StringSlice("device") {
		if !strings.HasPrefix(d, "/") && strings.Contains(d, "=") {
			cdi = append(cdi, d)
			continue
		}
		mappings = append(mappings, try(ParseDevice(d)).in(p))
	}
	if p.f.IsSet("gpus") {
		p.fail(invalid("--gpus: not implemented; give the devices with --device"))
	}
	if len(cdi) == 0 {
		return mappings, nil
	}
	return mappings, []container.DeviceRequest{{Driver: "cdi", DeviceIDs: cdi}}
}

// ParseDevice reads HOST[:CONTAINER[:PERMISSIONS]] or HOST:PERMISSIONS.
func ParseDevice(s string) (container.DeviceMapping, error) {
	parts := strings.Split(s, ":")
	m := container.DeviceMapping{PathOnHost: parts[0], CgroupPermissions: "rwm"}
	switch len(parts) {
	case 1:
	case 2:
		if validPermissions(parts[1]) {
			m.CgroupPermissions = parts[1]
		} else {
			m.PathInContainer = parts[1]
		}
	case 3:
		if !validPermissions(parts[2]) {
			return m, invalid("bad mode specified: %s", parts[2])
		}
		m.PathInContainer, m.CgroupPermissions = parts[1], parts[2]
	default:
		return m, invalid("invalid device specification: %s", s)
	}
	if m.PathInContainer == "" {
		m.PathInContainer = m.PathOnHost
	}
	for _, path := range []string{m.PathOnHost, m.PathInContainer} {
		if !strings.HasPrefix(path, "/") {
			return m, invalid("%s is not an absolute path", path)
		}
	}
	return m, nil
}
