package leases

import (
	"context"
	"time"

	bolt "go.etcd.io/bbolt"

	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/metadata"
)

// Part is what the garbage collector sees of the leases: live ones are roots, expired
// ones are garbage.
type Part struct{ db *metadata.DB }

// NewPart returns the garbage collector's view of the leases in db.
func NewPart(db *metadata.DB) Part { return Part{db} }

// Owns reports whether nodes of type t are leases.
func (Part) Owns(t string) bool { return t == gc.TypeLeases }

// Scan visits all leases.
func (p Part) Scan(_ context.Context, v gc.Visitor) error {
	now := time.Now()
	return p.db.View(func(tx *bolt.Tx) error {
		return metadata.EachNamespace(tx, func(ns string) error {
			return metadata.Each(metadata.Bucket(tx, ns, metadata.Leases), func(id string, rec record) error {
				n := gc.Node{Namespace: ns, Type: gc.TypeLeases, Key: id}
				v.Candidate(n)
				_, n.Flat = rec.Labels[gc.LabelFlat]
				at := rec.expires()
				if at.IsZero() || now.Before(at) {
					v.Root(n)
				}
				if !at.IsZero() && now.Before(at) {
					v.Expires(n, at)
				}
				return nil
			})
		})
	})
}

// References calls emit for each resource of the lease.
func (p Part) References(_ context.Context, n gc.Node, emit func(gc.Node)) error {
	return p.db.View(func(tx *bolt.Tx) error {
		rec, _, err := metadata.Get[record](metadata.Bucket(tx, n.Namespace, metadata.Leases), n.Key)
		for key := range rec.Resources {
			r := parseResource(key)
			emit(gc.Node{Namespace: n.Namespace, Type: r.Type, Key: r.ID, Flat: n.Flat})
		}
		gc.References(n.Namespace, rec.Labels, emit)
		return err
	})
}

// Sweep removes expired leases.
func (p Part) Sweep(_ context.Context, nodes []gc.Node) (func(), error) {
	if len(nodes) == 0 {
		return nil, nil
	}
	return nil, p.db.Sweep(func(tx *metadata.Tx) error {
		for _, n := range nodes {
			if b := metadata.Bucket(tx.Tx, n.Namespace, metadata.Leases); b != nil {
				if err := b.Delete([]byte(n.Key)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
