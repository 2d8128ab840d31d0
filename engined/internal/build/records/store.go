package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"strata/pkg/metadb"
)

var (
	bucketRecords = []byte("records")
	bucketAliases = []byte("aliases")
	bucketImages  = []byte("images")
)

// Layer is a changeset in the content store.
type Layer struct {
	Descriptor ocispec.Descriptor
	DiffID     digest.Digest
}

// Record is a result that is kept.
type Record struct {
	Key       string
	Parent    string // key of the record below; "" above an image or nothing
	Link      string `json:",omitempty"` // key of the record whose layer this one places upon Parent; "" for one of its own
	Snapshot  string // "" for the empty filesystem, and for a layer that is upon nothing
	Own       bool   // the snapshot was made for this record
	Unchanged bool   // nothing was changed: the snapshot is that of the record below
	Layer     *Layer // nil if nobody has needed it
	Name      string // of the instruction
	Created   time.Time
	LastUsed  time.Time
	Uses      int
	Size      int64 // bytes of the snapshot itself
}

// Times is when a build ran.
type Times struct{ Started, Finished time.Time }

// Finished is an image that came of a build, to be named again by one that is the same.
type Finished struct {
	Target  ocispec.Descriptor
	Top     string // key of the record of its filesystem
	Created time.Time
	// Attested is when the build was that its attestation tells of; nil without one.
	Attested *Times `json:",omitempty"`
}

// Store keeps records. It is safe for concurrent use.
type Store struct {
	db *bolt.DB

	mu      sync.Mutex
	touched map[string]touch // not yet written
}

type touch struct {
	at   time.Time
	uses int
}

// Open returns the store in the file at path, which is made if it is not there. Close it.
func Open(path string) (*Store, error) {
	db, err := metadb.Open(path)
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketRecords, bucketAliases, bucketImages} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open build cache: %w", err), db.Close())
	}
	return &Store{db: db, touched: map[string]touch{}}, nil
}

// Close writes what is not yet written.
func (s *Store) Close() error { return errors.Join(s.flush(), s.db.Close()) }

// Get returns the record of a content key.
func (s *Store) Get(key string) (*Record, bool) {
	var r *Record
	_ = s.db.View(func(tx *bolt.Tx) error { // a broken record is none
		r = decode(tx.Bucket(bucketRecords).Get([]byte(key)))
		return nil
	})
	return r, r != nil
}

// Alias returns the record that a plain key stands for.
func (s *Store) Alias(plain string) (*Record, bool) {
	var r *Record
	_ = s.db.View(func(tx *bolt.Tx) error { // a broken record is none
		if key := tx.Bucket(bucketAliases).Get([]byte(plain)); key != nil {
			r = decode(tx.Bucket(bucketRecords).Get(key))
		}
		return nil
	})
	return r, r != nil
}

func decode(raw []byte) *Record {
	r := &Record{}
	if raw == nil || json.Unmarshal(raw, r) != nil {
		return nil
	}
	return r
}

// Use remembers that a record was of use; it is written with the next change.
func (s *Store) Use(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.touched[key]
	s.touched[key] = touch{time.Now().UTC(), t.uses + 1}
}

// Put keeps a record and the plain keys that lead to it.
func (s *Store) Put(r *Record, plain ...string) error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		raw, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if err := tx.Bucket(bucketRecords).Put([]byte(r.Key), raw); err != nil {
			return err
		}
		for _, p := range plain {
			if err := tx.Bucket(bucketAliases).Put([]byte(p), []byte(r.Key)); err != nil {
				return err
			}
		}
		return s.writeTouches(tx)
	})
	if err != nil {
		return fmt.Errorf("keep build record: %w", err)
	}
	return nil
}

// Link makes plain lead to a record that is there.
func (s *Store) Link(plain, key string) error {
	err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketAliases).Put([]byte(plain), []byte(key)) })
	if err != nil {
		return fmt.Errorf("keep build record: %w", err)
	}
	return nil
}

func (s *Store) writeTouches(tx *bolt.Tx) error {
	s.mu.Lock()
	touched := s.touched
	s.touched = map[string]touch{}
	s.mu.Unlock()
	b := tx.Bucket(bucketRecords)
	for key, t := range touched {
		r := decode(b.Get([]byte(key)))
		if r == nil {
			continue
		}
		r.LastUsed, r.Uses = t.at, r.Uses+t.uses
		raw, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if err := b.Put([]byte(key), raw); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) flush() error {
	s.mu.Lock()
	n := len(s.touched)
	s.mu.Unlock()
	if n == 0 {
		return nil
	}
	return s.db.Update(s.writeTouches)
}

// Finished returns the image that a build with this key made.
func (s *Store) Finished(key string) (f Finished, ok bool) {
	_ = s.db.View(func(tx *bolt.Tx) error { // a broken record is none
		raw := tx.Bucket(bucketImages).Get([]byte(key))
		ok = raw != nil && json.Unmarshal(raw, &f) == nil
		return nil
	})
	return f, ok
}

// Finish remembers the image that a build with this key made.
func (s *Store) Finish(key string, f Finished) error {
	raw, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketImages).Put([]byte(key), raw) }); err != nil {
		return fmt.Errorf("keep build record: %w", err)
	}
	return nil
}

// All returns every record by key, with what was not yet written.
func (s *Store) All() (map[string]*Record, error) {
	if err := s.flush(); err != nil {
		return nil, fmt.Errorf("list build records: %w", err)
	}
	out := map[string]*Record{}
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketRecords).ForEach(func(k, v []byte) error {
			if r := decode(v); r != nil {
				out[string(k)] = r
			}
			return nil
		})
	})
	return out, err
}

// Forget removes records, with the aliases and images that lead to them.
func (s *Store) Forget(keys map[string]bool) error {
	if len(keys) == 0 {
		return nil
	}
	err := s.db.Update(func(tx *bolt.Tx) error {
		for key := range keys {
			if err := tx.Bucket(bucketRecords).Delete([]byte(key)); err != nil {
				return err
			}
		}
		if err := deleteIf(tx.Bucket(bucketAliases), func(v []byte) bool { return keys[string(v)] }); err != nil {
			return err
		}
		return deleteIf(tx.Bucket(bucketImages), func(v []byte) bool {
			var f Finished
			return json.Unmarshal(v, &f) != nil || keys[f.Top]
		})
	})
	if err != nil {
		return fmt.Errorf("forget build records: %w", err)
	}
	return nil
}

// deleteIf removes the entries of b whose value fits.
func deleteIf(b *bolt.Bucket, fits func(v []byte) bool) error {
	var gone [][]byte
	err := b.ForEach(func(k, v []byte) error {
		if fits(v) {
			gone = append(gone, append([]byte(nil), k...))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range gone {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
