package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"strata/pkg/metadb"
)

func open(t *testing.T) *Store {
	t.Helper()
	db, err := metadb.Open(filepath.Join(t.TempDir(), "engine.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := Open(db)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func def(id, name string) *Definition {
	return &Definition{ID: id, Name: name, Config: &container.Config{Image: "busybox"}, Host: &container.HostConfig{}}
}

func TestNamesAreUniqueUnderConcurrency(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() { errs[i] = s.Create(def(fmt.Sprintf("id%d", i), "web"), State{}) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		var taken *NameTaken
		switch {
		case err == nil:
			won++
		case !errors.As(err, &taken) || !errors.Is(err, errdefs.ErrConflict):
			t.Errorf("Create = %v, want *NameTaken of class ErrConflict", err)
		}
	}
	if won != 1 {
		t.Errorf("%d creations won, want 1", won)
	}
}

func TestRenameFreesTheOldName(t *testing.T) {
	s := open(t)
	if err := s.Create(def("a", "one"), State{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(def("a", "two")); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(def("b", "one"), State{}); err != nil {
		t.Errorf("Create under the freed name = %v", err)
	}
	if err := s.Update(def("b", "two")); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("rename to a taken name = %v, want class ErrConflict", err)
	}
}

func TestRemoveLeavesOnlyATombstone(t *testing.T) {
	s := open(t)
	d := def("a", "one")
	if err := s.Create(d, State{Status: "created"}); err != nil {
		t.Fatal(err)
	}
	s.SaveStateLater("a", State{Status: "running"})
	if err := s.Remove(d, Tombstone{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	s.flush(t.Context())
	l, err := s.Load()
	if err != nil || len(l.Definitions) != 0 || len(l.States) != 0 || !l.Tombstones["a"].Volumes {
		t.Errorf("Load = %+v, %v; want the tombstone alone", l, err)
	}
	if err := s.Forget("a"); err != nil {
		t.Fatal(err)
	}
	if l, _ := s.Load(); len(l.Tombstones) != 0 {
		t.Errorf("tombstones = %v, want none", l.Tombstones)
	}
}

func TestSavedStateIsFoundAgain(t *testing.T) {
	s := open(t)
	if err := s.Create(def("a", "one"), State{}); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveState("a", State{Status: "exited", ExitCode: 3}); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveState("gone", State{}); err != nil {
		t.Fatal(err)
	}
	l, err := s.Load()
	if err != nil || l.States["a"].ExitCode != 3 || len(l.States) != 1 {
		t.Errorf("Load = %+v, %v", l, err)
	}
}
