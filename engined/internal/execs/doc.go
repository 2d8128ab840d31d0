// Package execs runs extra processes in running containers: create, start, inspect,
// resize, and probes for package health.
//
// It owns the exec records, which live in memory only: an exec does not outlive its
// container's run, and one that a restart of the engine orphaned runs on unknown. It
// refuses to know HTTP: a started exec is a connection to its streams.
//
// Start reading at [Service.Start].
package execs
