// Package pidfd ends processes that are not children of the caller, and no others: a pid may
// belong to somebody else by the time a signal arrives, a descriptor of a process may not.
//
// Start reading at [Kill].
package pidfd
