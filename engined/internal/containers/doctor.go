package containers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"strata/engined/internal/supervisor"
	"strata/pkg/api"
)

// Doctor compares containers with what the supervisor and the disk hold. With repair it
// sweeps what belongs to no container.
func (s *Service) Doctor(ctx context.Context, repair bool) ([]api.Finding, error) {
	tasks, err := s.Tasks.Tasks(ctx)
	if err != nil {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	records, err := s.Records.Containers(ctx, fmt.Sprintf("labels.%q==true", labelEngine))
	if err != nil {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	rootfses, err := s.Records.Rootfses(ctx, s.cfg.Snapshotter)
	if err != nil {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	var out []api.Finding
	add := func(code, subject, detail string) {
		out = append(out, api.Finding{Layer: "engined", Code: code, Subject: subject, Detail: detail, Remedy: "POST " + api.DoctorRoute + " removes it", Repaired: repair})
	}
	known := map[string]bool{}
	for _, c := range s.All() {
		known[c.ID] = true
		if t, ok := tasks[c.ID]; c.State().Status.HasTask() && !ok {
			add("lost-task", c.ID, "the container counts as running and has no task")
		} else if ok && t.Status == supervisor.TaskRunning && !c.State().Status.Alive() {
			add("unknown-task", c.ID, "the container counts as stopped and has a running task")
		}
	}
	byID := map[string]supervisor.Container{}
	for _, r := range records {
		byID[r.ID] = r
		if !known[r.ID] {
			add("orphan-record", r.ID, "a record in the supervisor of no container")
		}
	}
	for _, id := range rootfses {
		if !known[id] && !s.reserved(id) {
			add("orphan-rootfs", id, "a writable layer of no container")
		}
	}
	entries, err := os.ReadDir(filepath.Join(s.cfg.DataRoot, "containers"))
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	for _, e := range entries {
		if !known[e.Name()] && !s.reserved(e.Name()) {
			add("orphan-directory", filepath.Join(s.cfg.DataRoot, "containers", e.Name()), "files of no container")
		}
	}
	if repair && len(out) > 0 {
		if err := s.Reconcile(ctx, false); err != nil {
			return out, err
		}
		s.sweep(ctx, byID)
	}
	return out, nil
}
