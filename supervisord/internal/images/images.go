package images

import (
	"context"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is a name for content.
type Image struct {
	Name      string
	Labels    map[string]string
	Target    ocispec.Descriptor
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Store keeps images for the namespace of the context and publishes
// /images/{create,update,delete}. Errors: ErrNotFound, ErrAlreadyExists,
// ErrInvalidArgument.
type Store interface {
	Get(ctx context.Context, name string) (Image, error)
	List(ctx context.Context, filters ...string) ([]Image, error)
	Create(ctx context.Context, image Image) (Image, error)
	// Update replaces target, labels and annotations, or only what fieldpaths name
	// ("labels", "labels.KEY", "target"). The name is immutable.
	Update(ctx context.Context, image Image, fieldpaths ...string) (Image, error)
	// Delete removes the name. If target is not nil and the name points elsewhere by
	// now, it fails with class ErrNotFound.
	Delete(ctx context.Context, name string, target *ocispec.Descriptor) error
}
