package snapshots

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"strata/pkg/ctxlog"
)

// Errors of the kernel that mean a full disk.
const (
	errNoSpace = unix.ENOSPC
	errQuota   = unix.EDQUOT
)

// loaders bounds how many records are read at once at Open.
const loaders = 16

// Open reads the records below cfg.Root and discards what belongs to none. Run does the
// work in the background; Close ends.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{Config: cfg, index: newIndex(), wake: make(chan struct{}, 1)}
	s.flusher = newFlusher(s)
	var err error
	if s.root, err = filepath.Abs(cfg.Root); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	if err := os.MkdirAll(s.root, 0o711); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	if s.boot, err = bootID(); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	if err := s.load(ctx); err != nil {
		return nil, fmt.Errorf("open snapshots of %s: %w", s.Driver.Name(), err)
	}
	s.discard()
	return s, nil
}

// load fills the index. What is not a whole snapshot becomes trash.
func (s *Store) load(ctx context.Context) error {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return err
	}
	records := make([]*record, len(entries))
	var g errgroup.Group
	g.SetLimit(loaders)
	for i, e := range entries {
		id, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil {
			if n, ok := strings.CutPrefix(e.Name(), trash); ok {
				id, _ = strconv.ParseUint(n, 10, 64)
				s.index.lastID = max(s.index.lastID, id)
			}
			continue
		}
		s.index.lastID = max(s.index.lastID, id)
		g.Go(func() error {
			r, err := s.read(id)
			if err != nil {
				ctxlog.From(ctx).Warn("incomplete snapshot discarded", ctxlog.Path, s.dir(id), ctxlog.Error, err)
				return s.moveToTrash(&record{ID: id})
			}
			records[i] = r
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, r := range records {
		if r == nil {
			continue
		}
		if err := s.admit(ctx, r); err != nil {
			return err
		}
	}
	return s.dropOrphans(ctx)
}

// admit takes a record into the index unless it cannot be believed.
func (s *Store) admit(ctx context.Context, r *record) error {
	if r.Kind == KindCommitted && r.Boot != "" {
		if r.Boot != s.boot {
			ctxlog.From(ctx).Warn("snapshot discarded: the machine went down before it was durable", ctxlog.Snapshot, r.Name, ctxlog.Namespace, r.Namespace)
			return s.moveToTrash(r)
		}
		s.flusher.note(r.ID, true)
	}
	n := name{r.Namespace, r.Name}
	if other, ok := s.index.records[n]; ok { // a removal that power loss undid
		older := r
		if other.ID < r.ID {
			older, s.index.records[n] = other, r
		}
		return s.moveToTrash(older)
	}
	s.index.records[n] = r
	return nil
}

// dropOrphans discards committed snapshots without their parents, and counts children.
// An active snapshot or a view may wait for its parent to be unpacked again.
func (s *Store) dropOrphans(ctx context.Context) error {
	for again := true; again; {
		again = false
		for n, r := range s.index.records {
			_, ok := s.index.records[name{r.Namespace, r.Parent}]
			if ok || r.Parent == "" || r.Kind != KindCommitted {
				continue
			}
			ctxlog.From(ctx).Warn("snapshot discarded: its parent is gone", ctxlog.Snapshot, r.Name, ctxlog.Namespace, r.Namespace)
			delete(s.index.records, n)
			if err := s.moveToTrash(r); err != nil {
				return err
			}
			again = true
		}
	}
	for _, r := range s.index.records {
		if r.Parent != "" {
			s.index.children[name{r.Namespace, r.Parent}]++
		}
	}
	return nil
}

// Run removes trash and makes snapshots durable until ctx is done.
func (s *Store) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.flusher.run(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-s.wake:
			}
			if err := s.Cleanup(ctx); err != nil && ctx.Err() == nil {
				ctxlog.From(ctx).Warn("removed snapshots are still on disk", ctxlog.Error, err)
			}
		}
	})
	return g.Wait()
}

// Close makes durable what is not yet. Preconditions: Run has returned.
func (s *Store) Close(ctx context.Context) error { return s.flusher.flush(ctx) }

// moveToTrash takes a directory out of sight; discard has it removed.
func (s *Store) moveToTrash(r *record) error {
	err := os.Rename(s.dir(r.ID), filepath.Join(s.root, trash+strconv.FormatUint(r.ID, 10)))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove snapshot %q: %w", r.Name, err)
	}
	return nil
}

// discard asks for the trash to be removed.
func (s *Store) discard() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Cleanup removes files that belong to no snapshot.
func (s *Store) Cleanup(ctx context.Context) error {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return fmt.Errorf("clean up snapshots: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("clean up snapshots: %w", err)
		}
		if strings.HasPrefix(e.Name(), trash) {
			errs = append(errs, os.RemoveAll(filepath.Join(s.root, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up snapshots: %w", err)
	}
	return nil
}
