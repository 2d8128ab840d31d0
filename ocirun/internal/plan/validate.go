package plan

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// validate refuses what cannot work before anything is done. It fills ns.
func (c *compiler) validate() error {
	s := c.s
	if s.Version == "" || !strings.HasPrefix(s.Version, "1.") {
		return fmt.Errorf("ociVersion %q: %w", s.Version, errdefs.ErrInvalidArgument)
	}
	if s.Root == nil || s.Root.Path == "" {
		return fmt.Errorf("root must be specified: %w", errdefs.ErrInvalidArgument)
	}
	if s.Linux == nil {
		s.Linux = &specs.Linux{}
	}
	if err := c.validateNamespaces(); err != nil {
		return err
	}
	if s.Process != nil {
		if err := validateProcess(s.Process); err != nil {
			return err
		}
	}
	if s.Hostname != "" && !c.has(specs.UTSNamespace) {
		return fmt.Errorf("unable to set hostname without a private UTS namespace: %w", errdefs.ErrInvalidArgument)
	}
	if s.Domainname != "" && !c.has(specs.UTSNamespace) {
		return fmt.Errorf("unable to set domainname without a private UTS namespace: %w", errdefs.ErrInvalidArgument)
	}
	for name := range s.Linux.Sysctl {
		if err := c.validateSysctl(name); err != nil {
			return err
		}
	}
	return validateIDs(s)
}

func (c *compiler) validateNamespaces() error {
	c.ns = map[specs.LinuxNamespaceType]string{}
	for _, n := range c.s.Linux.Namespaces {
		if CloneFlag(n.Type) == 0 {
			return fmt.Errorf("namespace type %q: %w", n.Type, errdefs.ErrInvalidArgument)
		}
		if c.has(n.Type) {
			return fmt.Errorf("malformed spec file: duplicated ns %v: %w", n, errdefs.ErrInvalidArgument)
		}
		if n.Path != "" && !filepath.IsAbs(n.Path) {
			return fmt.Errorf("namespace path %q is not absolute: %w", n.Path, errdefs.ErrInvalidArgument)
		}
		c.ns[n.Type] = n.Path
	}
	l := c.s.Linux
	switch {
	case !c.has(specs.MountNamespace):
		return fmt.Errorf("a container needs a mount namespace: %w", errdefs.ErrInvalidArgument)
	case c.fresh(specs.UserNamespace) && (len(l.UIDMappings) == 0 || len(l.GIDMappings) == 0):
		return fmt.Errorf("user namespaces enabled, but no uid or gid mappings found: %w", errdefs.ErrInvalidArgument)
	case !c.has(specs.UserNamespace) && len(l.UIDMappings)+len(l.GIDMappings) > 0:
		return fmt.Errorf("user namespace mappings specified, but user namespace isn't enabled in the config: %w", errdefs.ErrInvalidArgument)
	case c.h.Unprivileged && !c.has(specs.UserNamespace):
		return fmt.Errorf("rootless container requires user namespaces: %w", errdefs.ErrInvalidArgument)
	case len(l.TimeOffsets) > 0 && !c.has(specs.TimeNamespace):
		return fmt.Errorf("time namespace offsets specified, but time namespace isn't enabled in the config: %w", errdefs.ErrInvalidArgument)
	}
	for name := range l.TimeOffsets {
		if name != "monotonic" && name != "boottime" {
			return fmt.Errorf("time offset of clock %q: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func validateProcess(p *specs.Process) error {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return fmt.Errorf("args must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	if p.Cwd == "" {
		return fmt.Errorf("Cwd property must not be empty: %w", errdefs.ErrInvalidArgument) //nolint:staticcheck // runc's words
	}
	if !filepath.IsAbs(p.Cwd) {
		return fmt.Errorf("Cwd must be an absolute path: %w", errdefs.ErrInvalidArgument) //nolint:staticcheck // runc's words
	}
	for _, s := range slices.Concat(p.Args, p.Env, []string{p.Cwd}) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("NUL byte in %q: %w", s, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// ipcSysctls are those that belong to an IPC namespace. Source: ipc_namespaces(7).
var ipcSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
	"kernel.shmmni", "kernel.shm_rmid_forced",
}

func (c *compiler) validateSysctl(name string) error {
	// A name with slashes keeps its dots: "net/ipv4/conf/eth0.100/forwarding".
	dotted := strings.ReplaceAll(name, "/", ".")
	for part := range strings.SplitSeq(SysctlPath(name), "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("sysctl %q: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	switch {
	case slices.Contains(ipcSysctls, dotted) || strings.HasPrefix(dotted, "fs.mqueue."):
		if c.has(specs.IPCNamespace) {
			return nil
		}
	case strings.HasPrefix(dotted, "net."):
		if c.has(specs.NetworkNamespace) {
			return nil
		}
		return fmt.Errorf("sysctl %q not allowed in host network namespace: %w", name, errdefs.ErrInvalidArgument)
	case dotted == "kernel.domainname":
		if c.has(specs.UTSNamespace) {
			return nil
		}
	case dotted == "kernel.hostname":
		return fmt.Errorf("sysctl %q is not allowed as it conflicts with the OCI \"hostname\" field: %w", name, errdefs.ErrInvalidArgument)
	case strings.HasPrefix(dotted, "user."):
		if c.has(specs.UserNamespace) {
			return nil
		}
	}
	return fmt.Errorf("sysctl %q is not in a separate kernel namespace: %w", name, errdefs.ErrInvalidArgument)
}

// SysctlPath returns the path below /proc/sys of a sysctl: sysctl(8)'s names, in which
// the first separator decides what "." means.
func SysctlPath(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

// validateIDs refuses a user that the namespace does not map.
func validateIDs(s *specs.Spec) error {
	if s.Process == nil || len(s.Linux.UIDMappings) == 0 {
		return nil
	}
	mapped := func(list []specs.LinuxIDMapping, id uint32) bool {
		return slices.ContainsFunc(list, func(m specs.LinuxIDMapping) bool {
			return uint64(id) >= uint64(m.ContainerID) && uint64(id) < uint64(m.ContainerID)+uint64(m.Size)
		})
	}
	u := s.Process.User
	if !mapped(s.Linux.UIDMappings, u.UID) {
		return fmt.Errorf("cannot set uid to unmapped user %d in user namespace: %w", u.UID, errdefs.ErrInvalidArgument)
	}
	for _, g := range append([]uint32{u.GID}, u.AdditionalGids...) {
		if !mapped(s.Linux.GIDMappings, g) {
			return fmt.Errorf("cannot set gid to unmapped user %d in user namespace: %w", g, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
