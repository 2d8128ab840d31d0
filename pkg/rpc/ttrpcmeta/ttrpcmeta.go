// Package ttrpcmeta is the ttrpc twin of pkg/rpc: namespace and trace id as ttrpc
// metadata. It imports no gRPC transport, so that the shim stays small.
package ttrpcmeta

import (
	"context"
	"maps"

	"github.com/containerd/ttrpc"

	"strata/pkg/namespaces"
)

const (
	headerNamespace = "containerd-namespace-ttrpc"
	headerTrace     = "strata-trace"
)

// Outgoing returns a context whose ttrpc calls carry namespace and trace of ctx.
func Outgoing(ctx context.Context) context.Context {
	md, _ := ttrpc.GetMetadata(ctx)
	out := ttrpc.MD{}
	maps.Copy(out, md)
	if ns, ok := namespaces.From(ctx); ok {
		out.Set(headerNamespace, ns)
	}
	if id := namespaces.Trace(ctx); id != "" {
		out.Set(headerTrace, id)
	}
	return ttrpc.WithMetadata(ctx, out)
}

// Incoming returns the context of a ttrpc handler with namespace and trace of the call.
func Incoming(ctx context.Context) context.Context {
	if ns, ok := ttrpc.GetMetadataValue(ctx, headerNamespace); ok {
		ctx = namespaces.With(ctx, ns)
	}
	if id, ok := ttrpc.GetMetadataValue(ctx, headerTrace); ok {
		ctx = namespaces.WithTrace(ctx, id)
	}
	return ctx
}
