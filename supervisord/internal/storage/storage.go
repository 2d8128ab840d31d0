package storage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"strata/pkg/cleanup"
	"strata/supervisord/internal/containers"
	"strata/supervisord/internal/content"
	"strata/supervisord/internal/diff"
	"strata/supervisord/internal/events"
	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/images"
	"strata/supervisord/internal/leases"
	"strata/supervisord/internal/metadata"
	"strata/supervisord/internal/snapshots"
	"strata/supervisord/internal/snapshots/native"
	"strata/supervisord/internal/snapshots/overlay"
)

// Storage holds the stores. Everything is ready after Open; Run does what happens in the
// background.
type Storage struct {
	Namespaces *metadata.Namespaces
	Content    *content.Disk
	Images     *images.DB
	Containers *containers.DB
	Leases     *leases.Store
	// Snapshotters are the snapshotters by name; "overlayfs" is the default one.
	Snapshotters map[string]*snapshots.Store
	Diff         *diff.Applier
	GC           *gc.Collector

	db *metadata.DB
}

// Open opens or creates the stores below root, and cleans up what a crash left. Close
// them. publisher may be nil. The error is of class ErrUnavailable if another process
// uses root.
func Open(ctx context.Context, root string, publisher events.Publisher) (*Storage, error) {
	var undo cleanup.Stack
	defer undo.Clean()
	barrier := &gc.Barrier{}
	db, err := metadata.Open(filepath.Join(root, "meta.db"), barrier)
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	undo.Add(func() { _ = db.Close() })

	s := &Storage{db: db, Snapshotters: map[string]*snapshots.Store{}}
	changed := func() { s.GC.Schedule() }
	if s.Content, err = content.Open(filepath.Join(root, "content"), db, publisher, changed); err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	over, err := overlay.New()
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	parts := []gc.Part{leases.NewPart(db), images.NewPart(db), containers.NewPart(db), s.Content}
	var holders []leases.Holder
	var outsiders []metadata.Outsider
	for _, driver := range []snapshots.Driver{over, native.Driver{}} {
		store, err := snapshots.Open(ctx, snapshots.Config{
			Root: filepath.Join(root, driver.Name()), Driver: driver, Barrier: barrier, Publisher: publisher, Changed: changed,
			LeaseExists: func(ns, leaseID string) (ok bool, err error) {
				err = db.View(func(tx *bolt.Tx) error { ok = leases.Exists(tx, ns, leaseID); return nil })
				return ok, err
			},
		})
		if err != nil {
			return nil, fmt.Errorf("open storage: %w", err)
		}
		s.Snapshotters[driver.Name()] = store
		parts, holders, outsiders = append(parts, store), append(holders, store), append(outsiders, store)
	}
	s.GC = gc.New(barrier, parts...)
	s.Images = images.New(db, publisher, changed)
	s.Containers = containers.New(db, publisher, changed)
	s.Leases = leases.New(db, s.GC, holders...)
	s.Namespaces = metadata.NewNamespaces(db, publisher, outsiders...)
	s.Diff = diff.New(s.Content)
	undo.Release()
	s.GC.Schedule() // what became garbage before the last stop
	return s, nil
}

// Run collects garbage, removes what was discarded and flushes snapshots until ctx is
// done.
func (s *Storage) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.GC.Run(ctx) })
	for _, store := range s.Snapshotters {
		g.Go(func() error { return store.Run(ctx) })
	}
	return g.Wait()
}

// Close flushes and closes the stores. Preconditions: Run has returned.
func (s *Storage) Close(ctx context.Context) error {
	var errs []error
	for _, store := range s.Snapshotters {
		errs = append(errs, store.Close(ctx))
	}
	if err := errors.Join(append(errs, s.db.Close())...); err != nil {
		return fmt.Errorf("close storage: %w", err)
	}
	return nil
}
