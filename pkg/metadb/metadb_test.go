package metadb

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

type record struct{ N int }

func open(t *testing.T) (Bucket[record], *bolt.DB) {
	t.Helper()
	db, err := Open(filepath.Join(t.TempDir(), "sub", "t.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	b, err := NewBucket[record](db, "records")
	if err != nil {
		t.Fatal(err)
	}
	return b, db
}

func TestBucketKeepsValues(t *testing.T) {
	b, _ := open(t)
	if err := b.Put("a", record{1}); err != nil {
		t.Fatal(err)
	}
	if v, err := b.Get("a"); err != nil || v.N != 1 {
		t.Errorf("Get = %v, %v", v, err)
	}
	if err := b.Delete("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get("a"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Get after Delete = %v, want class ErrNotFound", err)
	}
}

func TestAllReportsBrokenValuesAndReturnsTheRest(t *testing.T) {
	b, db := open(t)
	if err := b.Put("good", record{2}); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("records")).Put([]byte("bad"), []byte("{")) }); err != nil {
		t.Fatal(err)
	}
	all, err := b.All()
	if !errors.Is(err, errdefs.ErrDataLoss) || len(all) != 1 || all["good"].N != 2 {
		t.Errorf("All = %v, %v; want the good record and class ErrDataLoss", all, err)
	}
}

func TestSecondOpenSaysWhoIsInTheWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.db")
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := Open(path); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("second Open = %v, want class ErrUnavailable", err)
	}
}
