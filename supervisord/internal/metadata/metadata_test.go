package metadata

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"strata/supervisord/internal/gc"
)

func open(t testing.TB) *DB {
	t.Helper()
	db, err := Open(filepath.Join(t.TempDir(), "meta.db"), &gc.Barrier{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := db.View(func(tx *bolt.Tx) error {
			var errs []error
			for err := range tx.Check() {
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Error(err)
		}
	})
	return db
}

// TestChangesShareCommitsAndFailAlone has many writers, every third of which fails after
// it has written.
func TestChangesShareCommitsAndFailAlone(t *testing.T) {
	db := open(t)
	const n = 120
	start := txid(t, db)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			err := db.Update(t.Context(), func(tx *Tx) error {
				b, err := MakeBucket(tx.Tx, fmt.Sprint("ns", i%5), Images)
				if err != nil {
					return err
				}
				if err := Put(b, fmt.Sprint(i), i); err != nil {
					return err
				}
				if i%3 == 0 {
					return errdefs.ErrAborted
				}
				return nil
			})
			if (i%3 == 0) != errors.Is(err, errdefs.ErrAborted) {
				t.Errorf("change %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	found := 0
	err := db.View(func(tx *bolt.Tx) error {
		return EachNamespace(tx, func(ns string) error {
			return Each(Bucket(tx, ns, Images), func(_ string, i int) error {
				found++
				if i%3 == 0 {
					t.Errorf("the failed change %d is there", i)
				}
				return nil
			})
		})
	})
	if err != nil || found != n*2/3 {
		t.Errorf("%d records, %v; want %d", found, err, n*2/3)
	}
	if commits := txid(t, db) - start; commits >= n*2/3 {
		t.Errorf("%d commits for %d changes: none was shared", commits, n)
	}
}

func txid(t *testing.T, db *DB) (id int) {
	t.Helper()
	if err := db.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestMergeLabelsFollowsTheFieldMask(t *testing.T) {
	current := map[string]string{"a": "1", "b.c/d": "2"}
	for _, tt := range []struct {
		update map[string]string
		paths  []string
		want   map[string]string
		class  error
	}{
		{map[string]string{"x": "y", "empty": ""}, nil, map[string]string{"x": "y"}, nil},
		{map[string]string{"x": "y"}, []string{"labels"}, map[string]string{"x": "y"}, nil},
		{map[string]string{"b.c/d": "3", "a": "ignored"}, []string{"labels.b.c/d"}, map[string]string{"a": "1", "b.c/d": "3"}, nil},
		{nil, []string{"labels.a"}, map[string]string{"b.c/d": "2"}, nil},
		{nil, []string{"name"}, nil, errdefs.ErrInvalidArgument},
		{nil, []string{"labels."}, nil, errdefs.ErrInvalidArgument},
		{map[string]string{"k": strings.Repeat("v", 4095)}, nil, map[string]string{"k": strings.Repeat("v", 4095)}, nil},
		{map[string]string{"k": strings.Repeat("v", 4096)}, nil, nil, errdefs.ErrInvalidArgument},
		{map[string]string{"": "v"}, nil, nil, errdefs.ErrInvalidArgument},
	} {
		got, err := MergeLabels(current, tt.update, tt.paths)
		if !errors.Is(err, tt.class) || err == nil && !maps.Equal(got, tt.want) {
			t.Errorf("MergeLabels(%.40v, %q) = %.80v, %v; want %.80v", tt.update, tt.paths, got, err, tt.want)
		}
	}
	if len(current) != 2 {
		t.Error("MergeLabels changed its argument")
	}
}

func BenchmarkUpdateParallel(b *testing.B) {
	db := open(b)
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			err := db.Update(b.Context(), func(tx *Tx) error {
				bk, err := MakeBucket(tx.Tx, "ns", Images)
				if err != nil {
					return err
				}
				return Put(bk, "k", 1)
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
