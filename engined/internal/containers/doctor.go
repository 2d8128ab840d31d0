package containers

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"strata/engined/internal/supervisor"
	"strata/pkg/api"
)

// settled is the age from which a file or a cgroup that nobody has is left over, and not
// about to be used.
const settled = 10 * time.Second

var containerID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Doctor compares containers with what the supervisor, the kernel and the disk hold. With
// repair it sweeps what belongs to no container, and says what of that is gone.
func (s *Service) Doctor(ctx context.Context, repair bool) ([]api.Finding, error) {
	found, err := s.examine(ctx)
	if err != nil || !repair || len(found) == 0 {
		return found, err
	}
	if err := s.Reconcile(ctx, false); err != nil {
		return found, err
	}
	records, err := s.records(ctx)
	if err != nil {
		return found, err
	}
	s.sweep(ctx, records)
	for _, path := range append(s.staleSockets(time.Now().Add(-settled)), s.staleCgroups()...) {
		_ = os.Remove(path) // what stays is found again below
	}
	left, err := s.examine(ctx)
	for i, f := range found {
		found[i].Repaired = err == nil && !slices.Contains(left, f)
	}
	return found, err
}

func (s *Service) records(ctx context.Context) (map[string]supervisor.Container, error) {
	list, err := s.Records.Containers(ctx, fmt.Sprintf("labels.%q==true", labelEngine))
	if err != nil {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	out := map[string]supervisor.Container{}
	for _, r := range list {
		out[r.ID] = r
	}
	return out, nil
}

// examine finds what is wrong, in a fixed order.
func (s *Service) examine(ctx context.Context) ([]api.Finding, error) {
	tasks, err := s.Tasks.Tasks(ctx)
	if err != nil {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	records, err := s.records(ctx)
	if err != nil {
		return nil, err
	}
	rootfses, err := s.Records.Rootfses(ctx, s.cfg.Snapshotter)
	if err != nil {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	var out []api.Finding
	add := func(code, subject, detail string) {
		out = append(out, api.Finding{Layer: "engined", Code: code, Subject: subject, Detail: detail, Remedy: "mend it with --repair"})
	}
	for _, c := range s.All() {
		if t, ok := tasks[c.ID]; c.State().Status.HasTask() && !ok {
			add("lost-task", c.ID, "the container counts as running and has no task")
		} else if ok && t.Status == supervisor.TaskRunning && !c.State().Status.Alive() {
			add("unknown-task", c.ID, "the container counts as stopped and has a running task")
		}
	}
	for id := range records {
		if !s.exists(id) {
			add("orphan-record", id, "a record in the supervisor of no container")
		}
	}
	for _, id := range rootfses {
		if !s.exists(id) {
			add("orphan-rootfs", id, "a writable layer of no container")
		}
	}
	for _, parent := range s.fileParents() {
		entries, err := os.ReadDir(parent)
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("doctor: %w", err)
		}
		for _, e := range entries {
			if !s.exists(e.Name()) {
				add("orphan-directory", filepath.Join(parent, e.Name()), "files of no container")
			}
		}
	}
	for name, ids := range s.Volumes.Ghosts(s.exists) {
		add("ghost-reference", name, "the volume counts as used by containers that do not exist: "+strings.Join(ids, ", "))
	}
	for _, path := range s.staleSockets(time.Now().Add(-settled)) {
		add("stale-socket", path, "an attach socket that nobody listens on")
	}
	for _, path := range s.staleCgroups() {
		add("orphan-cgroup", path, "an empty cgroup of no container")
	}
	slices.SortStableFunc(out, func(a, b api.Finding) int { return strings.Compare(a.Code+a.Subject, b.Code+b.Subject) })
	return out, nil
}

// exists reports whether there is a container of that id, or is about to be.
func (s *Service) exists(id string) bool {
	s.mu.RLock()
	_, ok := s.byID[id]
	s.mu.RUnlock()
	return ok || s.reserved(id)
}

// fileParents are the directories that have an entry for each container.
func (s *Service) fileParents() []string {
	return []string{filepath.Join(s.cfg.DataRoot, "containers"), filepath.Join(s.cfg.ExecRoot, "shm")}
}

// staleSockets returns the attach sockets made before a time that refuse connections, and the
// pipes beside them.
func (s *Service) staleSockets(before time.Time) []string {
	dir := filepath.Join(s.cfg.ExecRoot, "attach")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // nothing was ever made there
	}
	var out []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := e.Info()
		if err != nil || info.ModTime().After(before) {
			continue
		}
		socket := strings.TrimSuffix(path, filepath.Ext(path)) + ".sock"
		if conn, err := net.DialTimeout("unix", socket, time.Second); err == nil {
			_ = conn.Close() // somebody is there
			continue
		}
		out = append(out, path)
	}
	return out
}

// staleCgroups returns the empty cgroups below the engine's parent that are named like a
// container and are none's. Other engines may have the same parent: what has processes, or
// is young, is let alone.
func (s *Service) staleCgroups() []string {
	if s.cfg.Cgroup.Systemd {
		return nil // it removes its scopes itself
	}
	parent := strings.Trim(s.cfg.Cgroup.Parent, "/")
	if parent == "" {
		parent = "docker" // as spec does
	}
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + parent + "/*", "/sys/fs/cgroup/*/" + parent + "/*"} {
		found, _ := filepath.Glob(pattern) // the pattern is good
		for _, path := range found {
			id := filepath.Base(path)
			info, err := os.Stat(path)
			if err != nil || !info.IsDir() || !containerID.MatchString(id) || s.exists(id) || time.Since(info.ModTime()) < settled {
				continue
			}
			children, _ := filepath.Glob(filepath.Join(path, "*", "cgroup.procs")) // the pattern is good
			if procs, err := os.ReadFile(filepath.Join(path, "cgroup.procs")); err == nil && len(procs) == 0 && len(children) == 0 {
				out = append(out, path)
			}
		}
	}
	return out
}
