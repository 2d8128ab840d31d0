package content

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/metadata"
)

// ingestLife is how long an ingest that no lease holds and nobody writes is kept, as
// containerd does.
const ingestLife = 24 * time.Hour

// Owns reports whether nodes of type t are blobs or ingests.
func (*Disk) Owns(t string) bool { return t == gc.TypeContent || t == gc.TypeIngests }

// Scan visits all blobs and ingests.
func (s *Disk) Scan(_ context.Context, v gc.Visitor) error {
	err := s.db.View(func(tx *bolt.Tx) error {
		return metadata.EachNamespace(tx, func(ns string) error {
			return metadata.Each(metadata.Bucket(tx, ns, metadata.Content), func(key string, r record) error {
				n := gc.Node{Namespace: ns, Type: gc.TypeContent, Key: key}
				v.Candidate(n)
				if _, ok := r.Labels[gc.LabelRoot]; ok {
					v.Root(n)
				}
				gc.BackReferences(ns, r.Labels, func(holder gc.Node) { v.Back(holder, n) })
				return nil
			})
		})
	})
	if err != nil {
		return err
	}
	return s.eachIngest(func(dir string, in ingest) error {
		n := gc.Node{Namespace: in.Namespace, Type: gc.TypeIngests, Key: in.Ref}
		v.Candidate(n)
		if st, err := status(dir, in); err == nil && (s.locked(dir) || time.Since(st.UpdatedAt) < ingestLife) {
			v.Root(n)
		}
		return nil
	})
}

// References calls emit for each node that the labels of a blob name.
func (s *Disk) References(_ context.Context, n gc.Node, emit func(gc.Node)) error {
	if n.Type != gc.TypeContent || n.Flat {
		return nil
	}
	return s.db.View(func(tx *bolt.Tx) error {
		r, _, err := metadata.Get[record](metadata.Bucket(tx, n.Namespace, metadata.Content), n.Key)
		gc.References(n.Namespace, r.Labels, emit)
		return err
	})
}

// Sweep removes records, moves blobs that no namespace names any more to the trash, and
// empties it afterwards.
func (s *Disk) Sweep(_ context.Context, nodes []gc.Node) (func(), error) {
	if err := s.sweepRecords(nodes); err != nil {
		return nil, err
	}
	var errs []error
	for _, n := range nodes {
		if n.Type == gc.TypeIngests {
			if dir := s.ingestDir(n.Namespace, n.Key); !s.locked(dir) {
				errs = append(errs, s.toTrash(dir))
			}
		}
	}
	errs = append(errs, s.trashUnnamed(s.takeHidden(nodes)))
	return func() { _ = s.emptyTrash() }, errors.Join(errs...)
}

func (s *Disk) sweepRecords(nodes []gc.Node) error {
	if !slices.ContainsFunc(nodes, func(n gc.Node) bool { return n.Type == gc.TypeContent }) {
		return nil
	}
	return s.db.Sweep(func(tx *metadata.Tx) error {
		for _, n := range nodes {
			if b := metadata.Bucket(tx.Tx, n.Namespace, metadata.Content); b != nil && n.Type == gc.TypeContent {
				if err := b.Delete([]byte(n.Key)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// takeHidden returns the digests of blobs that may have lost their last name: those of
// nodes, and those that Delete hid since the last sweep.
func (s *Disk) takeHidden(nodes []gc.Node) map[digest.Digest]struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.hidden
	s.hidden = map[digest.Digest]struct{}{}
	for _, n := range nodes {
		if n.Type == gc.TypeContent {
			out[digest.Digest(n.Key)] = struct{}{}
		}
	}
	return out
}

// trashUnnamed moves those of the blobs to the trash that no namespace names.
func (s *Disk) trashUnnamed(digests map[digest.Digest]struct{}) error {
	return s.db.View(func(tx *bolt.Tx) error {
		var errs []error
		for dgst := range digests {
			if !named(tx, dgst) {
				errs = append(errs, s.toTrash(s.blob(dgst)))
			}
		}
		return errors.Join(errs...)
	})
}

// trashOrphans moves blobs that no namespace names to the trash. Preconditions: the
// barrier is held exclusively, or nobody writes yet.
func (s *Disk) trashOrphans() error {
	return s.db.View(func(tx *bolt.Tx) error {
		algorithms, err := os.ReadDir(filepath.Join(s.root, "blobs"))
		if err != nil {
			return err
		}
		for _, a := range algorithms {
			blobs, err := os.ReadDir(filepath.Join(s.root, "blobs", a.Name()))
			if err != nil {
				return err
			}
			for _, b := range blobs {
				dgst := digest.NewDigestFromEncoded(digest.Algorithm(a.Name()), b.Name())
				if named(tx, dgst) {
					continue
				}
				if err := s.toTrash(filepath.Join(s.root, "blobs", a.Name(), b.Name())); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// named reports whether some namespace has the blob.
func named(tx *bolt.Tx, dgst digest.Digest) bool {
	found := false
	_ = metadata.EachNamespace(tx, func(ns string) error { // fn returns no error
		if b := metadata.Bucket(tx, ns, metadata.Content); b != nil && b.Get([]byte(dgst)) != nil {
			found = true
		}
		return nil
	})
	return found
}

// toTrash moves a file or directory, if it is there, out of sight; emptyTrash removes it.
func (s *Disk) toTrash(path string) error {
	dir, err := os.MkdirTemp(filepath.Join(s.root, "trash"), "")
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	if err := os.Rename(path, filepath.Join(dir, filepath.Base(path))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}
