package leases

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"strata/pkg/namespaces"
	"strata/supervisord/internal/filters"
	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/metadata"
)

// record is a lease in the database. Resources maps type and id, as resourceKey joins
// them, to nothing.
type record struct {
	CreatedAt time.Time           `json:"created"`
	Labels    map[string]string   `json:"labels,omitempty"`
	Resources map[string]struct{} `json:"resources,omitempty"`
}

func resourceKey(r Resource) string { return r.Type + "\x00" + r.ID }

func parseResource(key string) Resource {
	typ, id, _ := strings.Cut(key, "\x00")
	return Resource{ID: id, Type: typ}
}

// expires returns when the lease ends; zero: never.
func (r record) expires() time.Time {
	at, err := time.Parse(time.RFC3339, r.Labels[gc.LabelExpire])
	if err != nil {
		return time.Time{}
	}
	return at
}

// Holder is a store whose things remember themselves which lease they were made under.
// *snapshots.Store is one.
type Holder interface {
	// HeldBy returns what the lease holds.
	HeldBy(namespace, leaseID string) []Resource
	// Release forgets that the lease holds r. It does nothing if it does not.
	Release(ctx context.Context, namespace, leaseID string, r Resource) error
}

// Collector runs garbage collections.
type Collector interface {
	Schedule()
	Collect(ctx context.Context) (gc.Stats, error)
}

// Store is the Manager on the database.
type Store struct {
	db      *metadata.DB
	gc      Collector
	holders []Holder
}

var (
	_ Manager = (*Store)(nil)
	_ gc.Part = Part{}
)

// New returns the store of leases. A synchronous Delete runs collector.
func New(db *metadata.DB, collector Collector, holders ...Holder) *Store {
	return &Store{db, collector, holders}
}

// Create makes a lease; an empty id gets a random one.
func (s *Store) Create(ctx context.Context, leaseID string, labels map[string]string) (Lease, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return Lease{}, err
	}
	if leaseID == "" {
		leaseID = random()
	}
	if err := validate(leaseID, labels); err != nil {
		return Lease{}, err
	}
	rec := record{CreatedAt: time.Now().UTC(), Labels: maps.Clone(labels)}
	err = s.db.Update(ctx, func(tx *metadata.Tx) error {
		b, err := metadata.MakeBucket(tx.Tx, ns, metadata.Leases)
		if err != nil {
			return err
		}
		if b.Get([]byte(leaseID)) != nil {
			return fmt.Errorf("lease %q: %w", leaseID, errdefs.ErrAlreadyExists)
		}
		tx.Touch(gc.Node{Namespace: ns, Type: gc.TypeLeases, Key: leaseID})
		return metadata.Put(b, leaseID, rec)
	})
	if err != nil {
		return Lease{}, fmt.Errorf("create lease: %w", err)
	}
	if !rec.expires().IsZero() {
		s.gc.Schedule() // it learns of the expiry
	}
	return Lease{ID: leaseID, CreatedAt: rec.CreatedAt, Labels: rec.Labels}, nil
}

func random() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand.Read, Go 1.24
	return hex.EncodeToString(b[:])
}

func validate(leaseID string, labels map[string]string) error {
	if strings.ContainsRune(leaseID, 0) || len(leaseID) > bolt.MaxKeySize/2 {
		return fmt.Errorf("lease id %.64q: %w", leaseID, errdefs.ErrInvalidArgument)
	}
	if err := metadata.ValidateLabels(labels); err != nil {
		return fmt.Errorf("lease %q: %w", leaseID, err)
	}
	if v, ok := labels[gc.LabelExpire]; ok {
		if _, err := time.Parse(time.RFC3339, v); err != nil {
			return fmt.Errorf("lease %q: label %s: %w: %w", leaseID, gc.LabelExpire, err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Delete ends a lease; with synchronous it waits for a garbage collection.
func (s *Store) Delete(ctx context.Context, leaseID string, synchronous bool) error {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	err = s.change(ctx, ns, leaseID, func(b *bolt.Bucket, _ *record) error { return b.Delete([]byte(leaseID)) })
	if err != nil {
		return fmt.Errorf("delete lease: %w", err)
	}
	if !synchronous {
		s.gc.Schedule()
		return nil
	}
	if _, err := s.gc.Collect(ctx); err != nil {
		return fmt.Errorf("delete lease %q: %w", leaseID, err)
	}
	return nil
}

// change runs fn on a lease that must exist.
func (s *Store) change(ctx context.Context, ns, leaseID string, fn func(b *bolt.Bucket, rec *record) error) error {
	return s.db.Update(ctx, func(tx *metadata.Tx) error { return changeInTx(tx, ns, leaseID, fn) })
}

func changeInTx(tx *metadata.Tx, ns, leaseID string, fn func(b *bolt.Bucket, rec *record) error) error {
	b := metadata.Bucket(tx.Tx, ns, metadata.Leases)
	rec, ok, err := metadata.Get[record](b, leaseID)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("lease %q: %w", leaseID, errdefs.ErrNotFound)
	}
	return fn(b, &rec)
}

// List returns the leases that match one of the filters. Fields: id, labels.
func (s *Store) List(ctx context.Context, filter ...string) ([]Lease, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return nil, err
	}
	f, err := filters.ParseAll(filter...)
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	var out []Lease
	err = s.db.View(func(tx *bolt.Tx) error {
		return metadata.Each(metadata.Bucket(tx, ns, metadata.Leases), func(id string, rec record) error {
			l := Lease{ID: id, CreatedAt: rec.CreatedAt, Labels: rec.Labels}
			if f.Match(fields(l)) {
				out = append(out, l)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	return out, nil
}

func fields(l Lease) filters.AdapterFunc {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "id":
			return l.ID, len(path) == 1
		case "labels":
			return filters.Labels(l.Labels, path[1:])
		}
		return "", false
	}
}

// AddResource makes the lease hold r, which need not exist yet.
func (s *Store) AddResource(ctx context.Context, leaseID string, r Resource) error {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	if err := checkResource(r); err != nil {
		return fmt.Errorf("add to lease %q: %w", leaseID, err)
	}
	return s.db.Update(ctx, func(tx *metadata.Tx) error { return Add(tx, ns, leaseID, r) })
}

// Add makes a lease hold r within a change. The error is of class ErrNotFound without
// the lease.
func Add(tx *metadata.Tx, ns, leaseID string, r Resource) error {
	return changeInTx(tx, ns, leaseID, func(b *bolt.Bucket, rec *record) error {
		tx.Touch(gc.Node{Namespace: ns, Type: r.Type, Key: r.ID})
		if _, ok := rec.Resources[resourceKey(r)]; ok {
			return nil
		}
		if rec.Resources == nil {
			rec.Resources = map[string]struct{}{}
		}
		rec.Resources[resourceKey(r)] = struct{}{}
		return metadata.Put(b, leaseID, *rec)
	})
}

// Drop makes a lease let go of r within a change. It is not an error if there is no
// such lease, or it does not hold r.
func Drop(tx *metadata.Tx, ns, leaseID string, r Resource) error {
	err := changeInTx(tx, ns, leaseID, func(b *bolt.Bucket, rec *record) error {
		if _, ok := rec.Resources[resourceKey(r)]; !ok {
			return nil
		}
		delete(rec.Resources, resourceKey(r))
		return metadata.Put(b, leaseID, *rec)
	})
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	return err
}

// Exists reports whether namespace ns has the lease.
func Exists(tx *bolt.Tx, ns, leaseID string) bool {
	b := metadata.Bucket(tx, ns, metadata.Leases)
	return b != nil && b.Get([]byte(leaseID)) != nil
}

func checkResource(r Resource) error {
	name, isSnapshot := strings.CutPrefix(r.Type, gc.TypeSnapshots)
	switch {
	case r.ID == "" || strings.ContainsRune(r.ID, 0):
		return fmt.Errorf("resource id %q: %w", r.ID, errdefs.ErrInvalidArgument)
	case r.Type == gc.TypeContent:
		if err := digest.Digest(r.ID).Validate(); err != nil {
			return fmt.Errorf("content %q: %w: %w", r.ID, err, errdefs.ErrInvalidArgument)
		}
	case r.Type == gc.TypeIngests, isSnapshot && name != "":
	default:
		return fmt.Errorf("resources of type %q: %w", r.Type, errdefs.ErrNotImplemented)
	}
	return nil
}

// DeleteResource makes the lease let go of r.
func (s *Store) DeleteResource(ctx context.Context, leaseID string, r Resource) error {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	if err := checkResource(r); err != nil {
		return fmt.Errorf("delete from lease %q: %w", leaseID, err)
	}
	err = s.change(ctx, ns, leaseID, func(b *bolt.Bucket, rec *record) error {
		delete(rec.Resources, resourceKey(r))
		return metadata.Put(b, leaseID, *rec)
	})
	if err != nil {
		return fmt.Errorf("delete from lease: %w", err)
	}
	for _, h := range s.holders {
		if err := h.Release(ctx, ns, leaseID, r); err != nil {
			return fmt.Errorf("delete from lease %q: %w", leaseID, err)
		}
	}
	s.gc.Schedule()
	return nil
}

// ListResources returns what the lease holds.
func (s *Store) ListResources(ctx context.Context, leaseID string) ([]Resource, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return nil, err
	}
	set := map[Resource]struct{}{}
	err = s.db.View(func(tx *bolt.Tx) error {
		rec, ok, err := metadata.Get[record](metadata.Bucket(tx, ns, metadata.Leases), leaseID)
		if err == nil && !ok {
			err = fmt.Errorf("lease %q: %w", leaseID, errdefs.ErrNotFound)
		}
		for key := range rec.Resources {
			set[parseResource(key)] = struct{}{}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list resources: %w", err)
	}
	for _, h := range s.holders {
		for _, r := range h.HeldBy(ns, leaseID) {
			set[r] = struct{}{}
		}
	}
	return slices.SortedFunc(maps.Keys(set), func(a, b Resource) int { return strings.Compare(resourceKey(a), resourceKey(b)) }), nil
}
