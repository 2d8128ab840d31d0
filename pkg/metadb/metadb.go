package metadb

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// lockTimeout is how long Open waits for another process to let go of the file: a
// daemon that is just being replaced needs a moment.
const lockTimeout = 2 * time.Second

// Open opens or creates the database at path, mode 0600, in a directory that it
// makes with mode 0711 if needed. The error is of class ErrUnavailable, and says so,
// if another process holds the file.
func Open(path string) (*bolt.DB, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType, NoFreelistSync: true})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open database %q: another process uses this root; stop it, or give this one a root of its own: %w", path, errdefs.ErrUnavailable)
	case err != nil:
		return nil, fmt.Errorf("open database %q: %w", path, err)
	}
	return db, nil
}

// Bucket is a typed view of one top-level bucket: keys are strings, values are T as
// JSON. Methods are safe for concurrent use; each is one transaction.
type Bucket[T any] struct {
	db   *bolt.DB
	name []byte
}

// NewBucket returns the bucket called name, which is made if it is missing.
func NewBucket[T any](db *bolt.DB, name string) (Bucket[T], error) {
	b := Bucket[T]{db: db, name: []byte(name)}
	err := db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(b.name)
		return err
	})
	if err != nil {
		return b, fmt.Errorf("make bucket %q: %w", name, err)
	}
	return b, nil
}

// Put stores v under key, durably.
func (b Bucket[T]) Put(key string, v T) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s %q: %w", b.name, key, err)
	}
	if err := b.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(b.name).Put([]byte(key), data) }); err != nil {
		return fmt.Errorf("store %s %q: %w", b.name, key, err)
	}
	return nil
}

// Get returns the value under key, or an error of class ErrNotFound.
func (b Bucket[T]) Get(key string) (T, error) {
	var v T
	err := b.db.View(func(tx *bolt.Tx) error {
		data := tx.Bucket(b.name).Get([]byte(key))
		if data == nil {
			return fmt.Errorf("%s %q: %w", b.name, key, errdefs.ErrNotFound)
		}
		if err := json.Unmarshal(data, &v); err != nil {
			return fmt.Errorf("decode %s %q: %w: %w", b.name, key, err, errdefs.ErrDataLoss)
		}
		return nil
	})
	return v, err
}

// Delete removes key. It is not an error if there is none.
func (b Bucket[T]) Delete(key string) error {
	if err := b.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(b.name).Delete([]byte(key)) }); err != nil {
		return fmt.Errorf("delete %s %q: %w", b.name, key, err)
	}
	return nil
}

// All returns every key and value. A value that cannot be decoded is left out of the
// map and reported in the joined error (class ErrDataLoss); the rest is returned.
func (b Bucket[T]) All() (map[string]T, error) {
	out := map[string]T{}
	var bad []error
	err := b.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(b.name).ForEach(func(k, data []byte) error {
			var v T
			if err := json.Unmarshal(data, &v); err != nil {
				bad = append(bad, fmt.Errorf("decode %s %q: %w: %w", b.name, k, err, errdefs.ErrDataLoss))
				return nil
			}
			out[string(k)] = v
			return nil
		})
	})
	return out, errors.Join(append(bad, err)...)
}
