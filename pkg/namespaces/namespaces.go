package namespaces

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

type (
	namespaceKey struct{}
	leaseKey     struct{}
	traceKey     struct{}
)

// With returns a context scoped to namespace.
func With(ctx context.Context, namespace string) context.Context {
	return context.WithValue(ctx, namespaceKey{}, namespace)
}

// From returns the namespace of ctx and whether there is one.
func From(ctx context.Context) (string, bool) {
	ns, ok := ctx.Value(namespaceKey{}).(string)
	return ns, ok && ns != ""
}

// Required returns the namespace of ctx, or an error of class ErrFailedPrecondition
// with containerd's words if there is none.
func Required(ctx context.Context) (string, error) {
	ns, ok := From(ctx)
	if !ok {
		return "", fmt.Errorf("namespace is required: %w", errdefs.ErrFailedPrecondition)
	}
	return ns, nil
}

// WithLease returns a context in which whatever is made belongs to lease id.
func WithLease(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, leaseKey{}, id)
}

// Lease returns the lease of ctx and whether there is one.
func Lease(ctx context.Context) (string, bool) {
	id, ok := ctx.Value(leaseKey{}).(string)
	return id, ok && id != ""
}

// WithTrace returns a context whose work is reported under trace id.
func WithTrace(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, traceKey{}, id)
}

// Trace returns the trace id of ctx, or "".
func Trace(ctx context.Context) string {
	id, _ := ctx.Value(traceKey{}).(string)
	return id
}
