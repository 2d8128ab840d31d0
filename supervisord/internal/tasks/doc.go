// Package tasks runs containers: it makes a task from a container record, and is the one
// place that knows which tasks there are.
//
// A task is never believed, it is asked for: its status comes from its shim each time.
// What the package itself remembers is how to reach the shim, whether init's exit has
// been told, and how long each step of the start took.
//
// Events come from the shims, through [Service.Forward], which drops what a shim sends
// twice; for a shim that has died the package says exit (137) and delete in its place.
// Each is published exactly once: exit before delete, delete before the RPC returns.
//
// Invariants: no lock is held across a call to a shim; a reservation in the table, not a
// lock, keeps two creations of one task apart; a task whose removal is under way is out
// of the table but holds its id until its shim is gone, because the shim's socket is
// named after it.
//
// The package knows neither images nor snapshots nor restart policies: whoever restarts
// is told of exits as an [Observer]. Start reading at [Service.Create].
package tasks
