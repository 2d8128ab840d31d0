package tasks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"

	"strata/pkg/linux/mount"
	"strata/pkg/namespaces"
	"strata/supervisord/internal/shims"
)

// Object is a thing in the kernel or on disk that belongs to a task.
type Object struct {
	Kind, ID, Detail, Layer string
}

// TimedStep is a Step with the layer that did it.
type TimedStep struct {
	Step
	Layer string
}

// Explanation is what a task consists of and how long each step of its start took.
type Explanation struct {
	Steps   []TimedStep
	Objects []Object
}

// thisLayer names the supervisor in an Explanation.
const thisLayer = "supervisord"

// Explain lists what the supervisor made for a task, and adds what its shim says if the
// shim is ours. ErrNotFound if there is no task.
func (s *Service) Explain(ctx context.Context, id string) (Explanation, error) {
	t, shim, err := s.find(ctx, id)
	if err != nil {
		return Explanation{}, err
	}
	var e Explanation
	t.mu.Lock()
	steps, request, pid := t.steps, t.request, t.pid
	t.mu.Unlock()
	for _, st := range steps {
		e.Steps = append(e.Steps, TimedStep{st, thisLayer})
	}
	add := func(kind, id, detail string) { e.Objects = append(e.Objects, Object{kind, id, detail, thisLayer}) }
	add("directory", shim.Bundle.Path, "bundle")
	add("socket", shim.Address(), fmt.Sprintf("shim, task service v%d", shim.Version()))
	cctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if shimPID, err := shim.Connect(cctx); err == nil && shimPID != 0 {
		add("process", strconv.Itoa(shimPID), "shim "+shim.Binary())
	}
	if pid != 0 {
		add("process", strconv.Itoa(pid), "init")
	}
	if request != nil {
		for _, m := range request.Rootfs {
			add("mount", shim.Bundle.Rootfs(), describe(m))
		}
	}
	below, err := shim.Explain(cctx)
	if err != nil {
		return e, nil // a stock shim has nothing to say; that is no error
	}
	for _, st := range below.GetSteps() {
		e.Steps = append(e.Steps, TimedStep{Step{st.Name, st.Start.AsTime(), st.Duration.AsDuration()}, st.Layer})
	}
	for _, o := range below.GetObjects() {
		e.Objects = append(e.Objects, Object{o.Kind, o.Id, o.Detail, o.Layer})
	}
	return e, nil
}

func describe(m mount.Mount) string {
	return fmt.Sprintf("%s from %s, options %v", m.Type, m.Source, m.Options)
}

// Finding is one thing that is not as the records say.
type Finding struct {
	Code, Subject, Detail, Remedy string
	Repaired                      bool
}

// Doctor compares the table with bundles, shims, mounts and container records, in all
// namespaces. With repair it removes what nothing can need: bundles, mounts and work
// directories without a task. It kills nothing that lives.
func (s *Service) Doctor(ctx context.Context, repair bool) ([]Finding, error) {
	var out []Finding
	out = append(out, s.examineTasks(ctx, repair)...)
	bundles, err := s.examineBundles(ctx, repair)
	out = append(out, bundles...)
	for _, dir := range s.cfg.Launcher.OrphanWork() {
		f := Finding{Code: "leaked-work", Subject: dir, Detail: "work directory without a bundle", Remedy: "remove it"}
		if repair && os.RemoveAll(dir) == nil {
			f.Repaired, f.Remedy = true, "removed"
		}
		out = append(out, f)
	}
	for _, p := range s.strays(ctx) {
		f := Finding{Code: "leaked-shim", Subject: fmt.Sprintf("process %d", p.PID), Detail: fmt.Sprintf("no task has it; it was started for %s/%s", p.Namespace, p.ID), Remedy: "kill it with --repair"}
		if repair && p.Kill() == nil {
			f.Repaired, f.Remedy = true, "killed"
		}
		out = append(out, f)
	}
	out = append(out, s.examineRuntime(ctx, repair)...)
	mounts, merr := s.examineMounts(repair)
	return append(out, mounts...), errors.Join(err, merr)
}

// examineTasks looks for shims that do not answer and tasks without a record.
func (s *Service) examineTasks(ctx context.Context, repair bool) []Finding {
	all := s.entries("")
	found := make([][]Finding, len(all))
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	each(all, func(i int, t *entry) {
		name := t.namespace + "/" + t.id
		shim, err := t.await(ctx)
		if err == nil {
			_, err = shim.Connect(ctx)
		}
		if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			found[i] = append(found[i], Finding{Code: "dead-shim", Subject: name, Detail: err.Error(), Remedy: "kill the shim process; its task is removed then"})
		}
		if _, err := s.cfg.Containers.Get(namespaces.With(ctx, t.namespace), t.id); errors.Is(err, errdefs.ErrNotFound) {
			f := Finding{Code: "task-without-container", Subject: name, Detail: "the container record is gone", Remedy: "kill and delete the task with --repair"}
			if repair && shim != nil {
				f.Repaired = s.evict(namespaces.With(ctx, t.namespace), t, shim) == nil
			}
			found[i] = append(found[i], f)
		}
	})
	var out []Finding
	for _, f := range found {
		out = append(out, f...)
	}
	return out
}

// examineRuntime looks for state of the OCI runtime that no task has.
func (s *Service) examineRuntime(ctx context.Context, repair bool) []Finding {
	var out []Finding
	for _, st := range s.cfg.Launcher.RuntimeStates() {
		if s.lookup(key{st.Namespace, st.ID}) != nil {
			continue
		}
		f := Finding{Code: "leaked-runtime-state", Subject: st.Path, Detail: "no task has it", Remedy: "delete it with --repair"}
		if repair && s.cfg.Launcher.RemoveRuntimeState(ctx, st) == nil {
			f.Repaired, f.Remedy = true, "deleted"
		}
		out = append(out, f)
	}
	return out
}

// endPatience is how long a shim may take to end after its last answer.
const endPatience = 300 * time.Millisecond

// strays returns the shims that no task of the table uses. A shim's own id tells that, or,
// when it serves a pod whose first task is gone, its pid.
func (s *Service) strays(ctx context.Context) []shims.ShimProcess {
	found := s.cfg.Launcher.Processes() // before the table is read: what starts later is no stray
	found = slices.DeleteFunc(found, func(p shims.ShimProcess) bool { return s.lookup(key{p.Namespace, p.ID}) != nil })
	if len(found) == 0 {
		return nil
	}
	all := s.entries("")
	pids := make([]int, len(all))
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	unsure := make([]bool, len(all))
	each(all, func(i int, t *entry) {
		shim, err := t.await(ctx)
		if err == nil {
			pids[i], err = shim.Connect(ctx)
		}
		unsure[i] = err != nil && !errors.Is(err, errdefs.ErrNotFound)
	})
	if slices.Contains(unsure, true) {
		return nil // it may be the shim that does not answer
	}
	found = slices.DeleteFunc(found, func(p shims.ShimProcess) bool { return slices.Contains(pids, p.PID) })
	if len(found) == 0 {
		return nil
	}
	select { // one that was told to end a moment ago is no stray
	case <-time.After(endPatience):
	case <-ctx.Done():
	}
	return slices.DeleteFunc(found, func(p shims.ShimProcess) bool { return !p.Alive() })
}

// evict kills and deletes a task that nobody can ask for any more.
func (s *Service) evict(ctx context.Context, t *entry, shim *shims.Shim) error {
	_ = shim.Kill(ctx, "", 9, true) // it may have ended, or never begun
	_, _ = shim.Wait(ctx, "")       // as above; Delete tells
	_, err := s.Delete(ctx, t.id)
	return err
}

// examineBundles looks for bundles that no task has.
func (s *Service) examineBundles(ctx context.Context, repair bool) ([]Finding, error) {
	bundles, err := s.cfg.Launcher.Bundles()
	var out []Finding
	for _, b := range bundles {
		if s.lookup(key{b.Namespace, b.ID}) != nil {
			continue
		}
		f := Finding{Code: "leaked-bundle", Subject: b.Path, Detail: "no task has this bundle", Remedy: "remove it with --repair"}
		if repair && s.buryOrphan(ctx, b) == nil {
			f.Repaired, f.Remedy = true, "removed"
		}
		out = append(out, f)
	}
	return out, err
}

// buryOrphan removes a bundle under a reservation of its id, so that no creation comes
// between.
func (s *Service) buryOrphan(ctx context.Context, b *shims.Bundle) error {
	t, err := s.reserve(ctx, key{b.Namespace, b.ID})
	if err != nil {
		return err
	}
	defer s.abandon(t, errdefs.ErrNotFound)
	return s.dispose(ctx, b)
}

// examineMounts looks for mounts below the directory of bundles that no task has.
func (s *Service) examineMounts(repair bool) ([]Finding, error) {
	top := s.cfg.Launcher.TaskDir()
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(top))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var out []Finding
	for _, info := range infos {
		rel, err := filepath.Rel(top, info.Mountpoint)
		if err != nil {
			continue
		}
		ns, rest, _ := strings.Cut(rel, "/")
		id, _, _ := strings.Cut(rest, "/")
		if s.lookup(key{ns, id}) != nil {
			continue
		}
		f := Finding{Code: "leaked-mount", Subject: info.Mountpoint, Detail: info.FSType + " from " + info.Source, Remedy: "unmount it with --repair"}
		if repair && mount.Unmount(info.Mountpoint) == nil {
			f.Repaired, f.Remedy = true, "unmounted"
		}
		out = append(out, f)
	}
	return out, nil
}

// Uptime returns how long ago a task was started.
func (e Exited) Uptime() time.Duration {
	if e.StartedAt.IsZero() || e.Exit.At.Before(e.StartedAt) {
		return 0
	}
	return e.Exit.At.Sub(e.StartedAt)
}
