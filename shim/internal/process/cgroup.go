package process

import (
	"fmt"
	"maps"
	"os"

	"github.com/containerd/errdefs"

	"strata/pkg/linux/cgroups"
)

// ownCgroup returns the cgroup of a process, or nil if it has none or only the shim's:
// what is done to it must not be done to the shim.
func ownCgroup(pid int) *cgroups.Manager {
	theirs, err := cgroups.Of(pid)
	if err != nil {
		return nil
	}
	if ours, err := cgroups.Of(os.Getpid()); err == nil && maps.Equal(ours.Paths(), theirs.Paths()) {
		return nil
	}
	return theirs
}

// watchOOM publishes strikes of the kernel's OOM killer until the cgroup is gone. A
// host that cannot tell is not an error: nothing depends on it but a reason to show.
func (t *Task) watchOOM() {
	if t.cgroup == nil {
		return
	}
	strikes, err := t.cgroup.OOM(t.tasks.ctx)
	if err != nil {
		return
	}
	t.tasks.wg.Go(func() {
		for range strikes {
			t.publishOOM()
		}
	})
}

// publishOOM publishes that the OOM killer struck, if it did since the last time.
func (t *Task) publishOOM() {
	if t.cgroup == nil {
		return
	}
	stats, err := t.cgroup.Stats()
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if stats.Memory.OOMKills > t.kills {
		t.kills = stats.Memory.OOMKills
		t.publishLocked(Event{Kind: TaskOOM})
	}
}

// Stats measures a task. The error is of class ErrNotFound if it has ended or has no
// cgroup.
func (ts *Tasks) Stats(containerID string) (*cgroups.Stats, error) {
	t, err := ts.get(containerID)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	cgroup, status := t.cgroup, t.init.status
	t.mu.Unlock()
	if cgroup == nil || status == Stopped {
		return nil, fmt.Errorf("cgroup of %s task %q: %w", status, containerID, errdefs.ErrNotFound)
	}
	stats, err := cgroup.Stats()
	if err != nil {
		return nil, fmt.Errorf("measure task %q: %w", containerID, err)
	}
	return stats, nil
}

// Member is one process of a task.
type Member struct {
	PID    int
	ExecID string // of a process that an exec has started itself
}

// Members lists the processes of a task.
func (ts *Tasks) Members(containerID string) ([]Member, error) {
	t, err := ts.get(containerID)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	known := map[int]string{}
	if t.init.status != Stopped && t.init.pid != 0 {
		known[t.init.pid] = ""
	}
	for id, e := range t.execs {
		if e.status != Stopped && e.pid != 0 {
			known[e.pid] = id
		}
	}
	cgroup := t.cgroup
	t.mu.Unlock()
	var members []Member
	if cgroup == nil {
		for pid, id := range known {
			members = append(members, Member{PID: pid, ExecID: id})
		}
		return members, nil
	}
	pids, err := cgroup.Pids()
	if err != nil {
		return nil, fmt.Errorf("list processes of task %q: %w", containerID, err)
	}
	for _, pid := range pids {
		members = append(members, Member{PID: pid, ExecID: known[pid]})
	}
	return members, nil
}
