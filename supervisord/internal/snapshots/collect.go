package snapshots

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"strata/pkg/namespaces"
	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/leases"
)

func (s *Store) nodeType() string { return gc.TypeSnapshots + s.Driver.Name() }

func (s *Store) node(r *record) gc.Node {
	return gc.Node{Namespace: r.Namespace, Type: s.nodeType(), Key: r.Name}
}

// Owns reports whether nodes of type t are snapshots of this store.
func (s *Store) Owns(t string) bool { return t == s.nodeType() }

// Scan visits all snapshots.
func (s *Store) Scan(_ context.Context, v gc.Visitor) error {
	for _, r := range s.index.all(func(*record) bool { return true }) {
		n := s.node(r)
		v.Candidate(n)
		if _, ok := r.Labels[gc.LabelRoot]; ok {
			v.Root(n)
		}
		if r.Lease != "" {
			v.Back(gc.Node{Namespace: r.Namespace, Type: gc.TypeLeases, Key: r.Lease}, n)
		}
		gc.BackReferences(r.Namespace, r.Labels, func(holder gc.Node) { v.Back(holder, n) })
	}
	return nil
}

// References calls emit for the parent, and what the labels name.
func (s *Store) References(_ context.Context, n gc.Node, emit func(gc.Node)) error {
	r, err := s.index.get(name{n.Namespace, n.Key})
	if err != nil {
		return nil //nolint:nilerr // an unknown node holds nothing
	}
	if r.Parent != "" {
		emit(gc.Node{Namespace: r.Namespace, Type: n.Type, Key: r.Parent, Flat: n.Flat})
	}
	if !n.Flat {
		gc.References(r.Namespace, r.Labels, emit)
	}
	return nil
}

// Sweep removes snapshots, children before their parents. Nobody else changes any: the
// barrier is held.
func (s *Store) Sweep(_ context.Context, nodes []gc.Node) (func(), error) {
	type garbage struct {
		name  name
		depth int
	}
	list := make([]garbage, 0, len(nodes))
	for _, n := range nodes {
		g := garbage{name: name{n.Namespace, n.Key}}
		if r, err := s.index.get(g.name); err == nil {
			ids, _ := s.index.chain(r.Namespace, r.Parent) // unknown: an active one without parent, a leaf
			g.depth = len(ids)
			if ids == nil && r.Parent != "" {
				g.depth = len(nodes)
			}
			list = append(list, g)
		}
	}
	slices.SortFunc(list, func(a, b garbage) int { return b.depth - a.depth })
	var errs []error
	for _, g := range list {
		r, err := s.index.retire(g.name)
		if err == nil {
			if err = s.moveToTrash(r); err != nil {
				s.index.restore(r)
			}
		}
		errs = append(errs, err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	return s.discard, errors.Join(errs...)
}

// HeldBy returns the snapshots that were made under a lease.
func (s *Store) HeldBy(namespace, leaseID string) []leases.Resource {
	var out []leases.Resource
	for _, r := range s.index.all(func(r *record) bool { return r.Namespace == namespace && r.Lease == leaseID }) {
		out = append(out, leases.Resource{ID: r.Name, Type: s.nodeType()})
	}
	return out
}

// Release makes a snapshot forget the lease that it was made under.
func (s *Store) Release(ctx context.Context, namespace, leaseID string, res leases.Resource) error {
	if res.Type != s.nodeType() {
		return nil
	}
	if r, err := s.index.get(name{namespace, res.ID}); err != nil || r.Lease != leaseID {
		return nil //nolint:nilerr // not held
	}
	_, err := s.change(namespaces.With(ctx, namespace), res.ID, func(r *record) error {
		if r.Lease == leaseID {
			r.Lease = ""
		}
		return nil
	})
	return err
}

// Namespaces calls fn with each namespace that has snapshots.
func (s *Store) Namespaces(fn func(namespace, what string)) {
	seen := map[string]bool{}
	for _, r := range s.index.all(func(*record) bool { return true }) {
		if !seen[r.Namespace] {
			seen[r.Namespace] = true
			fn(r.Namespace, fmt.Sprintf("snapshots on %s snapshotter", strconv.Quote(s.Driver.Name())))
		}
	}
}
