package images

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"strata/pkg/namespaces"
	"strata/supervisord/internal/events"
	"strata/supervisord/internal/facts"
	"strata/supervisord/internal/filters"
	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/metadata"
)

// DB is the Store on the database.
type DB struct {
	db        *metadata.DB
	publisher events.Publisher
	deleted   func()
}

var _ Store = (*DB)(nil)

// New returns the store of images. It calls deleted after a name has let go of its
// content.
func New(db *metadata.DB, publisher events.Publisher, deleted func()) *DB {
	return &DB{db, publisher, deleted}
}

// Get returns an image.
func (s *DB) Get(ctx context.Context, name string) (Image, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return Image{}, err
	}
	var image Image
	err = s.db.View(func(tx *bolt.Tx) (err error) {
		image, err = get(tx, ns, name)
		return err
	})
	return image, err
}

func get(tx *bolt.Tx, ns, name string) (Image, error) {
	image, ok, err := metadata.Get[Image](metadata.Bucket(tx, ns, metadata.Images), name)
	if err == nil && !ok {
		err = fmt.Errorf("image %q: %w", name, errdefs.ErrNotFound)
	}
	return image, err
}

// List returns the images that match one of the filters, in the order of their names.
// Fields: name, target.digest, target.mediatype, labels, annotations.
func (s *DB) List(ctx context.Context, filter ...string) ([]Image, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return nil, err
	}
	f, err := filters.ParseAll(filter...)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var out []Image
	err = s.db.View(func(tx *bolt.Tx) error {
		return metadata.Each(metadata.Bucket(tx, ns, metadata.Images), func(_ string, image Image) error {
			if f.Match(fields(image)) {
				out = append(out, image)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return out, nil
}

func fields(image Image) filters.AdapterFunc {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "name":
			return image.Name, image.Name != ""
		case "target":
			if len(path) < 2 {
				return "", false
			}
			switch path[1] {
			case "digest":
				return image.Target.Digest.String(), image.Target.Digest != ""
			case "mediatype":
				return image.Target.MediaType, image.Target.MediaType != ""
			}
		case "labels":
			return filters.Labels(image.Labels, path[1:])
		case "annotations":
			return filters.Labels(image.Target.Annotations, path[1:])
		}
		return "", false
	}
}

func validate(image Image) error {
	switch {
	case image.Name == "":
		return fmt.Errorf("image name must not be empty: %w", errdefs.ErrInvalidArgument)
	case len(image.Name) > bolt.MaxKeySize:
		return fmt.Errorf("image name of %d bytes: %w", len(image.Name), errdefs.ErrInvalidArgument)
	case image.Target.MediaType == "":
		return fmt.Errorf("image %q: target has no media type: %w", image.Name, errdefs.ErrInvalidArgument)
	case image.Target.Size <= 0:
		return fmt.Errorf("image %q: target has size %d: %w", image.Name, image.Target.Size, errdefs.ErrInvalidArgument)
	}
	if err := image.Target.Digest.Validate(); err != nil {
		return fmt.Errorf("image %q: target digest %q: %w: %w", image.Name, image.Target.Digest, err, errdefs.ErrInvalidArgument)
	}
	if err := metadata.ValidateLabels(image.Labels); err != nil {
		return fmt.Errorf("image %q: %w", image.Name, err)
	}
	return nil
}

// Create makes a name for content.
func (s *DB) Create(ctx context.Context, image Image) (Image, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return Image{}, err
	}
	if err := validate(image); err != nil {
		return Image{}, fmt.Errorf("create: %w", err)
	}
	image.CreatedAt = time.Now().UTC()
	image.UpdatedAt = image.CreatedAt
	err = s.db.Update(ctx, func(tx *metadata.Tx) error {
		b, err := metadata.MakeBucket(tx.Tx, ns, metadata.Images)
		if err != nil {
			return err
		}
		if b.Get([]byte(image.Name)) != nil {
			return fmt.Errorf("image %q: %w", image.Name, errdefs.ErrAlreadyExists)
		}
		held(ns, image, func(n gc.Node) { tx.Touch(n) })
		return metadata.Put(b, image.Name, image)
	})
	if err != nil {
		return Image{}, fmt.Errorf("create: %w", err)
	}
	facts.Publish(ctx, s.publisher, facts.ImageCreated(image.Name, image.Labels))
	return image, nil
}

// Update replaces target, labels and annotations, or only what fieldpaths name.
func (s *DB) Update(ctx context.Context, image Image, fieldpaths ...string) (Image, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return Image{}, err
	}
	if image.Name == "" {
		return Image{}, fmt.Errorf("update: image name must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	var out Image
	err = s.db.Update(ctx, func(tx *metadata.Tx) error {
		current, err := get(tx.Tx, ns, image.Name)
		if err != nil {
			return err
		}
		if out, err = merge(current, image, fieldpaths); err != nil {
			return err
		}
		if err := validate(out); err != nil {
			return err
		}
		out.UpdatedAt = time.Now().UTC()
		held(ns, out, func(n gc.Node) { tx.Touch(n) })
		return metadata.Put(metadata.Bucket(tx.Tx, ns, metadata.Images), out.Name, out)
	})
	if err != nil {
		return Image{}, fmt.Errorf("update: %w", err)
	}
	s.deleted() // the old target may be garbage
	facts.Publish(ctx, s.publisher, facts.ImageUpdated(out.Name, out.Labels))
	return out, nil
}

// merge applies a field mask.
func merge(out, update Image, fieldpaths []string) (Image, error) {
	if len(fieldpaths) == 0 {
		out.Labels, out.Target = update.Labels, update.Target
		return out, nil
	}
	for _, path := range fieldpaths {
		label, isLabel := strings.CutPrefix(path, "labels.")
		annotation, isAnnotation := strings.CutPrefix(path, "annotations.")
		switch {
		case isLabel:
			out.Labels = metadata.MergeKey(out.Labels, update.Labels, label)
		case isAnnotation:
			out.Target.Annotations = metadata.MergeKey(out.Target.Annotations, update.Target.Annotations, annotation)
		case path == "labels":
			out.Labels = maps.Clone(update.Labels)
		case path == "annotations":
			out.Target.Annotations = maps.Clone(update.Target.Annotations)
		case path == "target":
			out.Target = update.Target // annotations are part of it
		default:
			return out, fmt.Errorf("image %q: cannot update %q: %w", update.Name, path, errdefs.ErrInvalidArgument)
		}
	}
	return out, nil
}

// Delete removes the name.
func (s *DB) Delete(ctx context.Context, name string, target *ocispec.Descriptor) error {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	err = s.db.Update(ctx, func(tx *metadata.Tx) error {
		image, err := get(tx.Tx, ns, name)
		if err != nil {
			return err
		}
		if target != nil && target.Digest != image.Target.Digest {
			return fmt.Errorf("image %q points to %s, not to %s: %w", name, image.Target.Digest, target.Digest, errdefs.ErrNotFound)
		}
		return metadata.Bucket(tx.Tx, ns, metadata.Images).Delete([]byte(name))
	})
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	s.deleted()
	facts.Publish(ctx, s.publisher, facts.ImageDeleted(name))
	return nil
}

// held calls emit for each node that the image holds.
func held(ns string, image Image, emit func(gc.Node)) {
	emit(gc.Node{Namespace: ns, Type: gc.TypeContent, Key: image.Target.Digest.String()})
	gc.References(ns, image.Labels, emit)
}

// Part is what the garbage collector sees of the images: they hold, and are not held.
type Part struct{ db *metadata.DB }

// NewPart returns the garbage collector's view of the images in db.
func NewPart(db *metadata.DB) Part { return Part{db} }

// Owns is always false: the collector removes no image.
func (Part) Owns(string) bool { return false }

// Scan visits what the images hold.
func (p Part) Scan(_ context.Context, v gc.Visitor) error {
	return p.db.View(func(tx *bolt.Tx) error {
		return metadata.EachNamespace(tx, func(ns string) error {
			return metadata.Each(metadata.Bucket(tx, ns, metadata.Images), func(_ string, image Image) error {
				held(ns, image, v.Root)
				return nil
			})
		})
	})
}

// References does nothing: Owns.
func (Part) References(context.Context, gc.Node, func(gc.Node)) error { return nil }

// Sweep does nothing: Owns.
func (Part) Sweep(context.Context, []gc.Node) (func(), error) { return nil, nil }
