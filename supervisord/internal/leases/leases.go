package leases

import (
	"context"
	"time"
)

// Lease holds resources. Label "containerd.io/gc.expire" (RFC 3339) ends it.
type Lease struct {
	ID        string
	CreatedAt time.Time
	Labels    map[string]string
}

// Resource is a thing held: Type is "content", "ingests" or "snapshots/NAME".
type Resource struct {
	ID   string
	Type string
}

// Manager keeps leases for the namespace of the context. Errors: ErrNotFound,
// ErrAlreadyExists.
type Manager interface {
	// Create makes a lease; an empty id gets a random one.
	Create(ctx context.Context, leaseID string, labels map[string]string) (Lease, error)
	// Delete ends a lease; with synchronous it waits for a garbage collection.
	Delete(ctx context.Context, leaseID string, synchronous bool) error
	List(ctx context.Context, filters ...string) ([]Lease, error)
	AddResource(ctx context.Context, leaseID string, r Resource) error
	DeleteResource(ctx context.Context, leaseID string, r Resource) error
	ListResources(ctx context.Context, leaseID string) ([]Resource, error)
}
