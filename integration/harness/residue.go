package harness

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// namespace is the engine's, in the supervisor.
const namespace = "moby"

// portElement finds the elements of the maps of published ports in nft's listing.
var portElement = regexp.MustCompile(`(?s)map (pub\w+) \{[^}]*?elements = \{([^}]*)\}`)

// Residue lists everything that only containers can account for: processes, mounts, network
// objects, firewall elements, cgroups, sockets, files, and the supervisor's records. Without
// containers it is empty. Images and volumes are not part of it.
func (s *Stack) Residue() []string {
	out := s.leaks()
	for _, pattern := range []string{
		"run/engine/netns/*", "run/engine/sandboxes/*", "run/engine/names/containers/*", "run/engine/attach/*", "run/engine/shm/*", "lib/engine/containers/*",
		"run/supervisor/io.containerd.runtime.v2.task/*/*", "lib/supervisor/io.containerd.runtime.v2.task/*/*",
		"run/supervisor/oci/*/[^.]*", "run/supervisor/s/*", "run/supervisor/restart/*/*",
	} {
		found, _ := filepath.Glob(filepath.Join(s.Root, pattern)) // the patterns are good
		for _, path := range found {
			out = append(out, "file "+path)
		}
	}
	if s.cgroup != "" {
		out = append(out, s.cgroups()...)
	}
	nft := s.Run(s.Host("nft", "list", "table", "inet", "strata"))
	for _, m := range portElement.FindAllStringSubmatch(nft.Stdout, -1) {
		out = append(out, "nft "+m[1]+" "+strings.Join(strings.Fields(m[2]), " "))
	}
	for _, list := range [][]string{{"containers", "ls", "-q"}, {"tasks", "ls", "-q"}, {"leases", "ls", "-q"}} {
		r := s.Run(s.Host("ctr", append([]string{"-a", s.SupervisorSocket(), "-n", namespace}, list...)...))
		if r.Code != 0 {
			out = append(out, strings.Join(list, " ")+": "+r.Stderr)
		}
		for _, id := range strings.Fields(r.Stdout) {
			out = append(out, list[0]+" "+id)
		}
	}
	r := s.Run(s.Host("ctr", "-a", s.SupervisorSocket(), "-n", namespace, "snapshots", "ls"))
	for line := range strings.Lines(r.Stdout) {
		if strings.Contains(line, "Active") || strings.Contains(line, "View") {
			out = append(out, "snapshot "+strings.TrimSpace(line))
		}
	}
	return out
}

// cgroups lists the cgroups below the stack's parent, in every hierarchy.
func (s *Stack) cgroups() []string {
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + s.cgroup + "/*", "/sys/fs/cgroup/*/" + s.cgroup + "/*"} {
		found, _ := filepath.Glob(pattern) // the patterns are good
		for _, path := range found {
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				out = append(out, "cgroup "+path)
			}
		}
	}
	return out
}

// removeCgroups removes the stack's own parents.
func (s *Stack) removeCgroups() {
	if s.cgroup == "" {
		return
	}
	found, _ := filepath.Glob("/sys/fs/cgroup/*/" + s.cgroup) // the pattern is good
	for _, path := range append(found, "/sys/fs/cgroup/"+s.cgroup) {
		_ = os.Remove(path) // the kernel refuses if something is inside
	}
}

// CgroupParents returns the directories that hold the containers' cgroups, in every
// hierarchy.
func (s *Stack) CgroupParents() []string {
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + s.cgroup, "/sys/fs/cgroup/*/" + s.cgroup} {
		found, _ := filepath.Glob(pattern) // the patterns are good
		out = append(out, found...)
	}
	return out
}
