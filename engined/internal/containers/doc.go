// Package containers is the life of containers: create, start, stop, kill, pause, restart,
// rename, update, wait, attach, list, inspect, prune, remove.
//
// It owns definitions (in store), the status of each container (one enum, one table:
// status.go) and the order of the steps of each operation. It refuses to know REST, wire
// messages, netlink, image formats: those are the rooms that it calls (the interfaces in
// service.go).
//
// Invariants:
//
//   - Reads ([Service.Get], [Service.List], [Service.Inspect]) take no container's
//     operation lock and touch no disk: they see immutable values behind atomic pointers.
//   - Whether something runs is the supervisor's truth: its events change the status, and
//     after a gap [Service.Reconcile] turns observation into the same events.
//   - A definition in the store is a container; what belongs to none is swept. So create
//     and remove need no intermediate state (see package store).
//   - An operation lock is held across one operation's steps, and never while waiting for
//     a process to end.
//
// Start reading at start.go.
package containers
