package plan

import (
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Host is what a plan depends on beside the spec.
type Host struct {
	// Bundle is the directory of the bundle, absolute.
	Bundle string
	// Unprivileged: the runtime has no capabilities over the host.
	Unprivileged bool
	// BindDevices: device nodes cannot be made, because the runtime is in a user namespace.
	BindDevices bool
	// CgroupV2 says which kind of hierarchy the container's cgroup is in.
	CgroupV2 bool
	// Hierarchies are the v1 hierarchies, sorted by name.
	Hierarchies []Hierarchy
	// CgroupDir is the container's directory in the v2 hierarchy.
	CgroupDir string
	// LastCap is the kernel's highest capability.
	LastCap int
	// Caps, if not 0, are the capabilities that the runtime can hand on.
	Caps uint64
	// Limits are the hard limits of the runtime, by resource; CanRaise says that it may
	// go beyond them.
	Limits   map[int]uint64
	CanRaise bool
	// AppArmor and SELinux say which LSM is on.
	AppArmor, SELinux bool
	// Kcore says that the host has /proc/kcore.
	Kcore bool
	// NoPivot and NoNewKeyring are the flags of create.
	NoPivot, NoNewKeyring bool
	// ID names the container's keyring.
	ID string
	// Home is the user's home directory in the container.
	Home string
	// Seccomp is the compiled filter, nil without one.
	Seccomp *Seccomp
	// Foreground: the runtime stays and relays the terminal.
	Foreground bool
	// ListenFDs is added to the environment (LISTEN_FDS); 0 for none.
	ListenFDs int
}

// Hierarchy is a cgroup v1 hierarchy.
type Hierarchy struct {
	// Name is the last component of its mount point, Data what mount(2) calls it.
	Name, Data string
	// Dir is the container's directory in it.
	Dir string
}

// compiler holds a compilation.
type compiler struct {
	s    *specs.Spec
	h    Host
	p    *Plan
	ns   map[specs.LinuxNamespaceType]string // type → path, "" for a new one
	late []Op                                // after all mounts: remounts of what had to be writable
}

// Compile makes the plan of a container. Errors are of class ErrInvalidArgument, or
// ErrNotImplemented for what is known and missing.
func Compile(s *specs.Spec, h Host) (*Plan, error) {
	c := &compiler{s: s, h: h, p: &Plan{}}
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.namespaces()
	c.kernel()
	if err := c.files(); err != nil {
		return nil, err
	}
	if err := c.process(s.Process, false); err != nil {
		return nil, err
	}
	return c.p, nil
}

func (c *compiler) add(ops ...Op) { c.p.Ops = append(c.p.Ops, ops...) }

func (c *compiler) warn(format string, args ...any) {
	c.p.Warnings = append(c.p.Warnings, fmt.Sprintf(format, args...))
}

// has reports whether the container has a namespace of its own of this type; fresh
// whether it is a new one.
func (c *compiler) has(t specs.LinuxNamespaceType) bool { _, ok := c.ns[t]; return ok }

func (c *compiler) fresh(t specs.LinuxNamespaceType) bool {
	p, ok := c.ns[t]
	return ok && p == ""
}

// joinOrder is the order of setns(2); the mount namespace comes last, because paths are
// looked up in it. The user namespace goes before or after the others: an unprivileged
// caller gets its rights over them there, a privileged one loses those over what other
// user namespaces own.
var joinOrder = []specs.LinuxNamespaceType{
	specs.UserNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace,
	specs.PIDNamespace, specs.CgroupNamespace, specs.TimeNamespace, specs.MountNamespace,
}

// CloneFlag returns the CLONE_NEW* flag of a namespace type, or 0.
func CloneFlag(t specs.LinuxNamespaceType) uint64 {
	switch t {
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP
	case specs.TimeNamespace:
		return unix.CLONE_NEWTIME
	case specs.MountNamespace:
		return unix.CLONE_NEWNS
	}
	return 0
}

// namespaces makes the first process and, where its namespaces cannot all be made by
// one clone, a second one: a joined user namespace must own the new ones, a joined pid
// namespace and a time namespace only take effect for children.
func (c *compiler) namespaces() {
	var flags uint64
	for t := range c.ns {
		// The root of a cgroup namespace is the cgroup of the process that makes it: later.
		if c.fresh(t) && t != specs.CgroupNamespace && t != specs.TimeNamespace {
			flags |= CloneFlag(t)
		}
	}
	user := flags & unix.CLONE_NEWUSER
	staged := c.has(specs.UserNamespace) && user == 0 || c.has(specs.PIDNamespace) && !c.fresh(specs.PIDNamespace) || c.fresh(specs.TimeNamespace)
	c.p.Flags = flags
	if staged {
		c.p.Flags = user
	}
	// The files in /proc of a process that is not dumpable are the host's root's: an
	// unprivileged parent could not write the maps, nor the child its time offsets.
	if user != 0 {
		c.add(AwaitMaps{})
	} else {
		c.add(Undumpable{})
	}
	join := func(t specs.LinuxNamespaceType) {
		if c.has(t) && !c.fresh(t) {
			c.add(Join{t, c.ns[t]})
		}
	}
	others := func() {
		for _, t := range joinOrder {
			if t != specs.UserNamespace && t != specs.PIDNamespace {
				join(t)
			}
		}
	}
	if !c.h.Unprivileged {
		others() // while this process still has rights over all of them
	}
	join(specs.UserNamespace)
	if c.has(specs.UserNamespace) && user == 0 {
		c.add(BecomeRoot{})
	}
	if staged && c.has(specs.PIDNamespace) && !c.fresh(specs.PIDNamespace) {
		c.add(Join{specs.PIDNamespace, c.ns[specs.PIDNamespace]})
	}
	if staged {
		if c.fresh(specs.TimeNamespace) {
			c.add(TimeOffsets{c.timeOffsets()})
		}
	}
	if user != 0 {
		c.add(Undumpable{})
	}
	if staged {
		c.add(Fork{flags &^ user})
	}
	if c.h.Unprivileged {
		others()
	}
}

func (c *compiler) timeOffsets() string {
	var lines []string
	for name, o := range c.s.Linux.TimeOffsets {
		lines = append(lines, fmt.Sprintf("%s %d %d", name, o.Secs, o.Nanosecs))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// kernel sets what is neither file nor process.
func (c *compiler) kernel() {
	c.add(Session{})
	if !c.h.NoNewKeyring {
		c.add(Keyring{"_ses." + c.h.ID})
	}
	if c.fresh(specs.NetworkNamespace) {
		c.add(LoopbackUp{})
	}
	if c.s.Hostname != "" {
		c.add(Hostname{c.s.Hostname})
	}
	if c.s.Domainname != "" {
		c.add(Domainname{c.s.Domainname})
	}
}

// files makes the container's tree.
func (c *compiler) files() error {
	root := c.rootfs()
	prop, err := rootPropagation(c.s.Linux.RootfsPropagation)
	if err != nil {
		return err
	}
	first := prop
	if first == 0 {
		first = unix.MS_SLAVE
	}
	c.add(Rootfs{Source: root, Propagation: first})
	if err := c.mounts(first); err != nil {
		return err
	}
	joined := slices.ContainsFunc(c.p.Ops, func(o Op) bool { _, ok := o.(CgroupNamespace); return ok })
	if !joined {
		c.cgroupNamespace()
	}
	if c.ownDev() {
		if err := c.devices(); err != nil {
			return err
		}
	}
	if c.s.Process != nil && c.s.Process.Terminal {
		c.add(c.console(c.s.Process, true))
	}
	if h := c.s.Hooks; h != nil {
		if len(h.Prestart)+len(h.CreateRuntime) > 0 { //nolint:staticcheck // deprecated in the spec, still used
			c.add(HostHooks{})
		}
		for i, hook := range h.CreateContainer {
			c.add(RunHook{"createContainer", i, hook})
		}
	}
	c.add(c.late...)
	for _, p := range c.s.Linux.ReadonlyPaths {
		c.add(ReadOnly{p})
	}
	masked := map[string]bool{}
	for _, p := range c.s.Linux.MaskedPaths {
		if !masked[clean(p)] {
			masked[clean(p)] = true
			c.add(Mask{p})
		}
	}
	c.sysctls()
	c.add(Pivot{Move: c.h.NoPivot})
	if prop != 0 || c.s.Root.Readonly {
		c.add(RootAttrs{Propagation: prop, ReadOnly: c.s.Root.Readonly})
	}
	return nil
}

func (c *compiler) rootfs() string {
	if filepath.IsAbs(c.s.Root.Path) {
		return filepath.Clean(c.s.Root.Path)
	}
	return filepath.Join(c.h.Bundle, c.s.Root.Path)
}

func (c *compiler) sysctls() {
	var names []string
	for n := range c.s.Linux.Sysctl {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		c.add(Sysctl{n, c.s.Linux.Sysctl[n]})
	}
}

func (c *compiler) cgroupNamespace() {
	c.add(CgroupNamespace{New: c.fresh(specs.CgroupNamespace), ResetAffinity: true})
}

func rootPropagation(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	p, ok := propagationOptions[s]
	if !ok {
		return 0, fmt.Errorf("rootfsPropagation %q: %w", s, errdefs.ErrInvalidArgument)
	}
	return p.flag, nil
}

// ownDev reports whether /dev is the container's own, to be filled: not a bind of the
// host's.
func (c *compiler) ownDev() bool {
	for _, m := range c.s.Mounts {
		if clean(m.Destination) == "/dev" && (m.Type == "bind" || parseOptions(m.Options).bind) {
			return false
		}
	}
	return true
}

// clean makes a path of the spec absolute and free of "..".
func clean(p string) string { return filepath.Clean("/" + p) }
