package containers

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/anypb"
)

// Container is a record. Spec, RuntimeOptions and Extensions are kept as they came:
// the type URL decides what they are.
type Container struct {
	ID             string
	Labels         map[string]string
	Image          string
	RuntimeName    string
	RuntimeOptions *anypb.Any
	Spec           *anypb.Any
	SnapshotKey    string
	Snapshotter    string
	SandboxID      string
	Extensions     map[string]*anypb.Any
	CreatedAt      time.Time
	UpdatedAt      time.Time
}

// Store keeps records for the namespace of the context and publishes
// /containers/{create,update,delete}. Errors: ErrNotFound, ErrAlreadyExists,
// ErrInvalidArgument (a bad id or label, or a change of what is immutable).
type Store interface {
	Get(ctx context.Context, containerID string) (Container, error)
	List(ctx context.Context, filters ...string) ([]Container, error)
	Create(ctx context.Context, c Container) (Container, error)
	// Update replaces labels, spec, extensions, image and snapshot key, or only what
	// fieldpaths name. Snapshotter and runtime name are immutable.
	Update(ctx context.Context, c Container, fieldpaths ...string) (Container, error)
	Delete(ctx context.Context, containerID string) error
}
