package snapshots

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
)

// name is a key within a namespace.
type name struct{ namespace, key string }

// index is what the store knows of its snapshots.
type index struct {
	mu       sync.RWMutex
	records  map[name]*record
	children map[name]int // of committed snapshots, those being made included
	busy     map[name]chan struct{}
	lastID   uint64
}

func newIndex() *index {
	return &index{records: map[name]*record{}, children: map[name]int{}, busy: map[name]chan struct{}{}}
}

// get returns a record, or an error of class ErrNotFound.
func (x *index) get(n name) (*record, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.getLocked(n)
}

func (x *index) getLocked(n name) (*record, error) {
	r, ok := x.records[n]
	if !ok {
		return nil, fmt.Errorf("snapshot %q: %w", n.key, errdefs.ErrNotFound)
	}
	return r, nil
}

// chain returns the ids of a snapshot's ancestors, nearest first.
func (x *index) chain(namespace, parent string) ([]uint64, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var ids []uint64
	for parent != "" {
		r, err := x.getLocked(name{namespace, parent})
		if err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
		ids = append(ids, r.ID)
		if len(ids) > len(x.records) {
			return nil, fmt.Errorf("parents of snapshot %q form a ring: %w", parent, errdefs.ErrDataLoss)
		}
		parent = r.Parent
	}
	return ids, nil
}

// acquire makes the caller the only one that changes the named snapshots, existing or
// not. It waits for those who do, so that nobody acts on what is half made.
func (x *index) acquire(ctx context.Context, names ...name) (release func(), err error) {
	done := make(chan struct{}) // closed by release
	for {
		x.mu.Lock()
		i := slices.IndexFunc(names, func(n name) bool { return x.busy[n] != nil })
		if i < 0 {
			break // with mu
		}
		wait := x.busy[names[i]]
		x.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for snapshot %q: %w", names[i].key, ctx.Err())
		}
	}
	defer x.mu.Unlock()
	for _, n := range names {
		x.busy[n] = done
	}
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		for _, n := range names {
			delete(x.busy, n)
		}
		close(done)
	}, nil
}

// all returns the records for which keep answers true, in the order of their names.
func (x *index) all(keep func(*record) bool) []*record {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []*record
	for _, r := range x.records {
		if keep(r) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *record) int {
		switch {
		case a.Name < b.Name:
			return -1
		case a.Name > b.Name:
			return 1
		}
		return 0
	})
	return out
}

// put stores a record; replaces is its key until now, if that changes.
func (x *index) put(r *record, replaces ...name) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, n := range replaces {
		delete(x.records, n)
	}
	x.records[name{r.Namespace, r.Name}] = r
}

// reserve takes an id for a child of parent, which from now on cannot be removed.
func (x *index) reserve(parent name) (uint64, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.refLocked(parent); err != nil {
		return 0, err
	}
	x.lastID++
	return x.lastID, nil
}

// ref is reserve without an id.
func (x *index) ref(parent name) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.refLocked(parent)
}

func (x *index) refLocked(parent name) error {
	if parent.key == "" {
		return nil
	}
	r, err := x.getLocked(parent)
	if err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	if r.Kind != KindCommitted {
		return fmt.Errorf("parent %q is not committed: %w", parent.key, errdefs.ErrFailedPrecondition)
	}
	x.children[parent]++
	return nil
}

// unref undoes what reserve or ref did to the parent.
func (x *index) unref(parent name) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.unrefLocked(parent)
}

func (x *index) unrefLocked(parent name) {
	if x.children[parent]--; x.children[parent] <= 0 {
		delete(x.children, parent)
	}
}

// retire forgets a snapshot that must have no children.
func (x *index) retire(n name) (*record, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r, err := x.getLocked(n)
	if err != nil {
		return nil, err
	}
	if c := x.children[n]; c > 0 {
		return nil, fmt.Errorf("snapshot %q has %d children: %w", n.key, c, errdefs.ErrFailedPrecondition)
	}
	delete(x.records, n)
	x.unrefLocked(name{r.Namespace, r.Parent})
	return r, nil
}

// restore undoes retire.
func (x *index) restore(r *record) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.records[name{r.Namespace, r.Name}] = r
	if r.Parent != "" {
		x.children[name{r.Namespace, r.Parent}]++
	}
}
