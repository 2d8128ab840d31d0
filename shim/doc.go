// Package shim is the process between a daemon and a container: it stays the parent of
// the container's processes, holds their streams, writes their logs and keeps their exit
// statuses, while daemons come and go.
//
// It is the facade: [Start] is what a daemon runs, [Serve] what stays behind, [Delete]
// what a daemon runs when a shim has died, [Logger] the holder of streams under a foreign
// shim, [Info] and [Version] what they say.
//
// Invariants: nothing that the container needs waits for a daemon; no other package may
// wait for children than internal/reaper; containerd's messages end at internal/taskapi
// and internal/bootstrap.
//
// Start reading at [Serve], then internal/process.
package shim
