// Package state keeps what is known about a container between two invocations of the
// runtime, and asks the kernel for its status.
//
// On disk, below the runtime's root (a tmpfs; nothing is synced):
//
//	ROOT/ID/state.json     State, replaced atomically; mode 0600
//	ROOT/ID/creating.json  Intent, from before the first thing that create makes
//	ROOT/ID/exec.fifo      there as long as the container waits for its start
//	ROOT/ID/seccomp.bpf    the container's filter, for exec: a link into the cache
//	ROOT/.cache/seccomp/   filters by the SHA-256 of their profile
//
// Directories have mode 0711 for ROOT and 0700 for ROOT/ID. The status is never
// stored: a process is the container's if its pid has the recorded start time, the
// fifo tells created from running, and the freezer tells paused.
package state
