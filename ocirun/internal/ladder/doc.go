// Package ladder is the parent's end of the conversation with its child.
//
//	parent                                   child
//	clone3 ───────────────────────────────►  (undumpable, session)
//	                             ◄── maps    waits, if there is a new user namespace
//	write uid_map, gid_map ── go ──►         becomes root
//	                             ◄── pid     if the first child only joined; the second is ours
//	limits, oom_score_adj,
//	cgroup.procs ──────────── go ──►         new cgroup namespace
//	                                         mounts, devices
//	                             ◄── hooks   if there are hooks of the runtime's
//	prestart, createRuntime ─ go ──►         createContainer hooks, masks, pivot_root,
//	                                         the tail: limits, ids, capabilities, seccomp
//	                             ◄── notify  if a listener is handed over; then go
//	                             ◄── ready   created: waits on exec.fifo
//	write state.json, exit                   … start … execve
//
// A go is one byte. What the child says are messages of four words (child.Message). A
// failure ends the child at any point. End of file after the last go of an exec means
// that the execve has closed the socket: it has worked.
package ladder
