package cgroups

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options say which cgroup a Manager is for.
type Options struct {
	// Path is linux.cgroupsPath of the spec. For cgroupfs: absolute from the root of
	// each hierarchy, or relative to the caller's own cgroup; empty means ID. For
	// systemd: "slice:prefix:name"; empty means "system.slice:strata:ID".
	Path string
	// Systemd asks for a transient scope; Scopes must be set.
	Systemd bool
	// Scopes starts scopes. See pkg/linux/cgroups/systemd.
	Scopes Scopes
	// Rootless tolerates that the kernel refuses to make the cgroup, as long as no
	// limit is asked for.
	Rootless bool
	ID       string
}

// Manager is one cgroup. Its methods may be called from several goroutines, except
// Create and Join.
type Manager struct {
	// paths is controller → directory on v1, "" → directory on v2.
	paths    map[string]string
	unified  string // mount point of v2; "" on v1
	rootless bool
	scope    *scope // nil with cgroupfs, and after Load
}

// New returns the manager of a cgroup that need not exist yet. It makes nothing. Errors
// are of class ErrInvalidArgument for a malformed path and ErrNotFound if no cgroup
// hierarchy is mounted.
func New(opts Options) (*Manager, error) {
	h, err := findHierarchies("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return newManager(h, "/proc/self/cgroup", opts)
}

func newManager(h hierarchies, ownFile string, opts Options) (*Manager, error) {
	m := &Manager{paths: map[string]string{}, unified: h.unified, rootless: opts.Rootless}
	path := opts.Path
	if opts.Systemd {
		if opts.Scopes == nil {
			return nil, fmt.Errorf("systemd cgroup driver: no connection to systemd was given: %w", errdefs.ErrNotImplemented)
		}
		s, err := parseScope(opts)
		if err != nil {
			return nil, err
		}
		m.scope, path = s, s.path()
	}
	if path == "" {
		path = opts.ID
	}
	if strings.ContainsRune(path, 0) || filepath.Clean("/"+path) == "/" {
		return nil, fmt.Errorf("cgroup path %q names no cgroup: %w", path, errdefs.ErrInvalidArgument)
	}
	var own map[string]string
	if !filepath.IsAbs(path) {
		var err error
		if own, err = ownCgroups(ownFile); err != nil {
			return nil, err
		}
	}
	if h.unified != "" {
		m.paths[""] = h.dir(h.unified, h.unifiedRoot, own[""], path)
		return m, nil
	}
	for name, v1 := range h.v1 {
		m.paths[name] = h.dir(v1.mount, v1.root, own[name], path)
	}
	return m, nil
}

// Load returns the manager of an existing cgroup from what Paths returned.
func Load(paths map[string]string) *Manager {
	m := &Manager{paths: maps.Clone(paths)}
	if dir, ok := paths[""]; ok && len(paths) == 1 {
		m.unified = unifiedMount(dir)
	}
	return m
}

// Of returns the manager of the cgroup that process pid is in. The error is of class
// ErrNotFound if the process is gone.
func Of(pid int) (*Manager, error) {
	h, err := findHierarchies("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	own, err := ownCgroups("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil, err
	}
	m := &Manager{paths: map[string]string{}, unified: h.unified}
	if h.unified != "" {
		m.paths[""] = h.dir(h.unified, h.unifiedRoot, own[""], "")
		return m, nil
	}
	for name, v1 := range h.v1 {
		m.paths[name] = h.dir(v1.mount, v1.root, own[name], "")
	}
	return m, nil
}

// isV2 reports whether the manager's cgroup is on the unified hierarchy.
func (m *Manager) isV2() bool {
	_, ok := m.paths[""]
	return ok && len(m.paths) == 1
}

// Paths returns the directories, for the state file: controller (or "name=systemd") →
// directory on v1, "" → directory on v2. It is empty if a rootless Create was refused.
func (m *Manager) Paths() map[string]string { return maps.Clone(m.paths) }

// Path returns the directory of a v1 controller, or of the cgroup on v2; "" if there is
// none.
func (m *Manager) Path(controller string) string {
	if m.isV2() {
		return m.paths[""]
	}
	return m.paths[controller]
}

// Exists reports whether a directory of the cgroup is there.
func (m *Manager) Exists() bool {
	for _, dir := range m.paths {
		if _, err := os.Lstat(dir); err == nil {
			return true
		}
	}
	return false
}

// Create makes the cgroup and sets its limits. With the systemd driver that happens in
// Join, for a scope cannot be without a process. A failed Create removes what it made.
//
// Errors: ErrInvalidArgument for a limit that the kernel refuses or the host cannot
// set, ErrFailedPrecondition if on v2 a parent holds processes, ErrPermissionDenied.
func (m *Manager) Create(res *specs.LinuxResources) (err error) {
	if res == nil {
		res = &specs.LinuxResources{}
	}
	if m.scope != nil {
		m.scope.resources = res
		return nil
	}
	return m.create(res)
}

func (m *Manager) create(res *specs.LinuxResources) error {
	var made []string
	err := m.mkdirAll(&made, isEmpty(res))
	if err == nil {
		err = m.apply(res)
	}
	if err == nil {
		return nil
	}
	for _, v := range slices.Backward(made) {
		_ = os.Remove(v)
	}
	if m.rootless && isDenied(err) && isEmpty(res) {
		m.paths = map[string]string{}
		return nil
	}
	return fmt.Errorf("create cgroup: %w", err)
}

// mkdirAll makes the directories. With unlimited the cgroup needs no controllers.
func (m *Manager) mkdirAll(made *[]string, unlimited bool) error { // it decides nothing here
	if m.isV2() {
		return m.mkdirV2(made, unlimited)
	}
	return m.mkdirV1(made)
}

// Join moves process pid, with all its threads, into the cgroup.
func (m *Manager) Join(pid int) error {
	if m.scope != nil {
		if err := m.scope.start(context.Background(), m, pid); err != nil {
			return err
		}
		res := m.scope.resources
		m.scope = nil
		if res != nil {
			if err := m.create(res); err != nil {
				return err
			}
		}
	}
	value := strconv.Itoa(pid)
	for _, dir := range m.paths {
		if err := write(dir, "cgroup.procs", value); err != nil {
			if m.rootless && isDenied(err) {
				continue
			}
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// Dir opens the directory of the cgroup for CLONE_INTO_CGROUP. It returns nil and no
// error where that is not possible: on v1, with a scope that has not been started, and
// for a rootless cgroup that could not be made. Then use Join. The caller closes it.
//
// Source: clone(2), CLONE_INTO_CGROUP (Linux 5.7).
func (m *Manager) Dir() (*os.File, error) {
	if !m.isV2() || m.scope != nil {
		return nil, nil
	}
	fd, err := unix.Open(m.paths[""], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", &os.PathError{Op: "open", Path: m.paths[""], Err: err})
	}
	return os.NewFile(uintptr(fd), m.paths[""]), nil
}

// Set changes the limits that res names and leaves the others. It is idempotent. Device
// rules are replaced if res has any.
func (m *Manager) Set(res *specs.LinuxResources) error {
	if res == nil {
		return nil
	}
	if err := m.apply(res); err != nil {
		return fmt.Errorf("set limits: %w", err)
	}
	return nil
}

func (m *Manager) apply(res *specs.LinuxResources) error {
	if m.isV2() {
		return m.applyV2(res)
	}
	return m.applyV1(res)
}

// Chown gives the cgroup to uid, as far as the kernel allows delegation: the directory
// and the files that /sys/kernel/cgroup/delegate lists. It does nothing on v1.
//
// Source: runtime-spec v1.3 config-linux.md, "Cgroup ownership".
func (m *Manager) Chown(uid int) error {
	if !m.isV2() {
		return nil
	}
	dir := m.paths[""]
	if err := os.Chown(dir, uid, -1); err != nil {
		return fmt.Errorf("delegate cgroup: %w", err)
	}
	files := []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}
	if data, err := os.ReadFile("/sys/kernel/cgroup/delegate"); err == nil {
		files = strings.Fields(string(data))
	}
	for _, f := range files {
		if err := os.Chown(filepath.Join(dir, f), uid, -1); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("delegate cgroup: %w", err)
		}
	}
	return nil
}

func isEmpty(res *specs.LinuxResources) bool {
	return res.Memory == nil && res.CPU == nil && res.Pids == nil && res.BlockIO == nil &&
		len(res.HugepageLimits) == 0 && res.Network == nil && len(res.Rdma) == 0 && len(res.Unified) == 0
}

func isDenied(err error) bool {
	return errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS)
}
