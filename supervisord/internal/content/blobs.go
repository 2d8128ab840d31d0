package content

import (
	"context"
	_ "crypto/sha512" // digests sha384 and sha512
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"strata/pkg/namespaces"
	"strata/supervisord/internal/events"
	"strata/supervisord/internal/facts"
	"strata/supervisord/internal/filters"
	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/leases"
	"strata/supervisord/internal/metadata"
)

// record is a blob in the database.
type record struct {
	Size      int64             `json:"size"`
	CreatedAt time.Time         `json:"created"`
	UpdatedAt time.Time         `json:"updated"`
	Labels    map[string]string `json:"labels,omitempty"`
}

func (r record) info(dgst digest.Digest) Info {
	return Info{Digest: dgst, Size: r.Size, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, Labels: r.Labels}
}

// Disk is the Store on disk.
type Disk struct {
	root      string
	db        *metadata.DB
	publisher events.Publisher
	deleted   func()

	mu      sync.Mutex
	writers map[string]struct{}        // ingest directories that somebody writes
	hidden  map[digest.Digest]struct{} // blobs that Delete hid since the last sweep
}

var (
	_ Store   = (*Disk)(nil)
	_ gc.Part = (*Disk)(nil)
)

// Open opens or creates the store below root and removes what a crash left. The store
// calls deleted after something may have become garbage.
func Open(root string, db *metadata.DB, publisher events.Publisher, deleted func()) (*Disk, error) {
	// What was being made when the process died is nothing yet.
	if err := os.RemoveAll(filepath.Join(root, "new")); err != nil {
		return nil, fmt.Errorf("open content store: %w", err)
	}
	for _, dir := range []string{"blobs/sha256", "ingest", "new", "trash"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o711); err != nil {
			return nil, fmt.Errorf("open content store: %w", err)
		}
	}
	s := &Disk{
		root: root, db: db, publisher: publisher, deleted: deleted,
		writers: map[string]struct{}{}, hidden: map[digest.Digest]struct{}{},
	}
	if err := errors.Join(s.trashOrphans(), s.emptyTrash()); err != nil {
		return nil, fmt.Errorf("open content store: %w", err)
	}
	return s, nil
}

func (s *Disk) blob(dgst digest.Digest) string {
	return filepath.Join(s.root, "blobs", dgst.Algorithm().String(), dgst.Encoded())
}

// check refuses what is no digest: it would become a path.
func check(dgst digest.Digest) error {
	if err := dgst.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", dgst, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Info returns what is known of a blob.
func (s *Disk) Info(ctx context.Context, dgst digest.Digest) (Info, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return Info{}, err
	}
	if err := check(dgst); err != nil {
		return Info{}, err
	}
	var info Info
	err = s.db.View(func(tx *bolt.Tx) error {
		r, err := get(tx, ns, dgst)
		info = r.info(dgst)
		return err
	})
	return info, err
}

func get(tx *bolt.Tx, ns string, dgst digest.Digest) (record, error) {
	r, ok, err := metadata.Get[record](metadata.Bucket(tx, ns, metadata.Content), dgst.String())
	if err == nil && !ok {
		err = fmt.Errorf("content %s: %w", dgst, errdefs.ErrNotFound)
	}
	return r, err
}

// Walk calls fn for each blob that matches one of the filters, in the order of their
// digests. Fields: digest, labels.
func (s *Disk) Walk(ctx context.Context, fn func(Info) error, filter ...string) error {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	f, err := filters.ParseAll(filter...)
	if err != nil {
		return fmt.Errorf("list content: %w", err)
	}
	var infos []Info
	err = s.db.View(func(tx *bolt.Tx) error {
		return metadata.Each(metadata.Bucket(tx, ns, metadata.Content), func(key string, r record) error {
			if info := r.info(digest.Digest(key)); f.Match(fields(info)) {
				infos = append(infos, info)
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("list content: %w", err)
	}
	for _, info := range infos { // outside of the transaction: fn may take its time
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

func fields(info Info) filters.AdapterFunc {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "digest":
			return info.Digest.String(), true
		case "labels":
			return filters.Labels(info.Labels, path[1:])
		}
		return "", false
	}
}

// UpdateLabels applies info.Labels.
func (s *Disk) UpdateLabels(ctx context.Context, info Info, fieldpaths ...string) (Info, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return Info{}, err
	}
	if err := check(info.Digest); err != nil {
		return Info{}, err
	}
	var out Info
	err = s.db.Update(ctx, func(tx *metadata.Tx) error {
		r, err := get(tx.Tx, ns, info.Digest)
		if err != nil {
			return err
		}
		if r.Labels, err = metadata.MergeLabels(r.Labels, info.Labels, fieldpaths); err != nil {
			return fmt.Errorf("content %s: %w", info.Digest, err)
		}
		r.UpdatedAt = time.Now().UTC()
		out = r.info(info.Digest)
		tx.Touch(gc.Node{Namespace: ns, Type: gc.TypeContent, Key: info.Digest.String()})
		return metadata.Put(metadata.Bucket(tx.Tx, ns, metadata.Content), info.Digest.String(), r)
	})
	if err != nil {
		return Info{}, fmt.Errorf("update: %w", err)
	}
	return out, nil
}

// Delete hides a blob from the namespace.
func (s *Disk) Delete(ctx context.Context, dgst digest.Digest) error {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	if err := check(dgst); err != nil {
		return err
	}
	err = s.db.Update(ctx, func(tx *metadata.Tx) error {
		if _, err := get(tx.Tx, ns, dgst); err != nil {
			return err
		}
		return metadata.Bucket(tx.Tx, ns, metadata.Content).Delete([]byte(dgst))
	})
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	s.mu.Lock()
	s.hidden[dgst] = struct{}{}
	s.mu.Unlock()
	s.deleted()
	facts.Publish(ctx, s.publisher, facts.ContentDeleted(dgst.String()))
	return nil
}

// reader is an open blob.
type reader struct {
	*os.File
	size int64
}

func (r reader) Size() int64 { return r.size }

// OpenReader opens a blob.
func (s *Disk) OpenReader(ctx context.Context, dgst digest.Digest) (ReaderAt, error) {
	if _, err := s.Info(ctx, dgst); err != nil {
		return nil, err
	}
	f, err := os.Open(s.blob(dgst))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("content %s: its file is missing: %w", dgst, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open content %s: %w", dgst, err)
	}
	fi, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open content %s: %w", dgst, err)
	}
	return reader{f, fi.Size()}, nil
}

// link makes a blob that exists on disk visible in the namespace of ctx and holds it
// with the lease of ctx. place, if not nil, brings the blob to its place before.
// AlreadyExists: it was visible; the lease holds it then too.
func (s *Disk) link(ctx context.Context, dgst digest.Digest, l linkArgs) error {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	lease, leased := namespaces.Lease(ctx)
	exists := false
	now := time.Now().UTC()
	err = s.db.Update(ctx, func(tx *metadata.Tx) error {
		b, err := metadata.MakeBucket(tx.Tx, ns, metadata.Content)
		if err != nil {
			return err
		}
		if leased {
			if err := leases.Drop(tx, ns, lease, leases.Resource{ID: l.ref, Type: gc.TypeIngests}); err != nil {
				return err
			}
			if err := leases.Add(tx, ns, lease, leases.Resource{ID: dgst.String(), Type: gc.TypeContent}); err != nil {
				return err
			}
		}
		tx.Touch(gc.Node{Namespace: ns, Type: gc.TypeContent, Key: dgst.String()})
		if exists = b.Get([]byte(dgst)) != nil; exists {
			return nil
		}
		return metadata.Put(b, dgst.String(), record{Size: l.size, CreatedAt: now, UpdatedAt: now, Labels: maps.Clone(l.labels)})
	}, l.place)
	if err != nil {
		return err
	}
	if exists {
		return fmt.Errorf("content %s: %w", dgst, errdefs.ErrAlreadyExists)
	}
	facts.Publish(ctx, s.publisher, facts.ContentCreated(dgst.String(), l.size))
	return nil
}

type linkArgs struct {
	ref    string // of the ingest that is done
	size   int64
	labels map[string]string
	place  func() error
}

// share links the blob if another namespace has it. It returns class ErrAlreadyExists
// if the blob is in the namespace of ctx now, and nil if it must be written.
func (s *Disk) share(ctx context.Context, ref string, dgst digest.Digest) error {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	var size int64 = -1
	err = s.db.View(func(tx *bolt.Tx) error {
		r, err := get(tx, ns, dgst)
		if err == nil {
			size = r.Size
			return nil
		}
		return metadata.EachNamespace(tx, func(other string) error {
			if r, err := get(tx, other, dgst); err == nil && size < 0 {
				size = r.Size
			}
			return nil
		})
	})
	if err != nil || size < 0 {
		return err
	}
	gone := errors.New("collected meanwhile")
	err = s.link(ctx, dgst, linkArgs{ref: ref, size: size, place: func() error {
		if _, err := os.Stat(s.blob(dgst)); err != nil {
			return gone
		}
		return nil
	}})
	switch {
	case errors.Is(err, gone):
		return nil
	case err == nil:
		return fmt.Errorf("content %s: %w", dgst, errdefs.ErrAlreadyExists)
	}
	return err
}
