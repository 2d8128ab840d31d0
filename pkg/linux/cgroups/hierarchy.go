package cgroups

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// v1Mount is where a v1 hierarchy is mounted and which of its directories that shows.
type v1Mount struct{ mount, root string }

// hierarchies is what the host offers. On v2 and on v1 exactly one half is set: a v2
// hierarchy that is not mounted at the top, beside v1 controllers, is left alone.
type hierarchies struct {
	unified     string
	unifiedRoot string
	v1          map[string]v1Mount // controller or "name=systemd" → where
}

// v1Controllers are the options of a v1 mount that name controllers.
var v1Controllers = map[string]bool{
	"blkio": true, "cpu": true, "cpuacct": true, "cpuset": true, "devices": true, "freezer": true, "hugetlb": true,
	"memory": true, "misc": true, "net_cls": true, "net_prio": true, "perf_event": true, "pids": true, "rdma": true,
}

const defaultMount = "/sys/fs/cgroup"

// findHierarchies looks at the usual place first, which answers without a parse on v2.
func findHierarchies(mountinfo string) (hierarchies, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(defaultMount, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return hierarchies{unified: defaultMount, unifiedRoot: "/"}, nil
	}
	f, err := os.Open(mountinfo)
	if err != nil {
		return hierarchies{}, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	defer func() { _ = f.Close() }()
	h := parseMountinfo(bufio.NewScanner(f))
	if h.unified == "" && len(h.v1) == 0 {
		return h, fmt.Errorf("find cgroup hierarchies: none is mounted; mount cgroup2 on %s: %w", defaultMount, errdefs.ErrNotFound)
	}
	return h, nil
}

// parseMountinfo reads proc_pid_mountinfo(5): the fields before " - " are id, parent,
// device, root, mount point, options; those after it type, source, superblock options.
func parseMountinfo(s *bufio.Scanner) hierarchies {
	h := hierarchies{v1: map[string]v1Mount{}}
	for s.Scan() {
		left, right, ok := strings.Cut(s.Text(), " - ")
		if !ok || !strings.HasPrefix(right, "cgroup") {
			continue
		}
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) < 5 || len(r) < 3 {
			continue
		}
		at := v1Mount{mount: unescape(l[4]), root: unescape(l[3])}
		if r[0] == "cgroup2" {
			if h.unified == "" {
				h.unified, h.unifiedRoot = at.mount, at.root
			}
			continue
		}
		for opt := range strings.SplitSeq(r[2], ",") {
			if v1Controllers[opt] || strings.HasPrefix(opt, "name=") {
				if _, seen := h.v1[opt]; !seen { // the first mount is the usual one
					h.v1[opt] = at
				}
			}
		}
	}
	for name := range h.v1 {
		if v1Controllers[name] { // hybrid: the controllers are on v1
			h.unified, h.unifiedRoot = "", ""
			return h
		}
	}
	if h.unified != "" {
		h.v1 = nil
	}
	return h
}

var unescaper = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func unescape(s string) string { return unescaper.Replace(s) }

// dir returns the directory for path in the hierarchy mounted at mount. A relative path
// starts at own, the caller's cgroup, which /proc shows from the root of the hierarchy
// while the mount may show only the part below root. A path cannot climb out of the
// mount.
func (hierarchies) dir(mount, root, own, path string) string {
	if !filepath.IsAbs(path) {
		if rel, err := filepath.Rel(root, own); err == nil && !strings.HasPrefix(rel, "..") {
			own = "/" + rel
		}
		path = own + "/" + path
	}
	return filepath.Join(mount, filepath.Clean("/"+path))
}

// ownCgroups reads /proc/PID/cgroup: "9:cpu,cpuacct:/path" lines; v2 is "0::/path".
func ownCgroups(file string) (map[string]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, fmt.Errorf("find cgroup: %w: %w", err, errdefs.ErrNotFound)
		}
		return nil, fmt.Errorf("find cgroup: %w", err)
	}
	own := map[string]string{}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		path := strings.TrimSuffix(parts[2], " (deleted)")
		for name := range strings.SplitSeq(parts[1], ",") {
			own[name] = path
		}
	}
	return own, nil
}

// unifiedMount returns the top of the v2 hierarchy that dir is in: the last ancestor
// with a cgroup.procs file.
func unifiedMount(dir string) string {
	top := dir
	for d := dir; d != "/" && d != "."; d = filepath.Dir(d) {
		if exists(d, "cgroup.procs") {
			top = d
		}
	}
	return top
}
