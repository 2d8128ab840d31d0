package containers

import (
	"fmt"
	"net/netip"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/signal"

	"strata/engined/internal/spec"
)

// minMemory is the least limit that dockerd accepts, in bytes.
const minMemory = 6 << 20

// validate checks a definition as dockerd does, with its words, and returns warnings.
// Errors are of class ErrInvalidArgument.
func (s *Service) validate(c *container.Config, h *container.HostConfig) ([]string, error) {
	for _, check := range []func(*container.Config, *container.HostConfig) error{
		validateConfig, validateHealth, validateModes, validateNetwork, s.validateLog,
		func(_ *container.Config, h *container.HostConfig) error {
			return spec.ValidateCaps(h.CapAdd, h.CapDrop)
		},
		func(_ *container.Config, h *container.HostConfig) error { return spec.ParseSecurityOpt(h.SecurityOpt) },
		func(_ *container.Config, h *container.HostConfig) error { return validateRestart(h) },
		func(_ *container.Config, h *container.HostConfig) error { return validateDevices(h) },
	} {
		if err := check(c, h); err != nil {
			return nil, err
		}
	}
	warnings, err := s.validateResources(&h.Resources)
	if err != nil {
		return nil, err
	}
	if h.NetworkMode.IsHost() && len(h.PortBindings) > 0 {
		warnings = append(warnings, "Published ports are discarded when using host network mode")
	}
	if h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000 {
		return nil, invalid("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	}
	return warnings, nil
}

func validateConfig(c *container.Config, h *container.HostConfig) error {
	if len(c.Entrypoint) == 0 && len(c.Cmd) == 0 {
		return invalid("no command specified")
	}
	if c.WorkingDir != "" && !path.IsAbs(c.WorkingDir) {
		return invalid("the working directory '%s' is invalid, it needs to be an absolute path", c.WorkingDir)
	}
	for _, kv := range c.Env {
		if kv == "" || strings.HasPrefix(kv, "=") {
			return invalid("invalid environment variable: %s", kv)
		}
	}
	if c.StopSignal != "" {
		if _, err := ParseSignal(c.StopSignal); err != nil {
			return err
		}
	}
	if h.ShmSize < 0 {
		return invalid("SHM size can not be less than 0")
	}
	for _, e := range h.ExtraHosts {
		name, ip, ok := strings.Cut(e, ":")
		if !ok || name == "" {
			return invalid("bad format for add-host: %q", e)
		}
		if _, err := netip.ParseAddr(strings.Trim(ip, "[]")); err != nil && ip != "host-gateway" {
			return invalid("invalid IP address in add-host: %q", ip)
		}
	}
	return nil
}

func validateHealth(c *container.Config, _ *container.HostConfig) error {
	hc := c.Healthcheck
	if hc == nil {
		return nil
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Interval", hc.Interval}, {"Timeout", hc.Timeout}, {"StartPeriod", hc.StartPeriod}, {"StartInterval", hc.StartInterval}} {
		if d.value != 0 && d.value < container.MinimumDuration {
			return invalid("%s in Healthcheck cannot be less than %s", d.name, container.MinimumDuration)
		}
	}
	if hc.Retries < 0 {
		return invalid("Retries in Healthcheck cannot be negative")
	}
	if len(hc.Test) > 0 && !slices.Contains([]string{"NONE", "CMD", "CMD-SHELL"}, hc.Test[0]) {
		return invalid("Unknown type '%s' in HEALTHCHECK (try CMD)", hc.Test[0])
	}
	return nil
}

func validateModes(_ *container.Config, h *container.HostConfig) error {
	switch {
	case !h.IpcMode.Valid():
		return invalid("invalid IPC mode: %v", h.IpcMode)
	case !h.PidMode.Valid():
		return invalid("invalid PID mode: %v", h.PidMode)
	case !h.UTSMode.Valid():
		return invalid("invalid UTS mode: %v", h.UTSMode)
	case !h.CgroupnsMode.Valid():
		return invalid("invalid cgroup namespace mode: %v", h.CgroupnsMode)
	case !h.UsernsMode.Valid():
		return invalid("invalid user namespace mode: %v", h.UsernsMode)
	case !h.Isolation.IsValid():
		return invalid("invalid isolation '%s' on %s", h.Isolation, runtime.GOOS)
	case h.Cgroup != "":
		return fmt.Errorf("cgroup specs: %w", errdefs.ErrNotImplemented)
	}
	if len(h.StorageOpt) > 0 {
		return fmt.Errorf("--storage-opt is not supported by this snapshotter: %w", errdefs.ErrNotImplemented)
	}
	return nil
}

func validateNetwork(c *container.Config, h *container.HostConfig) error {
	mode := h.NetworkMode
	if mode.IsContainer() {
		switch {
		case mode.ConnectedContainer() == "":
			return invalid("invalid network mode: invalid container format container:<name|id>")
		case c.Hostname != "":
			return invalid("conflicting options: hostname and the network mode")
		case len(h.Links) > 0:
			return invalid("conflicting options: container type network can't be used with links. This would result in undefined behavior")
		case len(h.DNS) > 0:
			return invalid("conflicting options: dns and the network mode")
		case len(h.ExtraHosts) > 0:
			return invalid("conflicting options: custom host-to-IP mapping and the network mode")
		case len(h.PortBindings) > 0 || h.PublishAllPorts:
			return invalid("conflicting options: port publishing and the container type network mode")
		case len(c.ExposedPorts) > 0:
			return invalid("conflicting options: port exposing and the container type network mode")
		}
	}
	if mode.IsHost() && len(h.Links) > 0 {
		return invalid("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
	}
	if h.UTSMode.IsHost() && c.Hostname != "" {
		return invalid("conflicting options: hostname and the UTS mode")
	}
	return validatePorts(h)
}

func validatePorts(h *container.HostConfig) error {
	for port, bindings := range h.PortBindings {
		if !port.IsValid() || port.Num() == 0 {
			return invalid("invalid port specification: %q", port.String())
		}
		for _, b := range bindings {
			if _, _, err := parseHostPort(b.HostPort); err != nil {
				return invalid("invalid port specification: %q", b.HostPort)
			}
		}
	}
	return nil
}

// parseHostPort reads "", "80" or "8000-8010".
func parseHostPort(s string) (first, last uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}
	a, b, isRange := strings.Cut(s, "-")
	n, err := strconv.ParseUint(a, 10, 16)
	if err != nil {
		return 0, 0, err
	}
	if !isRange {
		return uint16(n), 0, nil
	}
	m, err := strconv.ParseUint(b, 10, 16)
	if err != nil {
		return 0, 0, err
	}
	if m < n {
		return 0, 0, fmt.Errorf("port range %q ends before it begins", s)
	}
	return uint16(n), uint16(m), nil
}

func validateRestart(h *container.HostConfig) error {
	if err := container.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return invalid("%v", err)
	}
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return invalid("can't create 'AutoRemove' container with restart policy")
	}
	return nil
}

func validateDevices(h *container.HostConfig) error {
	for _, r := range h.DeviceRequests {
		return invalid("could not select device driver %q with capabilities: %v", r.Driver, r.Capabilities)
	}
	return nil
}

func (s *Service) validateResources(r *container.Resources) ([]string, error) {
	var warnings []string
	if err := validateMemory(r); err != nil {
		return nil, err
	}
	if r.MemorySwap > 0 && !s.cfg.Cgroup.Swap {
		warnings = append(warnings, "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.")
	}
	if r.OomKillDisable != nil && *r.OomKillDisable && r.Memory == 0 && !s.cfg.Cgroup.V2 {
		warnings = append(warnings, "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	if r.OomKillDisable != nil && *r.OomKillDisable && s.cfg.Cgroup.V2 {
		warnings = append(warnings, "Your kernel does not support OomKillDisable. OomKillDisable discarded.")
		r.OomKillDisable = nil
	}
	if err := validateCPU(r); err != nil {
		return nil, err
	}
	if r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000) {
		return nil, invalid("Range of blkio weight is from 10 to 1000")
	}
	return warnings, nil
}

func validateMemory(r *container.Resources) error {
	switch {
	case r.Memory != 0 && r.Memory < minMemory:
		return invalid("Minimum memory limit allowed is 6MB")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0:
		return invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwappiness != nil && *r.MemorySwappiness != -1 && (*r.MemorySwappiness < 0 || *r.MemorySwappiness > 100):
		return invalid("Invalid value: %v, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservation > 0 && r.MemoryReservation < minMemory:
		return invalid("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > 0 && r.Memory < r.MemoryReservation:
		return invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	}
	return nil
}

func validateCPU(r *container.Resources) error {
	cpus := int64(runtime.NumCPU())
	switch {
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs < 0 || r.NanoCPUs > cpus*1e9:
		return invalid("Range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", cpus, cpus)
	case r.CPUShares < 0:
		return invalid("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	}
	for _, set := range []struct{ what, value string }{{"cpus", r.CpusetCpus}, {"mems", r.CpusetMems}} {
		list, err := parseSet(set.value)
		if err != nil {
			return invalid("Invalid value %s for cpuset %s", set.value, set.what)
		}
		if online := onlineCPUs(); set.what == "cpus" && !subset(list, online) {
			return invalid("Requested CPUs are not available - requested %s, available: %s", set.value, online)
		}
	}
	return nil
}

// onlineCPUs returns the host's processors in cpuset(7)'s list format, "" if unknown.
func onlineCPUs() string {
	data, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// subset reports whether all of list are in online; nothing is known if that is "".
func subset(list []int, online string) bool {
	have, err := parseSet(online)
	if err != nil || online == "" {
		return true
	}
	return !slices.ContainsFunc(list, func(n int) bool { return !slices.Contains(have, n) })
}

// setPattern is cpuset(7)'s list format.
var setPattern = regexp.MustCompile(`^\d+(-\d+)?(,\d+(-\d+)?)*$`)

func parseSet(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	if !setPattern.MatchString(s) {
		return nil, fmt.Errorf("bad list %q", s)
	}
	var out []int
	for part := range strings.SplitSeq(s, ",") {
		a, b, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(a)
		if err != nil {
			return nil, err
		}
		last := first
		if isRange {
			if last, err = strconv.Atoi(b); err != nil {
				return nil, err
			}
		}
		if last < first || last > 1<<16 {
			return nil, fmt.Errorf("bad range %q", part)
		}
		for n := first; n <= last; n++ {
			out = append(out, n)
		}
	}
	return out, nil
}

// logOptions are the options that each driver takes.
var logOptions = map[string][]string{
	"json-file": {"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag", "mode", "max-buffer-size"},
	"local":     {"max-size", "max-file", "compress", "mode", "max-buffer-size"},
	"none":      {},
}

func (s *Service) validateLog(_ *container.Config, h *container.HostConfig) error {
	known, ok := logOptions[h.LogConfig.Type]
	if !ok {
		switch h.LogConfig.Type {
		case "syslog", "journald", "gelf", "fluentd", "awslogs", "splunk", "gcplogs", "etwlogs":
			return fmt.Errorf("log driver %q: %w", h.LogConfig.Type, errdefs.ErrNotImplemented)
		}
		return invalid("logger: no log driver named '%s' is registered", h.LogConfig.Type)
	}
	for k, v := range h.LogConfig.Config {
		if !slices.Contains(known, k) {
			return invalid("unknown log opt '%s' for %s log driver", k, h.LogConfig.Type)
		}
		switch k {
		case "max-size":
			if n, err := units.RAMInBytes(v); err != nil || n < 0 && v != "-1" {
				return invalid("invalid value for max-size: %s", v)
			}
		case "max-file":
			if n, err := strconv.Atoi(v); err != nil || n < 1 {
				return invalid("max-file cannot be less than 1")
			}
		case "max-buffer-size":
			if container.LogMode(h.LogConfig.Config["mode"]) != container.LogModeNonBlock {
				return invalid("logger: max-buffer-size option is only supported with 'mode=%s'", container.LogModeNonBlock)
			}
			if _, err := units.RAMInBytes(v); err != nil {
				return invalid("error parsing option max-buffer-size: %v", err)
			}
		case "mode":
			if v != "" && v != "blocking" && v != "non-blocking" {
				return invalid("logger: logging mode not supported: %s", v)
			}
		}
	}
	return nil
}

// ParseSignal reads "9", "KILL" or "SIGKILL"; the error is of class ErrInvalidArgument
// with dockerd's words.
func ParseSignal(s string) (int, error) {
	sig, err := signal.ParseSignal(s)
	if err != nil {
		return 0, fmt.Errorf("invalid signal: %s: %w", s, errdefs.ErrInvalidArgument)
	}
	if !signal.ValidSignalForPlatform(sig) {
		return 0, fmt.Errorf("the linux daemon does not support signal %d: %w", sig, errdefs.ErrInvalidArgument)
	}
	return int(sig), nil
}
