package snapshottest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"strata/pkg/linux/mount"
	"strata/pkg/namespaces"
	"strata/supervisord/internal/snapshots"
)

// Run checks the Snapshotter that open makes; reopen returns the same one as a new
// process would find it.
func Run(t *testing.T, open func(t *testing.T) (sn snapshots.Snapshotter, reopen func() snapshots.Snapshotter)) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount(2)")
	}
	for name, fn := range map[string]func(*testing.T, *suite){
		"a child sees its parents and its parents do not see it": layers,
		"errors have their classes":                              classes,
		"views are read-only":                                    views,
		"labels change by field mask":                            labels,
		"lists are filtered":                                     lists,
		"namespaces do not see each other":                       tenants,
		"usage counts the snapshot alone":                        usage,
		"one of many wins":                                       race,
		"a restart forgets nothing":                              restart,
		"deep chains mount":                                      deep,
		"what is upon nothing is put onto a parent":              rebase,
	} {
		t.Run(name, func(t *testing.T) {
			sn, reopen := open(t)
			fn(t, &suite{Snapshotter: sn, reopen: reopen, ctx: namespaces.With(t.Context(), "test")})
		})
	}
}

type suite struct {
	snapshots.Snapshotter
	reopen func() snapshots.Snapshotter
	ctx    context.Context //nolint:containedctx // of one test
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantClass(t *testing.T, what string, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s = %v, want class %v", what, err, class)
	}
}

// in mounts and runs fn on the root.
func in(t *testing.T, mounts []mount.Mount, fn func(root string)) {
	t.Helper()
	target := t.TempDir()
	must(t, mount.All(mounts, target))
	defer func() { must(t, mount.Unmount(target)) }()
	fn(target)
}

func put(t *testing.T, root, name, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
	must(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o644))
}

func want(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		data, err := os.ReadFile(filepath.Join(root, name))
		switch {
		case content == "" && !errors.Is(err, os.ErrNotExist):
			t.Errorf("%s is there: %v", name, err)
		case content != "" && string(data) != content:
			t.Errorf("%s = %q, %v; want %q", name, data, err, content)
		}
	}
}

// commit makes a committed snapshot with files.
func (s *suite) commit(t *testing.T, name, parent string, files map[string]string) {
	t.Helper()
	key := "extract " + name
	mounts, err := s.Prepare(s.ctx, key, parent, nil)
	must(t, err)
	in(t, mounts, func(root string) {
		for n, c := range files {
			if c == "" {
				must(t, os.Remove(filepath.Join(root, n)))
				continue
			}
			put(t, root, n, c)
		}
	})
	must(t, s.Commit(s.ctx, name, key, nil))
}

func layers(t *testing.T, s *suite) {
	s.commit(t, "base", "", map[string]string{"a": "1", "b": "1", "dir/x": "1"})
	s.commit(t, "top", "base", map[string]string{"a": "2", "b": "", "dir/y": "2"})
	mounts, err := s.Prepare(s.ctx, "active", "top", map[string]string{"k": "v"})
	must(t, err)
	in(t, mounts, func(root string) {
		want(t, root, map[string]string{"a": "2", "b": "", "dir/x": "1", "dir/y": "2"})
		put(t, root, "a", "3")
		must(t, os.Remove(filepath.Join(root, "dir/x")))
	})
	again, err := s.Mounts(s.ctx, "active")
	must(t, err)
	in(t, again, func(root string) { want(t, root, map[string]string{"a": "3", "dir/x": "", "dir/y": "2"}) })
	for key, files := range map[string]map[string]string{"base": {"a": "1", "b": "1", "dir/x": "1", "dir/y": ""}, "top": {"a": "2", "b": "", "dir/x": "1"}} {
		view, err := s.View(s.ctx, "view of "+key, key, nil)
		must(t, err)
		in(t, view, func(root string) { want(t, root, files) })
	}
	info, err := s.Stat(s.ctx, "active")
	must(t, err)
	if info.Kind != snapshots.KindActive || info.Parent != "top" || info.Labels["k"] != "v" || info.CreatedAt.IsZero() {
		t.Errorf("Stat = %+v", info)
	}
}

// rebase is for those that can.
func rebase(t *testing.T, s *suite) {
	s.commit(t, "base", "", map[string]string{"a": "1", "dir/x": "1"})
	mounts, err := s.Prepare(s.ctx, "alone", "", nil)
	must(t, err)
	in(t, mounts, func(root string) { put(t, root, "a", "2"); put(t, root, "dir/y", "2") })
	r, ok := s.Snapshotter.(snapshots.Rebaser)
	if !ok {
		return
	}
	err = r.CommitOnto(s.ctx, "top", "alone", "base", nil)
	if errdefs.IsNotImplemented(err) {
		must(t, s.Commit(s.ctx, "top", "alone", nil)) // it is as it was
		return
	}
	must(t, err)
	for range 2 {
		view, err := s.View(s.ctx, "view", "top", nil)
		must(t, err)
		in(t, view, func(root string) { want(t, root, map[string]string{"a": "2", "dir/x": "1", "dir/y": "2"}) })
		must(t, s.Remove(s.ctx, "view"))
		wantClass(t, "Remove of what something was put onto", s.Remove(s.ctx, "base"), errdefs.ErrFailedPrecondition)
		s.Snapshotter = s.reopen()
	}
	r, _ = s.Snapshotter.(snapshots.Rebaser)
	_, err = s.Prepare(s.ctx, "above", "base", nil)
	must(t, err)
	_, err = s.Prepare(s.ctx, "active", "", nil)
	must(t, err)
	wantClass(t, "CommitOnto another parent", r.CommitOnto(s.ctx, "n", "above", "top", nil), errdefs.ErrFailedPrecondition)
	wantClass(t, "CommitOnto nothing", r.CommitOnto(s.ctx, "n", "active", "missing", nil), errdefs.ErrNotFound)
	wantClass(t, "CommitOnto what is not committed", r.CommitOnto(s.ctx, "n", "active", "above", nil), errdefs.ErrFailedPrecondition)
	must(t, s.Remove(s.ctx, "top"))
	must(t, s.Remove(s.ctx, "above"))
	must(t, s.Remove(s.ctx, "base")) // nobody holds it by what has failed
}

func classes(t *testing.T, s *suite) {
	s.commit(t, "base", "", map[string]string{"a": "1"})
	_, err := s.Prepare(s.ctx, "active", "base", nil)
	must(t, err)
	_, err = s.Prepare(s.ctx, "active", "base", nil)
	wantClass(t, "second Prepare", err, errdefs.ErrAlreadyExists)
	_, err = s.Prepare(s.ctx, "base", "", nil)
	wantClass(t, "Prepare of a committed name", err, errdefs.ErrAlreadyExists)
	_, err = s.Prepare(s.ctx, "x", "missing", nil)
	wantClass(t, "Prepare above nothing", err, errdefs.ErrNotFound)
	_, err = s.Prepare(s.ctx, "x", "active", nil)
	wantClass(t, "Prepare above an active snapshot", err, errdefs.ErrFailedPrecondition)
	_, err = s.Prepare(s.ctx, "", "base", nil)
	wantClass(t, "Prepare without key", err, errdefs.ErrInvalidArgument)
	_, err = s.Prepare(s.ctx, "x", "", map[string]string{"k": string(make([]byte, 5000))})
	wantClass(t, "Prepare with a long label", err, errdefs.ErrInvalidArgument)
	wantClass(t, "Remove of a parent", s.Remove(s.ctx, "base"), errdefs.ErrFailedPrecondition)
	wantClass(t, "Commit of nothing", s.Commit(s.ctx, "n", "missing", nil), errdefs.ErrNotFound)
	wantClass(t, "Commit to a name in use", s.Commit(s.ctx, "base", "active", nil), errdefs.ErrAlreadyExists)
	wantClass(t, "Commit of a committed one", s.Commit(s.ctx, "n", "base", nil), errdefs.ErrFailedPrecondition)
	_, err = s.Mounts(s.ctx, "missing")
	wantClass(t, "Mounts", err, errdefs.ErrNotFound)
	_, err = s.Usage(s.ctx, "missing")
	wantClass(t, "Usage", err, errdefs.ErrNotFound)
	_, err = s.Stat(context.Background(), "base")
	wantClass(t, "Stat without a namespace", err, errdefs.ErrFailedPrecondition)
	must(t, s.Remove(s.ctx, "active"))
	must(t, s.Remove(s.ctx, "base"))
	wantClass(t, "second Remove", s.Remove(s.ctx, "base"), errdefs.ErrNotFound)
	must(t, s.Cleanup(s.ctx))
}

func views(t *testing.T, s *suite) {
	s.commit(t, "base", "", map[string]string{"a": "1"})
	s.commit(t, "top", "base", map[string]string{"b": "1"})
	for _, parent := range []string{"", "base", "top"} {
		mounts, err := s.View(s.ctx, "view "+parent, parent, nil)
		must(t, err)
		in(t, mounts, func(root string) {
			if err := os.WriteFile(filepath.Join(root, "new"), nil, 0o644); err == nil {
				t.Errorf("view of %q was written to", parent)
			}
		})
		wantClass(t, "Commit of a view", s.Commit(s.ctx, "n", "view "+parent, nil), errdefs.ErrFailedPrecondition)
	}
}

func labels(t *testing.T, s *suite) {
	s.commit(t, "base", "", map[string]string{"a": "1"})
	for _, tt := range []struct {
		set   map[string]string
		paths []string
		want  map[string]string
	}{
		{map[string]string{"a": "1", "b": "2"}, nil, map[string]string{"a": "1", "b": "2"}},
		{map[string]string{"b": "3", "c": "ignored"}, []string{"labels.b"}, map[string]string{"a": "1", "b": "3"}},
		{map[string]string{"a": ""}, []string{"labels.a"}, map[string]string{"b": "3"}},
		{map[string]string{"x.y/z": "1"}, []string{"labels"}, map[string]string{"x.y/z": "1"}},
	} {
		info, err := s.Update(s.ctx, snapshots.Info{Name: "base", Labels: tt.set}, tt.paths...)
		must(t, err)
		stat, err := s.Stat(s.ctx, "base")
		must(t, err)
		if fmt.Sprint(info.Labels) != fmt.Sprint(tt.want) || fmt.Sprint(stat.Labels) != fmt.Sprint(tt.want) {
			t.Errorf("labels %v by %q: %v, then %v; want %v", tt.set, tt.paths, info.Labels, stat.Labels, tt.want)
		}
	}
	_, err := s.Update(s.ctx, snapshots.Info{Name: "base"}, "parent")
	wantClass(t, "Update of the parent", err, errdefs.ErrInvalidArgument)
	_, err = s.Update(s.ctx, snapshots.Info{Name: "missing"})
	wantClass(t, "Update of nothing", err, errdefs.ErrNotFound)
}

func lists(t *testing.T, s *suite) {
	s.commit(t, "base", "", map[string]string{"a": "1"})
	for _, key := range []string{"b", "a"} {
		_, err := s.Prepare(s.ctx, key, "base", map[string]string{"l": key})
		must(t, err)
	}
	for _, tt := range []struct {
		filters []string
		want    []string
	}{
		{nil, []string{"a", "b", "base"}},
		{[]string{"kind==active"}, []string{"a", "b"}},
		{[]string{"parent==base,labels.l==b", "name==base"}, []string{"b", "base"}},
	} {
		var got []string
		must(t, s.Walk(s.ctx, func(i snapshots.Info) error { got = append(got, i.Name); return nil }, tt.filters...))
		if !slices.Equal(got, tt.want) {
			t.Errorf("Walk(%q) = %q, want %q", tt.filters, got, tt.want)
		}
	}
	wantClass(t, "bad filter", s.Walk(s.ctx, func(snapshots.Info) error { return nil }, "kind="), errdefs.ErrInvalidArgument)
	wantClass(t, "error of fn", s.Walk(s.ctx, func(snapshots.Info) error { return os.ErrClosed }), os.ErrClosed)
}

func tenants(t *testing.T, s *suite) {
	s.commit(t, "base", "", map[string]string{"a": "1"})
	other := namespaces.With(s.ctx, "other")
	_, err := s.Stat(other, "base")
	wantClass(t, "Stat in another namespace", err, errdefs.ErrNotFound)
	_, err = s.Prepare(other, "x", "base", nil)
	wantClass(t, "Prepare above another namespace's", err, errdefs.ErrNotFound)
	_, err = s.Prepare(other, "base", "", nil)
	must(t, err)
	must(t, s.Remove(other, "base"))
	_, err = s.Stat(s.ctx, "base")
	must(t, err)
}

func usage(t *testing.T, s *suite) {
	s.commit(t, "base", "", map[string]string{"a": string(make([]byte, 1<<20))})
	u, err := s.Usage(s.ctx, "base")
	must(t, err)
	if u.Size < 1<<20 || u.Size > 2<<20 || u.Inodes != 2 {
		t.Errorf("usage of 1 MiB in one file = %+v", u)
	}
	_, err = s.Prepare(s.ctx, "active", "", nil)
	must(t, err)
	if u, err := s.Usage(s.ctx, "active"); err != nil || u.Inodes != 1 {
		t.Errorf("usage of nothing = %+v, %v", u, err)
	}
}

// race has many prepare and commit the same layer, as parallel pulls do.
func race(t *testing.T, s *suite) {
	var wg sync.WaitGroup
	won := make(chan int, 16)
	for i := range 16 {
		wg.Go(func() {
			key := fmt.Sprintf("extract-%d layer", i)
			if _, err := s.Prepare(s.ctx, key, "", nil); err != nil {
				t.Errorf("Prepare %q: %v", key, err)
				return
			}
			switch err := s.Commit(s.ctx, "layer", key, nil); {
			case err == nil:
				won <- i
			case !errors.Is(err, errdefs.ErrAlreadyExists):
				t.Errorf("Commit: %v, want class ErrAlreadyExists", err)
			default:
				// What is said to exist can be used at once.
				if _, err := s.View(s.ctx, key+" view", "layer", nil); err != nil {
					t.Errorf("View after ErrAlreadyExists: %v", err)
				}
				if err := s.Remove(s.ctx, key); err != nil {
					t.Errorf("Remove: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%d of 16 committed the same name", len(won))
	}
}

func restart(t *testing.T, s *suite) {
	s.commit(t, "base", "", map[string]string{"a": "1"})
	s.commit(t, "top", "base", map[string]string{"b": "2"})
	mounts, err := s.Prepare(s.ctx, "active", "top", map[string]string{"k": "v"})
	must(t, err)
	in(t, mounts, func(root string) { put(t, root, "c", "3") })
	_, err = s.Prepare(s.ctx, "removed", "top", nil)
	must(t, err)
	must(t, s.Remove(s.ctx, "removed"))
	var before, after []snapshots.Info
	must(t, s.Walk(s.ctx, func(i snapshots.Info) error { before = append(before, i); return nil }))
	s.Snapshotter = s.reopen()
	must(t, s.Walk(s.ctx, func(i snapshots.Info) error { after = append(after, i); return nil }))
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("before %v\nafter %v", before, after)
	}
	mounts, err = s.Mounts(s.ctx, "active")
	must(t, err)
	in(t, mounts, func(root string) { want(t, root, map[string]string{"a": "1", "b": "2", "c": "3"}) })
	wantClass(t, "Remove of a parent", s.Remove(s.ctx, "base"), errdefs.ErrFailedPrecondition)
	_, err = s.Prepare(s.ctx, "new", "top", nil)
	must(t, err)
	must(t, s.Cleanup(s.ctx))
}

// deep makes more layers than mount(2) takes.
func deep(t *testing.T, s *suite) {
	const n = 140
	parent := ""
	for i := range n {
		name := fmt.Sprintf("layer-%03d", i)
		key := "extract " + name
		mounts, err := s.Prepare(s.ctx, key, parent, nil)
		must(t, err)
		if upper, ok := mounts[0].UpperDir(); ok {
			put(t, upper, name, name)
		}
		must(t, s.Commit(s.ctx, name, key, nil))
		parent = name
	}
	mounts, err := s.Prepare(s.ctx, "active", parent, nil)
	must(t, err)
	in(t, mounts, func(root string) {
		for _, i := range []int{0, 70, n - 1} {
			name := fmt.Sprintf("layer-%03d", i)
			want(t, root, map[string]string{name: name})
		}
	})
}
