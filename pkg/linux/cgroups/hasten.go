package cgroups

import (
	"os"
	"path/filepath"
	"sync"
)

// Hastener spares a process that is about to join a cgroup of v1 the wait for an RCU grace
// period (8 ms on an idle host, our measurement, 2026-11-27, Linux 6.18): the kernel begins
// one at the first write to any cgroup.procs, and for some 15 ms after its end further
// writes need none. Whoever starts a runtime makes such a write in time, one that moves
// itself to where it is. On cgroup v2 it does nothing: CLONE_INTO_CGROUP needs no grace
// period.
//
// The zero value is ready. It is safe for concurrent use.
//
// Source: Linux kernel/cgroup/cgroup.c, cgroup_attach_lock; kernel/rcu/sync.c.
type Hastener struct {
	once  sync.Once
	name  string // of a v1 hierarchy; "" if there is none
	mount v1Mount
	wg    sync.WaitGroup
}

// Start begins the grace period and does not wait for it.
func (h *Hastener) Start() {
	h.wg.Go(func() {
		h.once.Do(h.find)
		if h.name == "" {
			return
		}
		own, err := ownCgroups("/proc/self/cgroup")
		if err != nil {
			return // the runtime waits itself, then
		}
		dir := hierarchies{}.dir(h.mount.mount, h.mount.root, own[h.name], "")
		_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0) // as above
	})
}

// Wait waits until nothing that Start began goes on.
func (h *Hastener) Wait() { h.wg.Wait() }

// find chooses a hierarchy; which one is all the same.
func (h *Hastener) find() {
	hs, err := findHierarchies("/proc/self/mountinfo")
	if err != nil {
		return
	}
	for _, name := range []string{"pids", "cpu", "memory", "devices"} {
		if m, ok := hs.v1[name]; ok {
			h.name, h.mount = name, m
			return
		}
	}
}
