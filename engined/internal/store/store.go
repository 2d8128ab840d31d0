package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"strata/pkg/ctxlog"
)

var (
	bucketContainers = []byte("containers")
	bucketNames      = []byte("names")
	bucketStates     = []byte("states")
	bucketTombstones = []byte("tombstones")
	bucketEngine     = []byte("engine")
)

// NameTaken says which container has a name. It is of class ErrConflict.
type NameTaken struct{ Name, ID string }

func (e *NameTaken) Error() string {
	return fmt.Sprintf("Conflict. The container name \"/%s\" is already in use by container \"%s\". You have to remove (or rename) that container to be able to reuse that name.", e.Name, e.ID)
}

// Unwrap gives the class.
func (e *NameTaken) Unwrap() error { return errdefs.ErrConflict }

// Store keeps definitions and states. Its methods are safe for concurrent use. Run writes
// what is saved with SaveStateLater.
type Store struct {
	db *bolt.DB

	mu    sync.Mutex // guards the queue of transactions
	queue []*change
	busy  bool // somebody commits, and takes the queue when done

	lateMu sync.Mutex
	late   map[string]State
	kick   chan struct{} // buffered 1: a wake-up is not lost and never blocks
}

// change is a transaction that waits for its commit.
type change struct {
	fn   func(tx *bolt.Tx) error
	done chan error    // buffered 1: the committer never waits
	lead chan struct{} // closed when this change's owner commits the next batch
}

// Open makes the buckets in db.
func Open(db *bolt.DB) (*Store, error) {
	err := db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketContainers, bucketNames, bucketStates, bucketTombstones, bucketEngine} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open container store: %w", err)
	}
	return &Store{db: db, late: map[string]State{}, kick: make(chan struct{}, 1)}, nil
}

// commit runs fn in a transaction and returns when it is durable. Changes that wait at
// the same time share one transaction; one that fails does not take the others with it.
func (s *Store) commit(fn func(tx *bolt.Tx) error) error {
	c := &change{fn: fn, done: make(chan error, 1), lead: make(chan struct{})}
	s.mu.Lock()
	s.queue = append(s.queue, c)
	leader := !s.busy
	s.busy = true
	s.mu.Unlock()
	if !leader {
		select {
		case err := <-c.done:
			return err
		case <-c.lead:
		}
	}
	s.mu.Lock()
	batch := s.queue
	s.queue = nil
	s.mu.Unlock()
	s.apply(batch)
	s.mu.Lock()
	if len(s.queue) > 0 {
		close(s.queue[0].lead)
	} else {
		s.busy = false
	}
	s.mu.Unlock()
	return <-c.done
}

func (s *Store) apply(batch []*change) {
	if len(batch) > 1 {
		err := s.db.Update(func(tx *bolt.Tx) error {
			for _, c := range batch {
				if err := c.fn(tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			for _, c := range batch {
				c.done <- nil
			}
			return
		}
	}
	for _, c := range batch { // alone, or one of them failed: each for itself
		c.done <- s.db.Update(c.fn)
	}
}

// Create stores a definition and its name, durably. A name in use is a *NameTaken.
func (s *Store) Create(d *Definition, st State) error {
	return s.commit(func(tx *bolt.Tx) error {
		if id := tx.Bucket(bucketNames).Get([]byte(d.Name)); id != nil {
			return &NameTaken{d.Name, string(id)}
		}
		return errors.Join(
			tx.Bucket(bucketNames).Put([]byte(d.Name), []byte(d.ID)),
			put(tx, bucketContainers, d.ID, d),
			put(tx, bucketStates, d.ID, st),
		)
	})
}

// Update replaces a definition, durably; its name may change (*NameTaken). ErrNotFound if
// it was removed meanwhile.
func (s *Store) Update(d *Definition) error {
	return s.commit(func(tx *bolt.Tx) error {
		data := tx.Bucket(bucketContainers).Get([]byte(d.ID))
		if data == nil {
			return fmt.Errorf("container %q: %w", d.ID, errdefs.ErrNotFound)
		}
		var old Definition
		if err := json.Unmarshal(data, &old); err != nil {
			return fmt.Errorf("decode container %q: %w: %w", d.ID, err, errdefs.ErrDataLoss)
		}
		names := tx.Bucket(bucketNames)
		if old.Name != d.Name {
			if id := names.Get([]byte(d.Name)); id != nil {
				return &NameTaken{d.Name, string(id)}
			}
			if err := errors.Join(names.Delete([]byte(old.Name)), names.Put([]byte(d.Name), []byte(d.ID))); err != nil {
				return err
			}
		}
		return put(tx, bucketContainers, d.ID, d)
	})
}

// Remove forgets a definition, its name and its state, and leaves a tombstone, durably:
// the point of no return of a removal.
func (s *Store) Remove(d *Definition, t Tombstone) error {
	s.lateMu.Lock()
	delete(s.late, d.ID)
	s.lateMu.Unlock()
	return s.commit(func(tx *bolt.Tx) error {
		return errors.Join(
			tx.Bucket(bucketContainers).Delete([]byte(d.ID)),
			tx.Bucket(bucketNames).Delete([]byte(d.Name)),
			tx.Bucket(bucketStates).Delete([]byte(d.ID)),
			put(tx, bucketTombstones, d.ID, t),
		)
	})
}

// Forget drops a tombstone.
func (s *Store) Forget(containerID string) error {
	return s.commit(func(tx *bolt.Tx) error { return tx.Bucket(bucketTombstones).Delete([]byte(containerID)) })
}

// SaveState stores a state, durably.
func (s *Store) SaveState(containerID string, st State) error {
	s.lateMu.Lock()
	delete(s.late, containerID) // it is older
	s.lateMu.Unlock()
	return s.commit(func(tx *bolt.Tx) error {
		if tx.Bucket(bucketContainers).Get([]byte(containerID)) == nil {
			return nil // removed meanwhile
		}
		return put(tx, bucketStates, containerID, st)
	})
}

// SaveStateLater stores a state soon, without waiting: after a crash an older one may be
// found.
func (s *Store) SaveStateLater(containerID string, st State) {
	s.lateMu.Lock()
	s.late[containerID] = st
	s.lateMu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Run writes late states until ctx is done, and then the last ones.
func (s *Store) Run(ctx context.Context) error {
	for {
		select {
		case <-s.kick:
			s.flush(ctx)
		case <-ctx.Done():
			s.flush(ctx)
			return nil
		}
	}
}

func (s *Store) flush(ctx context.Context) {
	s.lateMu.Lock()
	late := s.late
	s.late = map[string]State{}
	s.lateMu.Unlock()
	if len(late) == 0 {
		return
	}
	err := s.commit(func(tx *bolt.Tx) error {
		for id, st := range late {
			if tx.Bucket(bucketContainers).Get([]byte(id)) == nil {
				continue
			}
			if err := put(tx, bucketStates, id, st); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		ctxlog.From(ctx).Warn("container states were not stored", ctxlog.Error, err)
	}
}

// Loaded is all that the store holds.
type Loaded struct {
	Definitions map[string]*Definition
	States      map[string]State
	Tombstones  map[string]Tombstone
}

// Load reads everything. Records that cannot be decoded are left out and named in the
// error (class ErrDataLoss); the rest is returned.
func (s *Store) Load() (Loaded, error) {
	l := Loaded{map[string]*Definition{}, map[string]State{}, map[string]Tombstone{}}
	var bad []error
	err := s.db.View(func(tx *bolt.Tx) error {
		each(tx, bucketContainers, l.Definitions, &bad)
		each(tx, bucketStates, l.States, &bad)
		each(tx, bucketTombstones, l.Tombstones, &bad)
		return nil
	})
	return l, errors.Join(append(bad, err)...)
}

func each[T any](tx *bolt.Tx, bucket []byte, into map[string]T, bad *[]error) {
	_ = tx.Bucket(bucket).ForEach(func(k, data []byte) error { // the function below never fails
		var v T
		if err := json.Unmarshal(data, &v); err != nil {
			*bad = append(*bad, fmt.Errorf("decode %s %q: %w: %w", bucket, k, err, errdefs.ErrDataLoss))
			return nil
		}
		into[string(k)] = v
		return nil
	})
}

// EngineID returns the engine's id, made up at the first call.
func (s *Store) EngineID(fresh string) (string, error) {
	id := fresh
	err := s.commit(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketEngine)
		if have := b.Get([]byte("id")); have != nil {
			id = string(have)
			return nil
		}
		return b.Put([]byte("id"), []byte(fresh))
	})
	return id, err
}

func put(tx *bolt.Tx, bucket []byte, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s %q: %w", bucket, key, err)
	}
	return tx.Bucket(bucket).Put([]byte(key), data)
}
