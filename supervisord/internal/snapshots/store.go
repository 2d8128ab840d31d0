package snapshots

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/cleanup"
	"strata/pkg/failpoint"
	"strata/pkg/linux/mount"
	"strata/pkg/namespaces"
	"strata/supervisord/internal/events"
	"strata/supervisord/internal/facts"
	"strata/supervisord/internal/filters"
	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/leases"
	"strata/supervisord/internal/metadata"
)

// maxKey bounds a key, in bytes.
const maxKey = 4096

// Config says what a Store works with.
type Config struct {
	Root      string // a directory of its own
	Driver    Driver
	Barrier   *gc.Barrier
	Publisher events.Publisher
	// LeaseExists reports whether a namespace has a lease.
	LeaseExists func(namespace, leaseID string) (bool, error)
	// Changed is called when something may have become garbage.
	Changed func()
}

// Store is the Snapshotter above a Driver.
type Store struct {
	Config
	root    string
	boot    string
	index   *index
	flusher *flusher
	wake    chan struct{} // buffered 1: there is trash
}

var (
	_ Snapshotter       = (*Store)(nil)
	_ Rebaser           = (*Store)(nil)
	_ gc.Part           = (*Store)(nil)
	_ leases.Holder     = (*Store)(nil)
	_ metadata.Outsider = (*Store)(nil)
)

// Stat describes a snapshot.
func (s *Store) Stat(ctx context.Context, key string) (Info, error) {
	_, r, err := s.find(ctx, key)
	if err != nil {
		return Info{}, err
	}
	return r.info(), nil
}

func (s *Store) find(ctx context.Context, key string) (name, *record, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return name{}, nil, err
	}
	n := name{ns, key}
	r, err := s.index.get(n)
	return n, r, err
}

// Walk calls fn for each snapshot that matches one of the filters, in the order of
// their names. Fields: kind, name, parent, labels.
func (s *Store) Walk(ctx context.Context, fn func(Info) error, filter ...string) error {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	f, err := filters.ParseAll(filter...)
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, r := range s.index.all(func(r *record) bool { return r.Namespace == ns && f.Match(fields(r)) }) {
		if err := fn(r.info()); err != nil {
			return err
		}
	}
	return nil
}

func fields(r *record) filters.AdapterFunc {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "kind":
			return r.Kind.String(), true
		case "name":
			return r.Name, true
		case "parent":
			return r.Parent, r.Parent != ""
		case "labels":
			return filters.Labels(r.Labels, path[1:])
		}
		return "", false
	}
}

// Usage returns what a snapshot takes on disk: measured now, or when it was committed.
func (s *Store) Usage(ctx context.Context, key string) (Usage, error) {
	_, r, err := s.find(ctx, key)
	if err != nil {
		return Usage{}, err
	}
	if r.Kind == KindCommitted {
		return r.Usage, nil
	}
	u, err := s.Driver.Usage(ctx, s.dir(r.ID))
	if err != nil {
		return u, fmt.Errorf("usage of snapshot %q: %w", key, err)
	}
	return u, nil
}

// Mounts returns how to mount an active snapshot or a view.
func (s *Store) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	_, r, err := s.find(ctx, key)
	if err != nil {
		return nil, err
	}
	return s.mounts(r)
}

func (s *Store) mounts(r *record) ([]mount.Mount, error) {
	if r.Kind == KindCommitted {
		return nil, fmt.Errorf("mounts of snapshot %q, which is committed: %w", r.Name, errdefs.ErrFailedPrecondition)
	}
	parents, err := s.parents(r)
	if err != nil {
		return nil, err
	}
	return s.Driver.Mounts(s.dir(r.ID), r.Kind, parents), nil
}

func (s *Store) parents(r *record) ([]string, error) {
	ids, err := s.index.chain(r.Namespace, r.Parent)
	if err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", r.Name, err)
	}
	dirs := make([]string, len(ids))
	for i, id := range ids {
		dirs[i] = s.dir(id)
	}
	return dirs, nil
}

// Prepare makes an active snapshot.
func (s *Store) Prepare(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	return s.create(ctx, &record{Kind: KindActive, Name: key, Parent: parent, Labels: maps.Clone(labels)})
}

// View makes a read-only snapshot.
func (s *Store) View(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	return s.create(ctx, &record{Kind: KindView, Name: key, Parent: parent, Labels: maps.Clone(labels)})
}

func (s *Store) create(ctx context.Context, r *record) ([]mount.Mount, error) {
	var err error
	if r.Namespace, err = namespaces.Required(ctx); err != nil {
		return nil, err
	}
	if err := validate(r.Name, r.Labels); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	release, err := s.index.acquire(ctx, name{r.Namespace, r.Name})
	if err != nil {
		return nil, err
	}
	defer release()
	if _, err := s.index.get(name{r.Namespace, r.Name}); err == nil {
		return nil, fmt.Errorf("prepare: snapshot %q: %w", r.Name, errdefs.ErrAlreadyExists)
	}
	mounts, err := s.make(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("prepare snapshot %q: %w", r.Name, err)
	}
	facts.Publish(ctx, s.Publisher, facts.SnapshotPrepared(s.Driver.Name(), r.Name, r.Parent))
	return mounts, nil
}

// make makes the directory of a new snapshot and publishes the record.
func (s *Store) make(ctx context.Context, r *record) ([]mount.Mount, error) {
	var undo cleanup.Stack
	defer undo.Clean()
	parent := name{r.Namespace, r.Parent}
	id, err := s.index.reserve(parent)
	if err != nil {
		return nil, err
	}
	undo.Add(func() { s.index.unref(parent) })
	r.ID = id
	r.CreatedAt = time.Now().UTC()
	r.UpdatedAt = r.CreatedAt
	dirs, err := s.parents(r)
	if err != nil {
		return nil, err
	}
	dir := s.dir(r.ID)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return nil, diskFull(err)
	}
	undo.Add(func() { _ = os.RemoveAll(dir) })
	if err := s.Driver.Make(ctx, dir, r.Kind, dirs); err != nil {
		return nil, diskFull(err)
	}

	if err := failpoint.Hit("snapshots/prepare/made"); err != nil {
		return nil, err
	}
	leave := s.Barrier.Enter()
	defer leave()
	if r.Lease, err = s.lease(ctx, r.Namespace); err != nil {
		return nil, err
	}
	if err := s.write(r); err != nil {
		return nil, diskFull(err)
	}
	undo.Release() // the point of no return
	failpoint.Pass("snapshots/prepare/written")
	s.index.put(r)
	s.Barrier.Touch(s.node(r))
	s.flusher.note(r.ID, false)
	return s.Driver.Mounts(dir, r.Kind, dirs), nil
}

// lease returns the lease of ctx, which must exist.
func (s *Store) lease(ctx context.Context, ns string) (string, error) {
	id, ok := namespaces.Lease(ctx)
	if !ok {
		return "", nil
	}
	exists, err := s.LeaseExists(ns, id)
	if err == nil && !exists {
		err = fmt.Errorf("lease %q: %w", id, errdefs.ErrNotFound)
	}
	return id, err
}

func validate(key string, labels map[string]string) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("snapshot key of %d bytes: %w", len(key), errdefs.ErrInvalidArgument)
	}
	if err := metadata.ValidateLabels(labels); err != nil {
		return fmt.Errorf("snapshot %q: %w", key, err)
	}
	return nil
}

// diskFull attaches the class to errors of a full disk.
func diskFull(err error) error {
	if errors.Is(err, errNoSpace) || errors.Is(err, errQuota) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	}
	return err
}

// Commit turns active key into committed newName.
func (s *Store) Commit(ctx context.Context, newName, key string, labels map[string]string) error {
	return s.CommitOnto(ctx, newName, key, "", labels)
}

// CommitOnto implements Rebaser; onto no parent, the snapshot stays where it is.
func (s *Store) CommitOnto(ctx context.Context, newName, key, parent string, labels map[string]string) error {
	n, r, err := s.find(ctx, key)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := validate(newName, labels); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	usage, err := s.Driver.Usage(ctx, s.dir(r.ID)) // slow: before anybody waits for it
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("commit snapshot %q: measure: %w", key, err)
	}
	target := name{n.namespace, newName}
	names := []name{n, target}
	if n == target {
		names = names[:1]
	}
	release, err := s.index.acquire(ctx, names...)
	if err != nil {
		return err
	}
	defer release()
	if r, err = s.index.get(n); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if _, err := s.index.get(target); err == nil {
		return fmt.Errorf("commit: snapshot %q: %w", newName, errdefs.ErrAlreadyExists)
	}
	if r.Kind != KindActive {
		return fmt.Errorf("commit: snapshot %q is not active: %w", key, errdefs.ErrFailedPrecondition)
	}
	var undo cleanup.Stack
	defer undo.Clean()
	if parent != "" && parent != r.Parent {
		if r, err = s.rebase(r, parent, &undo); err != nil {
			return fmt.Errorf("commit snapshot %q: %w", key, err)
		}
	}
	if err := s.commit(ctx, r, newName, usage, labels); err != nil {
		return fmt.Errorf("commit snapshot %q: %w", key, err)
	}
	undo.Release()
	facts.Publish(ctx, s.Publisher, facts.SnapshotCommitted(s.Driver.Name(), key, newName))
	return nil
}

// rebase returns the record of an active snapshot as a child of parent.
func (s *Store) rebase(r *record, parent string, undo *cleanup.Stack) (*record, error) {
	d, ok := s.Driver.(rebaser)
	if !ok {
		return nil, fmt.Errorf("put a snapshot of %s onto a parent: %w", s.Driver.Name(), errdefs.ErrNotImplemented)
	}
	if r.Parent != "" {
		return nil, fmt.Errorf("put it onto %q, but it is above %q: %w", parent, r.Parent, errdefs.ErrFailedPrecondition)
	}
	p := name{r.Namespace, parent}
	if err := s.index.ref(p); err != nil {
		return nil, err
	}
	undo.Add(func() { s.index.unref(p) })
	c := *r
	c.Parent = parent
	dirs, err := s.parents(&c)
	if err != nil {
		return nil, err
	}
	return &c, d.Rebase(s.dir(r.ID), dirs)
}

func (s *Store) commit(ctx context.Context, r *record, newName string, usage Usage, labels map[string]string) error {
	leave := s.Barrier.Enter()
	defer leave()
	c := *r
	c.Kind, c.Name, c.Labels, c.Usage, c.Boot = KindCommitted, newName, maps.Clone(labels), usage, s.boot
	c.CreatedAt = time.Now().UTC()
	c.UpdatedAt = c.CreatedAt
	var err error
	if c.Lease, err = s.lease(ctx, c.Namespace); err != nil {
		return err
	}
	if err := s.write(&c); err != nil { // the point of no return
		return diskFull(err)
	}
	failpoint.Pass("snapshots/commit/written")
	s.index.put(&c, name{r.Namespace, r.Name})
	s.Barrier.Touch(s.node(&c))
	s.flusher.note(c.ID, true)
	return nil
}

// Update applies info.Labels.
func (s *Store) Update(ctx context.Context, info Info, fieldpaths ...string) (Info, error) {
	return s.change(ctx, info.Name, func(r *record) (err error) {
		r.Labels, err = metadata.MergeLabels(r.Labels, info.Labels, fieldpaths)
		return err
	})
}

// change replaces a record by what fn makes of it.
func (s *Store) change(ctx context.Context, key string, fn func(r *record) error) (Info, error) {
	n, _, err := s.find(ctx, key)
	if err != nil {
		return Info{}, fmt.Errorf("update: %w", err)
	}
	release, err := s.index.acquire(ctx, n)
	if err != nil {
		return Info{}, err
	}
	defer release()
	r, err := s.index.get(n)
	if err != nil {
		return Info{}, fmt.Errorf("update: %w", err)
	}
	c := *r
	if err := fn(&c); err != nil {
		return Info{}, fmt.Errorf("update snapshot %q: %w", key, err)
	}
	c.UpdatedAt = time.Now().UTC()
	leave := s.Barrier.Enter()
	defer leave()
	if err := s.write(&c); err != nil {
		return Info{}, fmt.Errorf("update: %w", diskFull(err))
	}
	s.index.put(&c)
	s.Barrier.Touch(s.node(&c))
	s.flusher.note(c.ID, false)
	return c.info(), nil
}

// Remove forgets key.
func (s *Store) Remove(ctx context.Context, key string) error {
	n, _, err := s.find(ctx, key)
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	release, err := s.index.acquire(ctx, n)
	if err != nil {
		return err
	}
	defer release()
	r, err := s.takeOut(n)
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	failpoint.Pass("snapshots/remove/trashed")
	s.discard()
	s.Changed()
	facts.Publish(ctx, s.Publisher, facts.SnapshotRemoved(s.Driver.Name(), r.Name))
	return nil
}

// takeOut moves a snapshot without children to the trash.
func (s *Store) takeOut(n name) (*record, error) {
	leave := s.Barrier.Enter()
	defer leave()
	r, err := s.index.retire(n)
	if err != nil {
		return nil, err
	}
	if err := s.moveToTrash(r); err != nil {
		s.index.restore(r)
		return nil, err
	}
	return r, nil
}
