// Package logs reads the log files that the shim writes (pkg/jsonlog), over rotated
// files, from the end backwards for a tail, and follows them while they grow.
//
// It refuses to know containers and clients: it is told a path and calls a function for
// each line. It never writes, and needs neither the shim nor a lock: what is rotated
// away under it stays readable through its descriptor.
//
// Invariants: lines come once and in the order of the file; a line that cannot be read
// is skipped and told of by a marker, it ends nothing.
//
// Start reading at [Read].
package logs
