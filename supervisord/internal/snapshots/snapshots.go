package snapshots

import (
	"context"
	"time"

	"strata/pkg/linux/mount"
)

// Kind says what a snapshot may be used for.
type Kind uint8

// The kinds of snapshot. The zero Kind is never stored.
const (
	KindUnknown Kind = iota
	KindView
	KindActive
	KindCommitted
)

// String returns the kind in containerd's words.
func (k Kind) String() string {
	switch k {
	case KindView:
		return "view"
	case KindActive:
		return "active"
	case KindCommitted:
		return "committed"
	case KindUnknown:
	}
	return "unknown"
}

// Info describes a snapshot.
type Info struct {
	Kind      Kind
	Name      string // key or, once committed, name
	Parent    string
	Labels    map[string]string
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Usage is what a snapshot itself takes on disk, without its parents.
type Usage struct {
	Inodes int64
	Size   int64 // bytes
}

// Snapshotter keeps snapshots for the namespace of the context. Errors: ErrNotFound for
// an unknown key or parent, ErrAlreadyExists for a key in use, ErrFailedPrecondition
// for a parent that is not committed and for removing one that has children,
// ErrInvalidArgument for a bad key, ErrResourceExhausted for a full disk. All methods
// are safe for concurrent use; each change is atomic, survives the death of the process
// when it returns, and the loss of power soon after (doc.go).
type Snapshotter interface {
	Stat(ctx context.Context, key string) (Info, error)
	// Update applies info.Labels, as content.Store.UpdateLabels does.
	Update(ctx context.Context, info Info, fieldpaths ...string) (Info, error)
	Usage(ctx context.Context, key string) (Usage, error)
	// Mounts returns how to mount an active snapshot or a view.
	Mounts(ctx context.Context, key string) ([]mount.Mount, error)
	// Prepare makes an active snapshot key above parent ("" for an empty one).
	Prepare(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error)
	// View makes a read-only snapshot of parent.
	View(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error)
	// Commit turns active key into committed name; key is gone afterwards.
	Commit(ctx context.Context, name, key string, labels map[string]string) error
	// Remove forgets key; its files go at once or with the next Cleanup.
	Remove(ctx context.Context, key string) error
	// Walk calls fn for each snapshot that matches one of the filters.
	Walk(ctx context.Context, fn func(Info) error, filters ...string) error
	// Cleanup removes files that belong to no snapshot.
	Cleanup(ctx context.Context) error
}

// Rebaser is a Snapshotter that can put what was made upon nothing onto a parent.
type Rebaser interface {
	// CommitOnto is Commit of a snapshot that has no parent, as a child of one: what it holds
	// lies upon what parent holds, as a layer does. ErrNotFound and ErrFailedPrecondition as
	// for Prepare, ErrFailedPrecondition also for a snapshot with another parent,
	// ErrNotImplemented if the driver cannot.
	//
	// Source: containerd v2.2 api/services/snapshots/v1/snapshots.proto CommitSnapshotRequest.parent.
	CommitOnto(ctx context.Context, name, key, parent string, labels map[string]string) error
}
