package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strata/pkg/namespaces"
	"strata/supervisord/internal/filters"
	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/leases"
	"strata/supervisord/internal/metadata"
)

// The files of an ingest.
const (
	ingestName = "ingest.json"
	dataName   = "data"
	hashName   = "hash"
)

// ingest is what ingest.json says.
type ingest struct {
	Namespace string        `json:"namespace"`
	Ref       string        `json:"ref"`
	Total     int64         `json:"total,omitempty"`
	Expected  digest.Digest `json:"expected,omitempty"`
	StartedAt time.Time     `json:"started"`
}

// ingestDir returns where the ingest of ref is. The name is a hash, so that no ref
// becomes a path.
func (s *Disk) ingestDir(namespace, ref string) string {
	sum := sha256.Sum256([]byte(namespace + "\x00" + ref))
	return filepath.Join(s.root, "ingest", hex.EncodeToString(sum[:]))
}

// lock takes the ref's only writer's place.
func (s *Disk) lock(dir, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.writers[dir]; ok {
		return fmt.Errorf("ref %q locked by another writer: %w", ref, errdefs.ErrUnavailable)
	}
	s.writers[dir] = struct{}{}
	return nil
}

func (s *Disk) unlock(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writers, dir)
}

func (s *Disk) locked(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.writers[dir]
	return ok
}

// OpenWriter opens or resumes the ingest of opts.Ref.
func (s *Disk) OpenWriter(ctx context.Context, opts WriterOptions) (Writer, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return nil, err
	}
	if opts.Ref == "" {
		return nil, fmt.Errorf("ref must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	dgst := opts.Descriptor.Digest
	if dgst != "" {
		if err := check(dgst); err != nil {
			return nil, err
		}
	}
	dir := s.ingestDir(ns, opts.Ref)
	if err := s.lock(dir, opts.Ref); err != nil {
		return nil, err
	}
	w, err := s.openLocked(ctx, ns, dir, opts)
	if err != nil {
		s.unlock(dir)
		return nil, fmt.Errorf("open ingest %q: %w", opts.Ref, err)
	}
	return w, nil
}

// openLocked opens the ingest. Preconditions: the ref is locked.
func (s *Disk) openLocked(ctx context.Context, ns, dir string, opts WriterOptions) (*writer, error) {
	if opts.Descriptor.Digest != "" {
		if err := s.share(ctx, opts.Ref, opts.Descriptor.Digest); err != nil {
			if errdefs.IsAlreadyExists(err) {
				err = errors.Join(err, s.discard(dir)) // nobody will finish it
			}
			return nil, err
		}
	}
	in, err := readIngest(dir)
	switch {
	case err == nil && opts.Descriptor.Digest != "" && in.Expected != "" && in.Expected != opts.Descriptor.Digest,
		errors.Is(err, errdefs.ErrDataLoss):
		// Something else under the same ref, or torn by a crash: from the start.
		if err := s.discard(dir); err != nil {
			return nil, err
		}
		fallthrough
	case errors.Is(err, os.ErrNotExist):
		in = ingest{Namespace: ns, Ref: opts.Ref, Total: opts.Descriptor.Size, Expected: opts.Descriptor.Digest, StartedAt: time.Now().UTC()}
		if err := s.begin(ctx, dir, in); err != nil {
			return nil, diskFull(err)
		}
	case err != nil:
		return nil, err
	default:
		if err := s.hold(ctx, ns, opts.Ref); err != nil {
			return nil, err
		}
	}
	if in.Total == 0 {
		in.Total = opts.Descriptor.Size
	}
	if in.Expected == "" {
		in.Expected = opts.Descriptor.Digest
	}
	return newWriter(s, dir, in)
}

// begin makes the directory of an ingest. The name appears when it is whole.
func (s *Disk) begin(ctx context.Context, dir string, in ingest) error {
	if err := s.hold(ctx, in.Namespace, in.Ref); err != nil {
		return err
	}
	data, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode ingest: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Join(s.root, "new"), "")
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{ingestName: data, dataName: nil} {
		if err := os.WriteFile(filepath.Join(tmp, name), content, 0o600); err != nil {
			return errors.Join(err, os.RemoveAll(tmp))
		}
	}
	leave := s.db.Barrier().Enter()
	defer leave()
	if err := os.Rename(tmp, dir); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	s.db.Barrier().Touch(gc.Node{Namespace: in.Namespace, Type: gc.TypeIngests, Key: in.Ref})
	return nil
}

// hold makes the lease of ctx hold the ingest.
func (s *Disk) hold(ctx context.Context, ns, ref string) error {
	lease, ok := namespaces.Lease(ctx)
	if !ok {
		return nil
	}
	return s.db.Update(ctx, func(tx *metadata.Tx) error {
		return leases.Add(tx, ns, lease, leases.Resource{ID: ref, Type: gc.TypeIngests})
	})
}

func readIngest(dir string) (ingest, error) {
	var in ingest
	data, err := os.ReadFile(filepath.Join(dir, ingestName))
	if err != nil {
		return in, err
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return in, fmt.Errorf("decode ingest: %w: %w", err, errdefs.ErrDataLoss)
	}
	return in, nil
}

// discard moves an ingest out of sight and removes it.
func (s *Disk) discard(dir string) error {
	tmp, err := os.MkdirTemp(filepath.Join(s.root, "trash"), "")
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(tmp, "ingest")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.RemoveAll(tmp)
}

func (s *Disk) emptyTrash() error {
	entries, err := os.ReadDir(filepath.Join(s.root, "trash"))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(s.root, "trash", e.Name())))
	}
	return errors.Join(errs...)
}

func status(dir string, in ingest) (Status, error) {
	fi, err := os.Stat(filepath.Join(dir, dataName))
	if err != nil {
		return Status{}, err
	}
	return Status{
		Ref: in.Ref, Offset: fi.Size(), Total: in.Total, Expected: in.Expected,
		StartedAt: in.StartedAt, UpdatedAt: fi.ModTime(),
	}, nil
}

// Status returns one ingest.
func (s *Disk) Status(ctx context.Context, ref string) (Status, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return Status{}, err
	}
	dir := s.ingestDir(ns, ref)
	in, err := readIngest(dir)
	if err == nil {
		var st Status
		if st, err = status(dir, in); err == nil {
			return st, nil
		}
	}
	if errors.Is(err, os.ErrNotExist) {
		err = errdefs.ErrNotFound
	}
	return Status{}, fmt.Errorf("ingest %q: %w", ref, err)
}

// ListStatuses returns the ingests that match one of the filters. Field: ref.
func (s *Disk) ListStatuses(ctx context.Context, filter ...string) ([]Status, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return nil, err
	}
	f, err := filters.ParseAll(filter...)
	if err != nil {
		return nil, fmt.Errorf("list ingests: %w", err)
	}
	var out []Status
	err = s.eachIngest(func(dir string, in ingest) error {
		if in.Namespace != ns || !f.Match(filters.AdapterFunc(func(path []string) (string, bool) {
			return in.Ref, len(path) == 1 && path[0] == "ref"
		})) {
			return nil
		}
		st, err := status(dir, in)
		if err == nil {
			out = append(out, st)
		}
		return nil // committed meanwhile
	})
	if err != nil {
		return nil, fmt.Errorf("list ingests: %w", err)
	}
	return out, nil
}

// eachIngest calls fn for each ingest of all namespaces.
func (s *Disk) eachIngest(fn func(dir string, in ingest) error) error {
	entries, err := os.ReadDir(filepath.Join(s.root, "ingest"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(s.root, "ingest", e.Name())
		in, err := readIngest(dir)
		if err != nil {
			continue // committed meanwhile, or torn: OpenWriter begins it anew
		}
		if err := fn(dir, in); err != nil {
			return err
		}
	}
	return nil
}

// Abort removes an ingest. A writer that has it open fails at its next step.
func (s *Disk) Abort(ctx context.Context, ref string) error {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	dir := s.ingestDir(ns, ref)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("abort ingest %q: %w", ref, errdefs.ErrNotFound)
	}
	if err := s.discard(dir); err != nil {
		return fmt.Errorf("abort ingest %q: %w", ref, err)
	}
	return nil
}
