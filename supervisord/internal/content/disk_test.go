package content_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"strata/pkg/namespaces"
	"strata/supervisord/internal/content"
	"strata/supervisord/internal/content/contenttest"
	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/metadata"
)

func open(t *testing.T, root string) (*content.Disk, *metadata.DB) {
	t.Helper()
	db, err := metadata.Open(filepath.Join(root, "meta.db"), &gc.Barrier{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := content.Open(root, db, nil, func() {})
	if err != nil {
		t.Fatal(err)
	}
	return s, db
}

func TestDisk(t *testing.T) {
	contenttest.Run(t, func(t *testing.T) (content.Store, func() content.Store) {
		root := t.TempDir()
		s, db := open(t, root)
		return s, func() content.Store {
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			s, db = open(t, root)
			return s
		}
	})
}

func TestBlobsThatACrashLeftWithoutRecordAreRemoved(t *testing.T) {
	root := t.TempDir()
	s, db := open(t, root)
	ctx := namespaces.With(t.Context(), "test")
	w, err := s.OpenWriter(ctx, content.WriterOptions{Ref: "ref"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(ctx, 0, "", nil); err != nil {
		t.Fatal(err)
	}
	// Placed, and then the process died.
	orphan := filepath.Join(root, "blobs", "sha256", digest.FromString("orphan").Encoded())
	if err := os.WriteFile(orphan, []byte("orphan"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = open(t, root)
	if _, err := os.Stat(orphan); !os.IsNotExist(err) {
		t.Errorf("orphan: %v", err)
	}
	if _, err := s.OpenReader(ctx, digest.FromString("kept")); err != nil {
		t.Errorf("kept: %v", err)
	}
}

func BenchmarkWrite(b *testing.B) {
	root := b.TempDir()
	db, err := metadata.Open(filepath.Join(root, "meta.db"), &gc.Barrier{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	s, err := content.Open(root, db, nil, func() {})
	if err != nil {
		b.Fatal(err)
	}
	ctx := namespaces.With(b.Context(), "test")
	chunk := make([]byte, 1<<20)
	w, err := s.OpenWriter(ctx, content.WriterOptions{Ref: "ref"})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := w.Write(chunk); err != nil {
			b.Fatal(err)
		}
		if st, _ := w.Status(); st.Offset > 256<<20 {
			if err := w.Truncate(0); err != nil {
				b.Fatal(err)
			}
		}
	}
}
