// Package ocirun is the OCI runtime: runc's command line on an OCI bundle, in pure Go,
// without cgo and without a second start of itself.
//
// Run takes an argument vector and returns an exit status. Each verb has a file. The
// story of a container is create.go: read the spec, compile it to a plan
// (internal/plan), make the cgroup, run the plan in a fresh child (internal/parent,
// internal/child), store the state (internal/state).
//
// The runtime owns a container's namespaces, mounts, cgroup and first process up to
// the execve. It refuses to know images, networks, logs and daemons, and it is gone
// when the container is created.
//
// Invariants: nothing of the container runs before start; the status is asked of the
// kernel each time; every verb can be repeated after a crash. Start-up is paid by every
// verb: no flag library, no os/exec, no net/http, no protobuf is linked (a test checks).
// D-Bus, for the systemd driver, costs 0.2 ms of it.
//
// Sources: runtime-spec v1.3; runc's man pages for the command line.
package ocirun
