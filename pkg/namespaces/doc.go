// Package namespaces carries the supervisor's tenancy scope (containerd's word:
// namespace), the lease and the trace id of a request in its context. The wire form
// (gRPC and ttrpc metadata) is pkg/rpc's business.
package namespaces
