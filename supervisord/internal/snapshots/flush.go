package snapshots

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"strata/pkg/ctxlog"
	"strata/pkg/linux/tree"
)

// flushDelay is how long a change may stay in the page cache only. It gathers the
// changes of a pull or of many container starts into one flush.
const flushDelay = time.Second

// flusher makes snapshots durable behind the back of those who made them.
type flusher struct {
	s    *Store
	wake chan struct{} // buffered 1: something was noted

	mu    sync.Mutex
	dirty map[uint64]bool // id → its files too, not only the record
}

func newFlusher(s *Store) *flusher {
	return &flusher{s: s, wake: make(chan struct{}, 1), dirty: map[uint64]bool{}}
}

// note says that a snapshot changed. It never blocks.
func (f *flusher) note(id uint64, files bool) {
	f.mu.Lock()
	f.dirty[id] = f.dirty[id] || files
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *flusher) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(flushDelay):
		}
		if err := f.flush(ctx); err != nil {
			ctxlog.From(ctx).Error("snapshots are not durable", ctxlog.Error, err)
		}
	}
}

// flush makes durable what was noted. If it fails, the notes are kept.
func (f *flusher) flush(ctx context.Context) (err error) {
	f.mu.Lock()
	dirty := f.dirty
	f.dirty = map[uint64]bool{}
	f.mu.Unlock()
	defer func() {
		if err != nil {
			f.mu.Lock()
			defer f.mu.Unlock()
			maps.Copy(f.dirty, dirty)
		}
	}()
	files := map[uint64]bool{}
	for id, with := range dirty {
		if with {
			files[id] = true
		}
	}
	if len(files) > 0 {
		// Once for all layers of a pull: files first, then the records that say so.
		if err := tree.SyncFilesystem(f.s.root); err != nil {
			return fmt.Errorf("flush snapshots: %w", err)
		}
		if err := f.believe(ctx, files); err != nil {
			return err
		}
	}
	for id := range dirty {
		for _, path := range []string{filepath.Join(f.s.dir(id), recordName), f.s.dir(id)} {
			if err := tree.SyncFile(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("flush snapshots: %w", err)
			}
		}
	}
	if len(dirty) == 0 {
		return nil
	}
	if err := tree.SyncFile(f.s.root); err != nil {
		return fmt.Errorf("flush snapshots: %w", err)
	}
	return nil
}

// believe takes the boot id out of records whose files are durable.
func (f *flusher) believe(ctx context.Context, ids map[uint64]bool) error {
	for _, r := range f.s.index.all(func(r *record) bool { return ids[r.ID] && r.Boot != "" }) {
		n := name{r.Namespace, r.Name}
		release, err := f.s.index.acquire(ctx, n)
		if err != nil {
			return err
		}
		err = func() error {
			defer release()
			current, err := f.s.index.get(n)
			if err != nil || current.ID != r.ID {
				return nil // removed meanwhile
			}
			c := *current
			c.Boot = ""
			if err := f.s.write(&c); err != nil {
				return err
			}
			f.s.index.put(&c)
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return nil
}
