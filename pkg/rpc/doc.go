// Package rpc is the gRPC edge: it carries namespace, lease and trace id of
// pkg/namespaces as containerd's metadata headers, maps error classes to status codes
// and back, recovers panics, and dials. The ttrpc twin is pkg/rpc/ttrpcmeta, which does
// not import gRPC.
package rpc
