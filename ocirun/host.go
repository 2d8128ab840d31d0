package ocirun

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"strata/ocirun/internal/plan"
	"strata/pkg/linux/caps"
	"strata/pkg/linux/cgroups"
	"strata/pkg/linux/inroot"
)

// unprivileged reports whether the runtime has no rights over the host.
func (a *app) unprivileged() bool {
	return os.Geteuid() != 0 || a.glob.rootless == "true"
}

// inUserNamespace reports whether the runtime itself is in a user namespace, where
// device nodes cannot be made.
//
// Source: user_namespaces(7): the first namespace maps everything to itself.
func inUserNamespace() bool {
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	f := strings.Fields(string(data))
	return !slices.Equal(f, []string{"0", "0", "4294967295"})
}

func (a *app) cgroupManager(id, path string) (*cgroups.Manager, error) {
	opts := cgroups.Options{Path: path, ID: id, Rootless: a.unprivileged() || inUserNamespace()}
	if a.glob.systemdCgroup {
		opts.Systemd, opts.Scopes = true, scopes()
		if opts.Scopes == nil {
			return nil, fmt.Errorf("systemd cgroup driver: this build has none: %w", errdefs.ErrNotImplemented)
		}
	}
	return cgroups.New(opts)
}

// host collects what the plan depends on.
func (c *creation) host() (plan.Host, error) {
	h := plan.Host{
		Bundle: c.bundle, ID: c.id, NoPivot: c.flags.noPivot, NoNewKeyring: c.flags.noNewKeyring,
		ListenFDs: listenFDs(), Foreground: c.term != nil,
	}
	c.app.privilege(&h, c.spec.Process)
	h.BindDevices = h.Unprivileged || inUserNamespace()
	_, err := os.Stat("/proc/kcore")
	h.Kcore = err == nil
	if hasCgroupMount(c.spec.Mounts) {
		cgroupFacts(&h, c.cgroup.Paths())
	}
	if c.filter != nil {
		h.Seccomp = &plan.Seccomp{Flags: c.filter.Flags, Notify: c.filter.Notify}
	}
	if p := c.spec.Process; p != nil && !hasEnv(p.Env, "HOME") {
		if h.Home, err = c.home(p.User.UID); err != nil {
			return h, err
		}
	}
	return h, nil
}

// privilege says what the runtime is allowed to.
func (a *app) privilege(h *plan.Host, p *specs.Process) {
	h.Unprivileged = a.unprivileged()
	h.LastCap = caps.Last()
	if eff, err := caps.Effective(); err == nil {
		h.Caps = uint64(eff)
		h.CanRaise = eff.Has(caps.SysResource)
	}
	if p == nil {
		return
	}
	if len(p.Rlimits) > 0 && !h.CanRaise {
		h.Limits = map[int]uint64{}
		for n := range 16 {
			var l unix.Rlimit
			if unix.Getrlimit(n, &l) == nil {
				h.Limits[n] = l.Max
			}
		}
	}
	if p.ApparmorProfile != "" {
		data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
		h.AppArmor = err == nil && bytes.HasPrefix(data, []byte("Y"))
	}
	if p.SelinuxLabel != "" {
		_, err := os.Stat("/sys/fs/selinux/enforce")
		h.SELinux = err == nil
	}
}

func hasCgroupMount(mounts []specs.Mount) bool {
	return slices.ContainsFunc(mounts, func(m specs.Mount) bool { return m.Type == "cgroup" || m.Type == "cgroup2" })
}

// cgroupFacts describes the hierarchies that the container has a directory in.
func cgroupFacts(h *plan.Host, paths map[string]string) {
	if dir, ok := paths[""]; ok {
		h.CgroupV2, h.CgroupDir = true, dir
		return
	}
	if len(paths) == 0 { // a rootless container without a cgroup: it stays in the caller's
		if h.CgroupV2 = cgroupV2(); h.CgroupV2 {
			h.CgroupDir = "/sys/fs/cgroup"
			return
		}
		if own, err := cgroups.Of(os.Getpid()); err == nil {
			paths = own.Paths()
		}
	}
	byName := map[string]plan.Hierarchy{}
	for controller, dir := range paths {
		rest, ok := strings.CutPrefix(dir, "/sys/fs/cgroup/")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(rest, "/")
		data := name
		if strings.HasPrefix(controller, "name=") {
			data = controller
		}
		byName[name] = plan.Hierarchy{Name: name, Data: data, Dir: dir}
	}
	for _, v := range byName {
		h.Hierarchies = append(h.Hierarchies, v)
	}
	slices.SortFunc(h.Hierarchies, func(a, b plan.Hierarchy) int { return strings.Compare(a.Name, b.Name) })
}

// cgroupV2 reports whether the host uses the unified hierarchy.
func cgroupV2() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

func hasEnv(env []string, name string) bool {
	has := false
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			has = v != "" // the last one counts
		}
	}
	return has
}

// maxPasswd bounds what is read of a file that an image provides.
const maxPasswd = 1 << 20

// home looks the user's home directory up in the container's passwd file: the one
// that a mount puts there, or the rootfs'.
func (c *creation) home(uid uint32) (string, error) {
	root := c.spec.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(c.bundle, root)
	}
	for _, m := range c.spec.Mounts {
		if filepath.Clean(m.Destination) == "/etc/passwd" && filepath.IsAbs(m.Source) {
			f, err := os.Open(m.Source)
			if err == nil {
				defer f.Close()
				return homeIn(f, uid), nil
			}
		}
	}
	return homeBelow(root, uid)
}

// homeBelow looks a home directory up below a root that the container controls.
func homeBelow(root string, uid uint32) (string, error) {
	r, err := inroot.Open(root)
	if err != nil {
		return "", err
	}
	defer r.Close()
	// Non-blocking: an image may have a fifo there.
	f, err := r.OpenFile("etc/passwd", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return "/", nil // an image without the file is common; "/" is the default
	}
	defer f.Close()
	return homeIn(f, uid), nil
}

// homeIn reads passwd(5); "/" is the answer to everything else.
func homeIn(f *os.File, uid uint32) string {
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return "/"
	}
	buf := make([]byte, min(st.Size(), maxPasswd))
	n, _ := f.ReadAt(buf, 0) // a short read is a short file
	want := strconv.FormatUint(uint64(uid), 10)
	for line := range strings.Lines(string(buf[:n])) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(fields) >= 6 && fields[2] == want && strings.HasPrefix(fields[5], "/") && !strings.ContainsRune(fields[5], 0) {
			return fields[5]
		}
	}
	return "/"
}
