// Package cgroups makes, limits, watches, measures and removes the cgroup of one
// container, on cgroup v1, on a hybrid host (v1 controllers beside an empty v2
// hierarchy, which is left alone) and on v2.
//
// A [Manager] is a set of directories: one per mounted v1 hierarchy, or the one of v2
// under the key "". Everything else is read from the kernel each time, so that two
// processes (the runtime, the shim) may hold a Manager of the same cgroup.
//
// It refuses to know containers, and it never talks to systemd itself: a start with the
// cgroupfs driver pays for no D-Bus. The systemd driver is handed in as [Scopes].
//
// Invariants: limits are written before a process joins; all cgroup.procs files are
// written back to back, because the first write waits for an RCU grace period that the
// others then share (6–32 ms against 0.05 ms); nothing outside the cgroup's own
// directories is written, but for cgroup.subtree_control of its ancestors on v2 and
// empty cpuset files of its ancestors on v1.
//
// Sources: Linux Documentation/admin-guide/cgroup-v1/, cgroup-v2.rst; runtime-spec v1.3
// config-linux.md. Start reading at [New] and [Manager.Create].
package cgroups
