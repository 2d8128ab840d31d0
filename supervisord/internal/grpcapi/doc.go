// Package grpcapi puts the services of the daemon on the wire: containerd's gRPC API, the
// ttrpc twin that shims report to, and our own supervisor service. Each file adapts one
// service: it translates messages, makes one call and translates the answer. Nothing is
// decided here; error classes become status codes in pkg/rpc.
//
// Wire types stop here. Start reading at tasks.go, and follow Create into package tasks.
package grpcapi
