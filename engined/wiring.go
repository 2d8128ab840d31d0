package engined

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/system"

	"strata/engined/internal/build"
	"strata/engined/internal/buildkit"
	"strata/engined/internal/containers"
	"strata/engined/internal/events"
	"strata/engined/internal/host"
	"strata/engined/internal/httpapi"
	"strata/engined/internal/images"
	"strata/engined/internal/networks"
	"strata/engined/internal/sample"
	"strata/engined/internal/spec"
	"strata/engined/internal/supervisor"
	"strata/engined/internal/volumes"
	"strata/pkg/api"
	"strata/pkg/version"
)

// What each room gets of the configuration.

func networkConfig(cfg Config, evts events.Publisher) (networks.Config, error) {
	n := networks.DefaultConfig()
	n.ExecRoot, n.Events = cfg.ExecRoot, evts
	if cfg.Bridge != "" {
		n.BridgeName = cfg.Bridge
	}
	var err error
	for _, p := range []struct {
		key, text string
		to        *netip.Prefix
	}{{"bip", cfg.Bip, &n.Bip}, {"bip6", cfg.Bip6, &n.Bip6}, {"fixed-cidr", cfg.FixedCIDR, &n.FixedCIDR}} {
		if *p.to, err = prefix(p.key, p.text); err != nil {
			return n, err
		}
	}
	if n.BindIP, err = addr("ip", cfg.BindIP); err != nil {
		return n, err
	}
	for _, list := range []struct {
		key   string
		texts []string
		to    *[]netip.Addr
	}{{"dns", cfg.DNS, &n.DNS}, {"host-gateway-ip", append(slices.Clone(cfg.HostGatewayIPs), cfg.HostGatewayIP), &n.HostGateway}} {
		for _, text := range list.texts {
			a, err := addr(list.key, text)
			if err != nil {
				return n, err
			}
			if a.IsValid() {
				*list.to = append(*list.to, a)
			}
		}
	}
	for _, p := range cfg.DefaultAddressPools {
		n.DefaultAddressPools = append(n.DefaultAddressPools, networks.AddressPool{Base: p.Base, Size: p.Size})
	}
	n.DNSSearch, n.DNSOptions, n.MTU, n.IPv6 = cfg.DNSSearch, cfg.DNSOptions, cfg.MTU, cfg.IPv6
	n.ICC, n.IPMasq, n.IPTables, n.IPForward, n.IPForwardNoDrop = cfg.ICC, cfg.IPMasq, cfg.IPTables, cfg.IPForward, cfg.IPForwardNoDrop
	n.FirewallTable, n.RespectHost = cfg.FirewallTable, cfg.Publish == publishRespectHost
	return n, nil
}

func imageConfig(cfg Config) images.Config {
	return images.Config{
		Snapshotter: cfg.StorageDriver, Mirrors: cfg.RegistryMirrors, Insecure: cfg.InsecureRegistries,
		StateDir: filepath.Join(cfg.ExecRoot, "registries"), UserAgent: "strata/" + version.Version,
	}
}

// embedded returns the image that the engine carries with it.
func embedded(reference string) (io.ReadCloser, bool) {
	if reference != sample.Reference {
		return nil, false
	}
	r, err := sample.Archive()
	if err != nil {
		return nil, false
	}
	return io.NopCloser(r), true
}

// imageUses lists which containers need which image.
func imageUses(ctrs *containers.Service) []images.Use {
	if ctrs == nil {
		return nil
	}
	var out []images.Use
	for _, c := range ctrs.All() {
		d := c.Definition()
		out = append(out, images.Use{ContainerID: c.ID, Running: c.State().Status.Alive(), ImageID: d.Image.ID, ImageRef: d.Config.Image})
	}
	return out
}

func containerConfig(cfg Config, snapshotter string) (containers.Config, error) {
	c := containers.Config{
		DataRoot: cfg.DataRoot, ExecRoot: cfg.ExecRoot, ShimPath: beside("containerd-shim-strata-v2"), InitPath: cfg.InitPath, Init: cfg.Init,
		DefaultRuntime: cfg.DefaultRuntime, Snapshotter: snapshotter, Log: container.LogConfig{Type: cfg.LogDriver, Config: cfg.LogOpts},
		Cgroup: cgroup(cfg), ShmSize: int64(cfg.ShmSize), Ulimits: map[string]*container.Ulimit{}, IpcMode: container.IpcMode(cfg.IpcMode),
		CgroupnsMode: container.CgroupnsMode(cfg.CgroupnsMode), StopTimeout: time.Duration(cfg.ShutdownTimeout) * time.Second,
		LiveRestore: cfg.LiveRestore, NoNewPrivs: cfg.NoNewPrivs,
	}
	c.Runtimes = runtimes(cfg, c.Cgroup.Systemd)
	for name, u := range cfg.Ulimits {
		c.Ulimits[name] = &container.Ulimit{Name: name, Soft: u.Soft, Hard: u.Hard}
	}
	if c.CgroupnsMode == "" {
		c.CgroupnsMode = container.CgroupnsModeHost
		if c.Cgroup.V2 {
			c.CgroupnsMode = container.CgroupnsModePrivate
		}
	}
	for _, name := range []string{"strata-init", "docker-init", "tini-static", "tini"} {
		if c.InitPath == "" {
			c.InitPath = beside(name)
		}
	}
	switch cfg.SeccompProfile {
	case "", "builtin", "unconfined":
		c.SeccompProfile = cfg.SeccompProfile
	default:
		data, err := os.ReadFile(cfg.SeccompProfile)
		if err != nil {
			return c, err
		}
		c.SeccompProfile = string(data)
	}
	return c, nil
}

// beside finds a binary next to this one, else in PATH; "" if there is none.
func beside(name string) string {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

// runtimes are ours, runc's under our shim, and the configured ones.
func runtimes(cfg Config, systemd bool) map[string]containers.Runtime {
	const ours = "io.containerd.strata.v2"
	out := map[string]containers.Runtime{
		"strata": {Type: ours, Options: supervisor.RuntimeOptions{SystemdCgroup: systemd, BinaryName: beside("ocirun")}},
		"runc":   {Type: ours, Options: supervisor.RuntimeOptions{SystemdCgroup: systemd, BinaryName: "runc"}},
	}
	for name, rt := range cfg.Runtimes {
		r := containers.Runtime{Type: rt.RuntimeType, Options: supervisor.RuntimeOptions{SystemdCgroup: systemd, BinaryName: rt.Path}}
		if r.Type == "" {
			r.Type = ours
		}
		if name, ok := rt.Options["BinaryName"].(string); ok {
			r.Options.BinaryName = name
		}
		if on, ok := rt.Options["SystemdCgroup"].(bool); ok {
			r.Options.SystemdCgroup = on
		}
		out[name] = r
	}
	return out
}

// cgroup finds out which cgroups the host has, and whether systemd manages them.
func cgroup(cfg Config) spec.Cgroup {
	exists := func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}
	c := spec.Cgroup{V2: exists("/sys/fs/cgroup/cgroup.controllers"), Parent: cfg.CgroupParent}
	c.Systemd = c.V2 && exists("/run/systemd/system")
	if systemd, said := cfg.systemdCgroups(); said {
		c.Systemd = systemd
	}
	c.Swap = exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	if c.V2 {
		found, _ := filepath.Glob("/sys/fs/cgroup/*/memory.swap.max") // the pattern is good
		c.Swap = len(found) > 0
	}
	return c
}

func hostConfig(cfg Config, id string, c containers.Config) host.Config {
	h := host.Config{
		ID: id, DataRoot: cfg.DataRoot, Debug: cfg.Debug, Labels: cfg.Labels, Insecure: cfg.InsecureRegistries, Mirrors: cfg.RegistryMirrors,
		LogDriver: cfg.LogDriver, Snapshotter: c.Snapshotter, Runtimes: c.Runtimes, DefaultRuntime: c.DefaultRuntime, InitPath: c.InitPath,
		LiveRestore: cfg.LiveRestore, Cgroup: c.Cgroup, APIVersion: httpapi.DefaultVersion, MinAPIVersion: httpapi.MinVersion,
	}
	for _, p := range cfg.DefaultAddressPools {
		h.AddressPools = append(h.AddressPools, system.NetworkAddressPool{Base: p.Base, Size: p.Size})
	}
	if cfg.IPTables {
		h.FirewallDriver = "nftables"
	}
	return h
}

// doctor looks for what is not as the engine's records say.
type doctor struct {
	ctrs *containers.Service
	nets *networks.Manager
	sup  *supervisor.Client
}

func (d doctor) find(ctx context.Context, repair bool) ([]api.Finding, error) {
	out, err := d.ctrs.Doctor(ctx, repair)
	if err != nil {
		return nil, err
	}
	wrong, mended, err := d.nets.Examine(ctx, repair)
	if err != nil {
		return nil, err
	}
	for i, o := range append(mended, wrong...) {
		out = append(out, api.Finding{Layer: "engined", Code: "leaked-" + o.Kind, Subject: o.ID, Detail: o.Detail, Remedy: "mend it with --repair", Repaired: i < len(mended)})
	}
	stale, err := d.sup.StaleLeases(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range stale {
		f := api.Finding{Layer: "engined", Code: "stale-lease", Subject: id, Detail: "of an engine that died; it keeps images from the collector", Remedy: "mend it with --repair"}
		f.Repaired = repair && d.sup.DropLease(ctx, id) == nil
		out = append(out, f)
	}
	for _, o := range d.nets.Obstacles() {
		out = append(out, api.Finding{Layer: "host", Code: "foreign-firewall", Subject: o.Rule, Detail: "stops packets between containers and the outside; a table of ours cannot overrule it", Remedy: o.Remedy})
	}
	return out, nil
}

func imageCount(ctx context.Context, imgs *images.Service) int {
	list, err := imgs.List(ctx, images.ListOptions{})
	if err != nil {
		return 0 // the supervisor is just restarting
	}
	return len(list)
}

// sweepVolumes drops what containers that were never finished, or never quite removed, left
// with the volumes.
func sweepVolumes(ctx context.Context, vols *volumes.Manager, ctrs *containers.Service) error {
	orphans, err := vols.Retain(func(containerID string) bool {
		_, err := ctrs.Get(containerID)
		return err == nil
	})
	if err != nil {
		return fmt.Errorf("sweep volumes: %w", err)
	}
	for _, name := range orphans {
		if err := vols.Remove(ctx, name, true); err != nil {
			return fmt.Errorf("sweep volumes: %w", err)
		}
	}
	return nil
}

// buildConfig lets commands of builds run as containers do by default.
func buildConfig(cfg Config, c containers.Config) (build.Config, error) {
	policies, err := cfg.Builder.GC.policies()
	rt := c.Runtimes[c.DefaultRuntime]
	if c.DefaultRuntime == "" {
		rt = c.Runtimes["strata"]
	}
	return build.Config{
		DataRoot: cfg.DataRoot, ExecRoot: cfg.ExecRoot, Runtime: rt.Type, Options: rt.Options, ShimPath: c.ShimPath, Cgroup: c.Cgroup,
		ShmSize: c.ShmSize, Ulimits: c.Ulimits, Seccomp: c.SeccompProfile, CgroupnsMode: c.CgroupnsMode,
		Policies: policies, Denied: cfg.Builder.Entitlements.denied(),
	}, err
}

func buildkitConfig(cfg Config, id string, imgs *images.Service, nets *networks.Manager) buildkit.Config {
	name, _ := os.Hostname() // only told
	return buildkit.Config{
		DataRoot: cfg.DataRoot, ID: id, Hostname: name, Snapshotter: imgs.Snapshotter(), Version: version.Version, HostGateway: nets.HostGateway,
	}
}

// afterReady calls run when the supervisor has been there.
func afterReady(ctx context.Context, ready <-chan struct{}, run func(context.Context) error) error {
	select {
	case <-ready:
		return run(ctx)
	case <-ctx.Done():
		return nil
	}
}
