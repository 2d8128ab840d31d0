package metadata

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"strata/pkg/identifiers"
	"strata/pkg/namespaces"
	"strata/supervisord/internal/events"
	"strata/supervisord/internal/facts"
)

// Namespace is a tenancy scope.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// Namespaces keeps the namespaces. Its methods are safe for concurrent use.
type Namespaces struct {
	db        *DB
	publisher events.Publisher
	outside   []Outsider
}

// Outsider keeps things of namespaces outside of the database.
type Outsider interface {
	// Namespaces calls fn with each namespace of which it holds something, and says
	// what ("snapshots on snapshotter \"overlayfs\"").
	Namespaces(fn func(namespace, what string))
}

// NewNamespaces returns the store of namespaces.
func NewNamespaces(db *DB, publisher events.Publisher, outside ...Outsider) *Namespaces {
	return &Namespaces{db, publisher, outside}
}

// Get returns a namespace, or an error of class ErrNotFound.
func (s *Namespaces) Get(_ context.Context, name string) (Namespace, error) {
	var out Namespace
	err := s.db.View(func(tx *bolt.Tx) (err error) {
		out, err = s.get(tx, name)
		return err
	})
	return out, err
}

func (s *Namespaces) get(tx *bolt.Tx, name string) (Namespace, error) {
	out := Namespace{Name: name, Labels: map[string]string{}}
	b := namespaceBucket(tx, name)
	if b == nil && len(s.heldOutside(name)) == 0 {
		return out, fmt.Errorf("namespace %q: %w", name, errdefs.ErrNotFound)
	}
	if l := Bucket(tx, name, labels); l != nil {
		return out, l.ForEach(func(k, v []byte) error {
			out.Labels[string(k)] = string(v)
			return nil
		})
	}
	return out, nil
}

func (s *Namespaces) heldOutside(name string) (what []string) {
	for _, o := range s.outside {
		o.Namespaces(func(namespace, w string) {
			if namespace == name {
				what = append(what, w)
			}
		})
	}
	return what
}

// List returns all namespaces in the order of their names, those that came into being by
// their first record too.
func (s *Namespaces) List(_ context.Context) ([]Namespace, error) {
	var out []Namespace
	err := s.db.View(func(tx *bolt.Tx) error {
		seen := map[string]bool{}
		add := func(name string) error {
			if seen[name] {
				return nil
			}
			seen[name] = true
			ns, err := s.get(tx, name)
			if errdefs.IsNotFound(err) {
				return nil // what it held outside has gone meanwhile
			}
			out = append(out, ns)
			return err
		}
		err := EachNamespace(tx, add)
		for _, o := range s.outside {
			o.Namespaces(func(name, _ string) {
				if err == nil {
					err = add(name)
				}
			})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	return out, nil
}

// Create makes a namespace. Errors: ErrAlreadyExists, ErrInvalidArgument.
func (s *Namespaces) Create(ctx context.Context, ns Namespace) (Namespace, error) {
	if err := identifiers.Validate(ns.Name); err != nil {
		return ns, fmt.Errorf("create namespace: %w", err)
	}
	if err := ValidateLabels(ns.Labels); err != nil {
		return ns, fmt.Errorf("create namespace %q: %w", ns.Name, err)
	}
	err := s.db.Update(ctx, func(tx *Tx) error {
		if namespaceBucket(tx.Tx, ns.Name) != nil {
			return fmt.Errorf("namespace %q: %w", ns.Name, errdefs.ErrAlreadyExists)
		}
		return putLabels(tx, ns.Name, ns.Labels)
	})
	if err != nil {
		return ns, err
	}
	facts.Publish(namespaces.With(ctx, ns.Name), s.publisher, facts.NamespaceCreated(ns.Name, ns.Labels))
	return ns, nil
}

// Update applies ns.Labels as MergeLabels does. Errors: ErrNotFound, ErrInvalidArgument.
func (s *Namespaces) Update(ctx context.Context, ns Namespace, fieldpaths ...string) (Namespace, error) {
	var out Namespace
	err := s.db.Update(ctx, func(tx *Tx) (err error) {
		if out, err = s.get(tx.Tx, ns.Name); err != nil {
			return err
		}
		if out.Labels, err = MergeLabels(out.Labels, ns.Labels, fieldpaths); err != nil {
			return fmt.Errorf("update namespace %q: %w", ns.Name, err)
		}
		return putLabels(tx, ns.Name, out.Labels)
	})
	if err != nil {
		return out, err
	}
	facts.Publish(namespaces.With(ctx, ns.Name), s.publisher, facts.NamespaceUpdated(ns.Name, out.Labels))
	return out, nil
}

func putLabels(tx *Tx, namespace string, values map[string]string) error {
	if _, err := MakeBucket(tx.Tx, namespace, labels); err != nil {
		return err
	}
	if err := namespaceBucket(tx.Tx, namespace).DeleteBucket([]byte(labels)); err != nil {
		return fmt.Errorf("replace labels of namespace %q: %w", namespace, err)
	}
	b, err := MakeBucket(tx.Tx, namespace, labels)
	if err != nil {
		return err
	}
	for k, v := range values {
		if err := b.Put([]byte(k), []byte(v)); err != nil {
			return fmt.Errorf("label namespace %q: %w", namespace, err)
		}
	}
	return nil
}

// Delete removes an empty namespace. Errors: ErrNotFound, ErrFailedPrecondition if it
// still has something, and what.
func (s *Namespaces) Delete(ctx context.Context, name string) error {
	err := s.db.Update(ctx, func(tx *Tx) error {
		b := namespaceBucket(tx.Tx, name)
		has := s.heldOutside(name)
		if b == nil && len(has) == 0 {
			return fmt.Errorf("namespace %q: %w", name, errdefs.ErrNotFound)
		}
		for _, kind := range recordKinds {
			if rb := Bucket(tx.Tx, name, kind); rb != nil {
				if k, _ := rb.Cursor().First(); k != nil {
					has = append(has, string(kind))
				}
			}
		}
		if len(has) > 0 {
			return fmt.Errorf("namespace %q must be empty, but it still has %s: %w", name, strings.Join(has, ", "), errdefs.ErrFailedPrecondition)
		}
		return tx.Bucket([]byte(version)).DeleteBucket([]byte(name))
	})
	if err != nil {
		return err
	}
	facts.Publish(namespaces.With(ctx, name), s.publisher, facts.NamespaceDeleted(name))
	return nil
}
