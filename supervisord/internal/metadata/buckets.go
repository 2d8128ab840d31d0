package metadata

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"strata/pkg/identifiers"
)

// version is the top-level bucket; a change of layout that old code would misread gets
// a new one.
const version = "v1"

// Kind names a bucket of a namespace.
type Kind string

// The kinds of records.
const (
	Content    Kind = "content"
	Images     Kind = "images"
	Containers Kind = "containers"
	Leases     Kind = "leases"
	labels     Kind = "labels"
)

// recordKinds are the kinds that keep a namespace from being deleted.
var recordKinds = []Kind{Images, Containers, Content, Leases}

// Bucket returns the records of a kind in a namespace, or nil if there are none.
func Bucket(tx *bolt.Tx, namespace string, kind Kind) *bolt.Bucket {
	b := namespaceBucket(tx, namespace)
	if b == nil {
		return nil
	}
	return b.Bucket([]byte(kind))
}

func namespaceBucket(tx *bolt.Tx, namespace string) *bolt.Bucket {
	b := tx.Bucket([]byte(version))
	if b == nil || namespace == "" {
		return nil
	}
	return b.Bucket([]byte(namespace))
}

// MakeBucket returns the records of a kind in a namespace, both of which it makes if
// they are missing. The error is of class ErrInvalidArgument if no namespace may have
// that name.
func MakeBucket(tx *bolt.Tx, namespace string, kind Kind) (*bolt.Bucket, error) {
	if b := Bucket(tx, namespace, kind); b != nil {
		return b, nil
	}
	if err := identifiers.Validate(namespace); err != nil {
		return nil, fmt.Errorf("namespace: %w", err)
	}
	b, err := tx.CreateBucketIfNotExists([]byte(version))
	for _, name := range []string{namespace, string(kind)} {
		if err != nil {
			break
		}
		b, err = b.CreateBucketIfNotExists([]byte(name))
	}
	if err != nil {
		return nil, fmt.Errorf("make bucket %s of namespace %q: %w", kind, namespace, err)
	}
	return b, nil
}

// EachNamespace calls fn with the name of each namespace.
func EachNamespace(tx *bolt.Tx, fn func(namespace string) error) error {
	b := tx.Bucket([]byte(version))
	if b == nil {
		return nil
	}
	return b.ForEachBucket(func(k []byte) error { return fn(string(k)) })
}

// Get returns the record under key. b may be nil: nothing is there.
func Get[T any](b *bolt.Bucket, key string) (v T, ok bool, err error) {
	if b == nil || key == "" {
		return v, false, nil
	}
	data := b.Get([]byte(key))
	if data == nil {
		return v, false, nil
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return v, false, fmt.Errorf("decode record %q: %w: %w", key, err, errdefs.ErrDataLoss)
	}
	return v, true, nil
}

// Put stores a record under key.
func Put[T any](b *bolt.Bucket, key string, v T) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode record %q: %w", key, err)
	}
	if err := b.Put([]byte(key), data); err != nil {
		return fmt.Errorf("store record %q: %w", key, err)
	}
	return nil
}

// Each calls fn for each record in the order of keys. b may be nil.
func Each[T any](b *bolt.Bucket, fn func(key string, v T) error) error {
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, data []byte) error {
		var v T
		if err := json.Unmarshal(data, &v); err != nil {
			return fmt.Errorf("decode record %q: %w: %w", k, err, errdefs.ErrDataLoss)
		}
		return fn(string(k), v)
	})
}
