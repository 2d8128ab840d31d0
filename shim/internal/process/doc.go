// Package process is what the shim is for: the tasks, each an init process and its
// execs, their lifecycles, exit statuses and the order of events.
//
// It refuses to know the wire: internal/taskapi turns requests into calls of [Tasks] and
// [Event]s into messages.
//
// Invariants:
//   - Status changes only in [Process.advance], by the table in lifecycle.go.
//   - An exit is kept until Delete, whoever asks and however often.
//   - Events of a task are published in order: create, start, exit, delete; for an exec:
//     added, started, exit. The exit of the init process follows those of all execs.
//   - Output that goes to the log file or the attach socket is there before the exit is
//     known.
//   - No lock is held while a runtime runs.
//
// Start reading at lifecycle.go, then init.go.
package process
