package host

import (
	"bufio"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"strata/engined/internal/containers"
	"strata/engined/internal/events"
	"strata/engined/internal/spec"
	"strata/engined/internal/stats"
	"strata/engined/internal/supervisor"
	"strata/pkg/version"
)

// Config is what the engine's configuration says about itself.
type Config struct {
	ID             string
	DataRoot       string
	Debug          bool
	Labels         []string
	Insecure       []string
	Mirrors        []string
	LogDriver      string
	Snapshotter    string
	Runtimes       map[string]containers.Runtime
	DefaultRuntime string
	InitPath       string
	LiveRestore    bool
	Cgroup         spec.Cgroup
	AddressPools   []system.NetworkAddressPool
	FirewallDriver string
	// The span of API versions, which are httpapi's to know.
	APIVersion, MinAPIVersion string
}

// Counts tells how many containers there are. *containers.Service is the real one.
type Counts interface{ Count() containers.Counts }

// Supervisor is asked for its version. *supervisor.Client is the real one.
type Supervisor interface {
	Version(ctx context.Context) (supervisor.Version, error)
	Address() string
	Namespace() string
}

// Host answers info and version. Its methods are safe for concurrent use.
type Host struct {
	sup    Supervisor
	counts Counts
	events *events.Log
	// Images counts the images; nil counts none.
	Images func(ctx context.Context) int

	mu  sync.Mutex
	cfg Config
}

// New returns a Host.
func New(cfg Config, sup Supervisor, counts Counts, log *events.Log) *Host {
	return &Host{cfg: cfg, sup: sup, counts: counts, events: log}
}

// ID returns the engine's id.
func (h *Host) ID() string { return h.config().ID }

// Name returns the host's name.
func (h *Host) Name() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

func (h *Host) config() Config {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cfg
}

// Reload replaces what a running engine can change.
func (h *Host) Reload(labels []string, debug bool, insecure, mirrors []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cfg.Labels, h.cfg.Debug, h.cfg.Insecure, h.cfg.Mirrors = labels, debug, insecure, mirrors
}

// Version returns the versions of the engine and of what is below it.
func (h *Host) Version(ctx context.Context) (*system.VersionResponse, error) {
	v := &system.VersionResponse{
		Platform: system.PlatformInfo{Name: "Strata Engine"}, Version: version.Version, KernelVersion: kernelVersion(), GitCommit: commit("vcs.revision"), BuildTime: commit("vcs.time"),
	}
	v.Components = append(v.Components, system.ComponentVersion{Name: "Engine", Version: version.Version, Details: map[string]string{
		"Arch": runtime.GOARCH, "Os": "linux", "KernelVersion": v.KernelVersion, "GitCommit": v.GitCommit, "GoVersion": runtime.Version(), "BuildTime": v.BuildTime, "Experimental": "false", "ApiVersion": h.config().APIVersion, "MinAPIVersion": h.config().MinAPIVersion,
	}})
	sup, err := h.sup.Version(ctx)
	if err == nil { // else it is just restarting: version answers all the same
		v.Components = append(v.Components, system.ComponentVersion{Name: "containerd", Version: sup.Version, Details: map[string]string{"GitCommit": sup.Revision}})
	}
	return v, nil
}

func commit(key string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// Info returns all that `info` shows.
func (h *Host) Info(ctx context.Context) (*system.Info, error) {
	cfg, n := h.config(), h.counts.Count()
	info := &system.Info{
		ID: cfg.ID, Containers: n.Total, ContainersRunning: n.Running, ContainersPaused: n.Paused, ContainersStopped: n.Stopped,
		Driver: cfg.Snapshotter, DriverStatus: [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}},
		Plugins: system.PluginsInfo{
			Volume: []string{"local"}, Network: []string{"bridge", "host", "ipvlan", "macvlan", "null"}, Log: []string{"json-file", "local", "none"},
		},
		IPv4Forwarding: readTrimmed("/proc/sys/net/ipv4/ip_forward") == "1", Debug: cfg.Debug, NFd: openFiles(), NGoroutines: runtime.NumGoroutine(),
		SystemTime: time.Now().Format(time.RFC3339Nano), LoggingDriver: cfg.LogDriver, NEventsListener: h.events.Subscribers(),
		KernelVersion: kernelVersion(), OSType: "linux", Architecture: machine(), IndexServerAddress: "https://index.docker.io/v1/",
		RegistryConfig: registryConfig(cfg), NCPU: runtime.NumCPU(), MemTotal: int64(stats.HostMemory()), DockerRootDir: cfg.DataRoot, Name: h.Name(),
		HTTPProxy: os.Getenv("HTTP_PROXY"), HTTPSProxy: os.Getenv("HTTPS_PROXY"), NoProxy: os.Getenv("NO_PROXY"),
		Labels: append([]string{}, cfg.Labels...), ServerVersion: version.Version, DefaultRuntime: cfg.DefaultRuntime, Runtimes: map[string]system.RuntimeWithStatus{},
		Swarm: swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive, RemoteManagers: []swarm.Peer{}}, LiveRestoreEnabled: cfg.LiveRestore, InitBinary: filepath.Base(cfg.InitPath),
		DefaultAddressPools: cfg.AddressPools, CDISpecDirs: []string{}, Warnings: []string{},
		Containerd: &system.ContainerdInfo{Address: h.sup.Address(), Namespaces: system.ContainerdNamespaces{Containers: h.sup.Namespace()}},
	}
	if cfg.InitPath == "" {
		info.InitBinary = ""
	}
	info.OperatingSystem, info.OSVersion = release()
	if cfg.FirewallDriver != "" {
		info.FirewallBackend = &system.FirewallInfo{Driver: cfg.FirewallDriver}
	}
	for name, rt := range cfg.Runtimes {
		path := rt.Options.BinaryName
		if path == "" {
			path = rt.Type
		}
		info.Runtimes[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: path}}
	}
	if h.Images != nil {
		info.Images = h.Images(ctx)
	}
	h.cgroups(info, cfg)
	h.security(info, cfg)
	// The default runtime and init are built from the same commit as this binary.
	info.RuncCommit.ID, info.InitCommit.ID = version.Version, version.Version
	if v, err := h.sup.Version(ctx); err == nil { // else it is just restarting
		info.ContainerdCommit.ID = v.Revision
	}
	return info, nil
}

func (h *Host) cgroups(info *system.Info, cfg Config) {
	info.CgroupDriver, info.CgroupVersion = "cgroupfs", "1"
	if cfg.Cgroup.Systemd {
		info.CgroupDriver = "systemd"
	}
	has := func(controller string) bool {
		_, err := os.Stat(filepath.Join("/sys/fs/cgroup", controller))
		return err == nil
	}
	if cfg.Cgroup.V2 {
		info.CgroupVersion = "2"
		list := strings.Fields(readTrimmed("/sys/fs/cgroup/cgroup.controllers"))
		has = func(controller string) bool {
			return slices.Contains(list, controller)
		}
	}
	info.MemoryLimit, info.SwapLimit = has("memory"), has("memory") && cfg.Cgroup.Swap
	info.CPUCfsPeriod, info.CPUCfsQuota, info.CPUShares = has("cpu"), has("cpu"), has("cpu")
	info.CPUSet, info.PidsLimit = has("cpuset"), has("pids")
	info.OomKillDisable = !cfg.Cgroup.V2 && has("memory")
	for _, w := range []struct {
		ok   bool
		text string
	}{
		{info.MemoryLimit, "WARNING: No memory limit support"},
		{info.SwapLimit, "WARNING: No swap limit support"},
		{info.CPUCfsQuota, "WARNING: No cpu cfs quota support"},
		{info.CPUShares, "WARNING: No cpu shares support"},
		{info.CPUSet, "WARNING: No cpuset support"},
		{info.IPv4Forwarding, "WARNING: IPv4 forwarding is disabled"},
	} {
		if !w.ok {
			info.Warnings = append(info.Warnings, w.text)
		}
	}
}

func (h *Host) security(info *system.Info, cfg Config) {
	if spec.AppArmorSupported() {
		info.SecurityOptions = append(info.SecurityOptions, "name=apparmor")
		if spec.AppArmorProfile(&container.HostConfig{}) == "" {
			info.Warnings = append(info.Warnings, "WARNING: AppArmor is on, but profile docker-default is not loaded: containers are not confined by it")
		}
	}
	if spec.SeccompSupported() {
		info.SecurityOptions = append(info.SecurityOptions, "name=seccomp,profile=builtin")
	}
	if cfg.Cgroup.V2 {
		info.SecurityOptions = append(info.SecurityOptions, "name=cgroupns")
	}
}

func registryConfig(cfg Config) *registry.ServiceConfig {
	rc := &registry.ServiceConfig{
		InsecureRegistryCIDRs: []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")},
		IndexConfigs:          map[string]*registry.IndexInfo{"docker.io": {Name: "docker.io", Mirrors: []string{}, Secure: true, Official: true}},
		Mirrors:               []string{},
	}
	for _, m := range cfg.Mirrors {
		rc.Mirrors = append(rc.Mirrors, strings.TrimSuffix(m, "/")+"/")
	}
	rc.IndexConfigs["docker.io"].Mirrors = rc.Mirrors
	for _, r := range cfg.Insecure {
		if p, err := netip.ParsePrefix(r); err == nil {
			rc.InsecureRegistryCIDRs = append(rc.InsecureRegistryCIDRs, p)
			continue
		}
		rc.IndexConfigs[r] = &registry.IndexInfo{Name: r, Mirrors: []string{}}
	}
	return rc
}

func readTrimmed(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func kernelVersion() string { return readTrimmed("/proc/sys/kernel/osrelease") }

// machine is the architecture in the words of uname(2).
func machine() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	default:
		return runtime.GOARCH
	}
}

// release reads the name and version of the host's distribution.
//
// Source: os-release(5).
func release() (name, ver string) {
	name = "Linux"
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			k, v, _ := strings.Cut(sc.Text(), "=")
			if unquoted, err := strconv.Unquote(v); err == nil {
				v = unquoted
			}
			switch k {
			case "PRETTY_NAME":
				name = v
			case "VERSION_ID":
				ver = v
			}
		}
		_ = f.Close() // only read
		return name, ver
	}
	return name, ver
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}
