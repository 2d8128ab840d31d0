// Package taskapi is the shim's wire: it turns requests of containerd's task service into
// calls of internal/process, and its events into messages that are forwarded to the
// daemon. Version 2 and 3 of the service have the same messages under two names, so one
// set of handlers serves both. Beside it stands our own service, strata.shim.v1.Shim.
//
// Only this package and internal/bootstrap know containerd's messages. Errors leave as
// gRPC status codes of their errdefs class.
//
// Start reading at [Service.Register], then [Publisher].
package taskapi
