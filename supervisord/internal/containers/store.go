package containers

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/identifiers"
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

// New returns the store of containers. It calls deleted after a record has let go of
// its snapshot.
func New(db *metadata.DB, publisher events.Publisher, deleted func()) *DB {
	return &DB{db, publisher, deleted}
}

// Get returns a container.
func (s *DB) Get(ctx context.Context, containerID string) (Container, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return Container{}, err
	}
	var c Container
	err = s.db.View(func(tx *bolt.Tx) (err error) {
		c, err = get(tx, ns, containerID)
		return err
	})
	return c, err
}

func get(tx *bolt.Tx, ns, containerID string) (Container, error) {
	c, ok, err := metadata.Get[Container](metadata.Bucket(tx, ns, metadata.Containers), containerID)
	if err == nil && !ok {
		err = fmt.Errorf("container %q: %w", containerID, errdefs.ErrNotFound)
	}
	return c, err
}

// List returns the containers that match one of the filters, in the order of their ids.
// Fields: id, image, labels, runtime.name, snapshotter, snapshotkey, sandboxid.
func (s *DB) List(ctx context.Context, filter ...string) ([]Container, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return nil, err
	}
	f, err := filters.ParseAll(filter...)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var out []Container
	err = s.db.View(func(tx *bolt.Tx) error {
		return metadata.Each(metadata.Bucket(tx, ns, metadata.Containers), func(_ string, c Container) error {
			if f.Match(fields(c)) {
				out = append(out, c)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	return out, nil
}

func fields(c Container) filters.AdapterFunc {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "id":
			return c.ID, c.ID != ""
		case "image":
			return c.Image, c.Image != ""
		case "runtime":
			return c.RuntimeName, len(path) == 2 && path[1] == "name" && c.RuntimeName != ""
		case "snapshotter":
			return c.Snapshotter, c.Snapshotter != ""
		case "snapshotkey":
			return c.SnapshotKey, c.SnapshotKey != ""
		case "sandboxid":
			return c.SandboxID, c.SandboxID != ""
		case "labels":
			return filters.Labels(c.Labels, path[1:])
		}
		return "", false
	}
}

func validate(c Container) error {
	if err := identifiers.Validate(c.ID); err != nil {
		return fmt.Errorf("container id: %w", err)
	}
	for name := range c.Extensions {
		if name == "" {
			return fmt.Errorf("container %q: extension without a name: %w", c.ID, errdefs.ErrInvalidArgument)
		}
	}
	switch {
	case c.RuntimeName == "":
		return fmt.Errorf("container %q: runtime must be set: %w", c.ID, errdefs.ErrInvalidArgument)
	case c.Spec == nil:
		return fmt.Errorf("container %q: spec must be set: %w", c.ID, errdefs.ErrInvalidArgument)
	case c.SnapshotKey != "" && c.Snapshotter == "":
		return fmt.Errorf("container %q: snapshot key without a snapshotter: %w", c.ID, errdefs.ErrInvalidArgument)
	}
	if err := metadata.ValidateLabels(c.Labels); err != nil {
		return fmt.Errorf("container %q: %w", c.ID, err)
	}
	return nil
}

// Create makes a record.
func (s *DB) Create(ctx context.Context, c Container) (Container, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return Container{}, err
	}
	if err := validate(c); err != nil {
		return Container{}, fmt.Errorf("create: %w", err)
	}
	c.CreatedAt = time.Now().UTC()
	c.UpdatedAt = c.CreatedAt
	err = s.db.Update(ctx, func(tx *metadata.Tx) error {
		b, err := metadata.MakeBucket(tx.Tx, ns, metadata.Containers)
		if err != nil {
			return err
		}
		if b.Get([]byte(c.ID)) != nil {
			return fmt.Errorf("container %q: %w", c.ID, errdefs.ErrAlreadyExists)
		}
		held(ns, c, func(n gc.Node) { tx.Touch(n) })
		return metadata.Put(b, c.ID, c)
	})
	if err != nil {
		return Container{}, fmt.Errorf("create: %w", err)
	}
	facts.Publish(ctx, s.publisher, facts.ContainerCreated(c.ID, c.Image, c.RuntimeName, c.RuntimeOptions))
	return c, nil
}

// Update replaces labels, spec, extensions, image and snapshot key, or only what
// fieldpaths name.
func (s *DB) Update(ctx context.Context, c Container, fieldpaths ...string) (Container, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return Container{}, err
	}
	if c.ID == "" {
		return Container{}, fmt.Errorf("update: container id must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	var out Container
	err = s.db.Update(ctx, func(tx *metadata.Tx) error {
		current, err := get(tx.Tx, ns, c.ID)
		if err != nil {
			return err
		}
		if out, err = merge(current, c, fieldpaths); err != nil {
			return err
		}
		if err := validate(out); err != nil {
			return err
		}
		out.UpdatedAt = time.Now().UTC()
		held(ns, out, func(n gc.Node) { tx.Touch(n) })
		return metadata.Put(metadata.Bucket(tx.Tx, ns, metadata.Containers), out.ID, out)
	})
	if err != nil {
		return Container{}, fmt.Errorf("update: %w", err)
	}
	if out.SnapshotKey != c.SnapshotKey {
		s.deleted()
	}
	facts.Publish(ctx, s.publisher, facts.ContainerUpdated(out.ID, out.Image, out.SnapshotKey, out.Labels))
	return out, nil
}

// merge applies a field mask.
func merge(out, update Container, fieldpaths []string) (Container, error) {
	if len(fieldpaths) == 0 {
		if out.Snapshotter != update.Snapshotter {
			return out, fmt.Errorf("container %q: snapshotter is immutable: %w", out.ID, errdefs.ErrInvalidArgument)
		}
		if out.RuntimeName != update.RuntimeName {
			return out, fmt.Errorf("container %q: runtime name is immutable: %w", out.ID, errdefs.ErrInvalidArgument)
		}
		fieldpaths = []string{"labels", "spec", "extensions", "image", "snapshotkey"}
	}
	for _, path := range fieldpaths {
		label, isLabel := strings.CutPrefix(path, "labels.")
		extension, isExtension := strings.CutPrefix(path, "extensions.")
		switch {
		case isLabel:
			out.Labels = metadata.MergeKey(out.Labels, update.Labels, label)
		case isExtension:
			out.Extensions = mergeExtension(out.Extensions, update.Extensions, extension)
		case path == "labels":
			out.Labels = maps.Clone(update.Labels)
		case path == "spec":
			out.Spec = update.Spec
		case path == "extensions":
			out.Extensions = maps.Clone(update.Extensions)
		case path == "image":
			out.Image = update.Image
		case path == "snapshotkey":
			out.SnapshotKey = update.SnapshotKey
		default:
			return out, fmt.Errorf("container %q: cannot update %q: %w", out.ID, path, errdefs.ErrInvalidArgument)
		}
	}
	return out, nil
}

func mergeExtension(current, update map[string]*anypb.Any, key string) map[string]*anypb.Any {
	out := maps.Clone(current)
	v := update[key]
	if v == nil || proto.Size(v) == 0 {
		delete(out, key)
		return out
	}
	if out == nil {
		out = map[string]*anypb.Any{}
	}
	out[key] = v
	return out
}

// Delete removes the record.
func (s *DB) Delete(ctx context.Context, containerID string) error {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	err = s.db.Update(ctx, func(tx *metadata.Tx) error {
		if _, err := get(tx.Tx, ns, containerID); err != nil {
			return err
		}
		return metadata.Bucket(tx.Tx, ns, metadata.Containers).Delete([]byte(containerID))
	})
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	s.deleted()
	facts.Publish(ctx, s.publisher, facts.ContainerDeleted(containerID))
	return nil
}

// held calls emit for each node that the container holds.
func held(ns string, c Container, emit func(gc.Node)) {
	if c.SnapshotKey != "" && c.Snapshotter != "" {
		emit(gc.Node{Namespace: ns, Type: gc.TypeSnapshots + c.Snapshotter, Key: c.SnapshotKey})
	}
	gc.References(ns, c.Labels, emit)
}

// Part is what the garbage collector sees of the containers: they hold, and are not
// held.
type Part struct{ db *metadata.DB }

// NewPart returns the garbage collector's view of the containers in db.
func NewPart(db *metadata.DB) Part { return Part{db} }

// Owns is always false: the collector removes no container.
func (Part) Owns(string) bool { return false }

// Scan visits what the containers hold.
func (p Part) Scan(_ context.Context, v gc.Visitor) error {
	return p.db.View(func(tx *bolt.Tx) error {
		return metadata.EachNamespace(tx, func(ns string) error {
			return metadata.Each(metadata.Bucket(tx, ns, metadata.Containers), func(_ string, c Container) error {
				held(ns, c, v.Root)
				return nil
			})
		})
	})
}

// References does nothing: Owns.
func (Part) References(context.Context, gc.Node, func(gc.Node)) error { return nil }

// Sweep does nothing: Owns.
func (Part) Sweep(context.Context, []gc.Node) (func(), error) { return nil, nil }
