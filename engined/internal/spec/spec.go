package spec

import (
	"fmt"
	"maps"
	"path"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"strata/pkg/names"
)

// Request is everything that a spec is made of.
type Request struct {
	ID     string
	Config *container.Config
	Host   *container.HostConfig
	User   User
	// Mounts are the user's mounts, volumes resolved to host paths.
	Mounts []Mount
	Net    Network
	Peers  Peers
	Cgroup Cgroup
	// InitPath is a static init on the host that becomes process 1; "" for none.
	InitPath string
	// ShmPath is a host directory to bind on /dev/shm; "" for a tmpfs of the container's
	// own.
	ShmPath string
	// Ulimits are the daemon's defaults, by name.
	Ulimits map[string]*container.Ulimit
}

// Network is what the spec says about the network.
type Network struct {
	NetnsPath  string // "" for a netns that the runtime makes
	Host       bool   // the host's netns
	Hostname   string
	Domainname string
	// Files to bind on /etc/hostname, /etc/hosts and /etc/resolv.conf; "" for none.
	HostnamePath, HostsPath, ResolvConfPath string
	// NamesPath is the file that the shim answers DNS from; "" if it does not.
	NamesPath string
}

// Peers are namespaces of other containers to join, as paths below /proc; "" for one of
// the container's own.
type Peers struct {
	PID, IPC string
}

// Cgroup says where the container's cgroup is.
type Cgroup struct {
	Systemd bool // the systemd driver
	V2      bool
	Swap    bool   // the kernel counts swap
	Parent  string // the daemon's; HostConfig.CgroupParent wins
}

// Build returns the spec of a container. Errors are of class ErrInvalidArgument if the
// definition cannot be met.
func Build(r Request) (*specs.Spec, error) {
	s := &specs.Spec{
		Version:     specs.Version,
		Hostname:    r.Net.Hostname,
		Domainname:  r.Net.Domainname,
		Root:        &specs.Root{Path: "rootfs", Readonly: r.Host.ReadonlyRootfs},
		Annotations: annotations(r),
		Linux: &specs.Linux{
			CgroupsPath:       cgroupPath(r),
			Namespaces:        namespaces(r),
			Sysctl:            sysctls(r),
			MaskedPaths:       r.Host.MaskedPaths,
			ReadonlyPaths:     r.Host.ReadonlyPaths,
			RootfsPropagation: rootfsPropagation(r.Mounts),
		},
	}
	if r.Host.UTSMode.IsHost() {
		s.Hostname, s.Domainname = "", ""
	}
	var err error
	if s.Process, err = process(r); err != nil {
		return nil, err
	}
	if s.Linux.Resources, err = Resources(&r.Host.Resources, r.Cgroup); err != nil {
		return nil, err
	}
	if err := addDevices(s, r.Host); err != nil {
		return nil, err
	}
	s.Mounts = mounts(r)
	if err := addSecurity(s, r.Host); err != nil {
		return nil, err
	}
	return s, nil
}

// cgroupPath returns "/docker/ID" for cgroupfs and "SLICE:docker:ID" for systemd, which
// is how runtimes tell the two apart.
func cgroupPath(r Request) string {
	parent := r.Host.CgroupParent
	if parent == "" {
		parent = r.Cgroup.Parent
	}
	if r.Cgroup.Systemd {
		if parent == "" {
			parent = "system.slice"
		}
		return parent + ":docker:" + r.ID
	}
	if parent == "" {
		parent = "/docker"
	}
	return path.Join("/", parent, r.ID)
}

func namespaces(r Request) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if !r.Net.Host {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: r.Net.NetnsPath})
	}
	if !r.Host.UTSMode.IsHost() {
		ns = append(ns, specs.LinuxNamespace{Type: specs.UTSNamespace})
	}
	if !r.Host.PidMode.IsHost() {
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: r.Peers.PID})
	}
	if !r.Host.IpcMode.IsHost() {
		ns = append(ns, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: r.Peers.IPC})
	}
	if r.Host.CgroupnsMode.IsPrivate() {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns
}

// sysctls adds what lets an unprivileged user of a private network ping and bind low
// ports.
func sysctls(r Request) map[string]string {
	out := map[string]string{}
	if r.Host.NetworkMode.IsPrivate() && !r.Net.Host {
		out["net.ipv4.ip_unprivileged_port_start"] = "0"
		out["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	maps.Copy(out, r.Host.Sysctls)
	if len(out) == 0 {
		return nil
	}
	return out
}

// rootfsPropagation is what a mount's own propagation needs from the root mount.
func rootfsPropagation(ms []Mount) string {
	out := ""
	for _, m := range ms {
		switch m.Propagation {
		case "shared", "rshared":
			return "shared"
		case "slave", "rslave":
			out = "rslave"
		}
	}
	return out
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// annotations are the user's, and ours for the shim, which a user cannot set.
func annotations(r Request) map[string]string {
	_, set := r.Host.Annotations[names.Annotation]
	if !set && r.Net.NamesPath == "" {
		return r.Host.Annotations
	}
	out := maps.Clone(r.Host.Annotations)
	if out == nil {
		out = map[string]string{}
	}
	delete(out, names.Annotation)
	if r.Net.NamesPath != "" {
		out[names.Annotation] = r.Net.NamesPath
	}
	return out
}
