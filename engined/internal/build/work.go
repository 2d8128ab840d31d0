package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/files"
	"strata/engined/internal/build/git"
	"strata/engined/internal/build/records"
	"strata/engined/internal/supervisor"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/identifiers"
	"strata/pkg/linux/mount"
	"strata/pkg/manifest"
)

// definition is what a vertex says by itself, without what it builds upon.
func (b *builder) definition(v *dockerfile.Vertex) string {
	type mountDef struct {
		Type, Source, Target, ID, Env string
		ReadOnly                      bool
		Size                          int64
	}
	var def any
	switch {
	case v.Run != nil:
		r := *v.Run
		r.Env = slices.DeleteFunc(slices.Clone(r.Env), func(kv string) bool {
			k, _, _ := strings.Cut(kv, "=")
			return slices.Contains(r.Hides, k)
		})
		var mounts []mountDef
		for _, m := range r.Mounts {
			mounts = append(mounts, mountDef{string(m.Type), m.Source, m.Target, m.ID, m.Env, m.ReadOnly, m.Size})
		}
		def = []any{"run", r.Args, r.Env, r.User, r.Dir, mounts, r.Files, r.Network, r.Insecure, b.r.Network, b.r.ExtraHosts}
		if b.r.Hostname != "" {
			def = []any{def, b.r.Hostname}
		}
	case v.Copy != nil:
		c := v.Copy
		def = []any{"copy", c.Dest, c.Chown, c.Chmod, c.Exclude, c.Parents, c.Unpack, c.Fetched, c.KeepGit, c.Files}
		if len(c.URLs) > 0 { // the same bytes in a file of the context are unpacked
			def = []any{def, "fetched"}
		}
	case v.Mkdir != nil:
		def = []any{"mkdir", v.Mkdir}
	}
	raw, err := json.Marshal(def)
	if err != nil {
		panic("internal error: definition of a vertex: " + err.Error())
	}
	return string(raw) + b.dated
}

// plainKey is known before anything is made; "" if it cannot be.
func (b *builder) plainKey(ctx context.Context, v *dockerfile.Vertex) (string, error) {
	b.mu.Lock()
	k, ok := b.plain[v]
	b.mu.Unlock()
	if ok {
		return k, nil
	}
	k, err := b.makePlainKey(ctx, v)
	if err != nil {
		return "", err
	}
	b.mu.Lock()
	b.plain[v] = k
	b.mu.Unlock()
	return k, nil
}

func (b *builder) makePlainKey(ctx context.Context, v *dockerfile.Vertex) (string, error) {
	if v.Parent == nil {
		if v.Image == nil || v.Image.ChainID == "" {
			return "scratch", nil
		}
		return imageKey(v.Image), nil
	}
	parts := []string{"plain", b.definition(v)}
	layer := b.links.layerOf(v)
	if layer != nil {
		parts[1] = "link" // the layer has the definition
	} else if b.links.stepOf(v) != nil {
		parts[0] = "plain layer"
	}
	for _, in := range append([]*dockerfile.Vertex{v.Parent}, b.inputsOf(v)...) {
		k, err := b.plainKey(ctx, in)
		if err != nil {
			return "", located(in, err)
		}
		if k == "" {
			return "", nil
		}
		parts = append(parts, k)
	}
	if v.Copy != nil && layer == nil {
		more, known, err := b.copyKey(ctx, v.Copy)
		if err != nil || !known {
			return "", err
		}
		parts = append(parts, more...)
	}
	d, err := b.contextMounts(ctx, v)
	return key(append(parts, d)...), err
}

// copyKey is what a COPY or an ADD adds to the plain key: what it names in another
// filesystem, what is in the files that it takes from a context, the commits of
// repositories. It is not known what is at a URL without a checksum.
func (b *builder) copyKey(ctx context.Context, c *dockerfile.Copy) (parts []string, known bool, err error) {
	if len(c.URLs) > 0 {
		if c.Checksum == "" {
			return nil, false, nil
		}
		parts = append(parts, c.URLs[0], c.Checksum.String())
	}
	for _, u := range c.Repos {
		repo, err := repoOf(c, u)
		if err != nil {
			return nil, false, err
		}
		sum, err := b.commit(ctx, repo)
		if err != nil {
			return nil, false, fmt.Errorf("ADD failed: %w", err)
		}
		parts = append(parts, repo.URL, sum, repo.Subdir)
		if repo.KeepDir || repo.NoSubmodules {
			parts = append(parts, fmt.Sprint(repo.KeepDir, repo.NoSubmodules))
		}
	}
	switch {
	case c.From != nil:
		parts = append(parts, fmt.Sprintf("%q", c.Sources))
	case len(c.Sources) > 0:
		_, d, err := b.fromContext(ctx, c)
		if err != nil {
			return nil, false, err
		}
		parts = append(parts, d.String())
	}
	return parts, true, nil
}

// fromContext selects the files of a COPY or ADD from a context.
func (b *builder) fromContext(ctx context.Context, c *dockerfile.Copy) (part, digest.Digest, error) {
	tree, err := b.contextTree(ctx, c.Context)
	if err != nil {
		return part{}, "", err
	}
	items, err := files.Select(tree, files.Wish{Sources: c.Sources, Exclude: c.Exclude, Parents: c.Parents})
	if nf, ok := errors.AsType[*files.NotFoundError](err); ok {
		return part{}, "", fmt.Errorf("COPY failed: %w in build context or excluded by .dockerignore%s", err, dockerfile.Nearest(nf.Name, nf.Near))
	}
	if err != nil {
		return part{}, "", err
	}
	d, err := files.Digest(ctx, tree, items)
	return part{tree, items}, d, err
}

// contextMounts says what is in the parts of the build context that a RUN mounts.
func (b *builder) contextMounts(ctx context.Context, v *dockerfile.Vertex) (string, error) {
	if v.Run == nil {
		return "", nil
	}
	var out []string
	for _, m := range v.Run.Mounts {
		if m.Type != dockerfile.MountBind || !m.FromContext {
			continue
		}
		tree, err := b.contextTree(ctx, m.Context)
		if err != nil {
			return "", err
		}
		items, err := files.Select(tree, files.Wish{Sources: []string{m.Source}})
		if err != nil {
			return "", fmt.Errorf("bind mount: %w in build context", err)
		}
		d, err := files.Digest(ctx, tree, items)
		if err != nil {
			return "", err
		}
		out = append(out, d.String())
	}
	return strings.Join(out, " "), nil
}

// work is a vertex whose inputs are solved.
type work struct {
	v      *dockerfile.Vertex
	parent *records.Record
	inputs []*records.Record
	key    string // content key
	parts  []part // what a COPY or an ADD takes
	undo   cleanup.Stack
}

// part is files of one tree.
type part struct {
	tree  files.Tree
	items []files.Item
}

func (w *work) close() { w.undo.Clean() }

// prepare finds the content key of v and what it takes.
func (b *builder) prepare(ctx context.Context, v *dockerfile.Vertex, parent *records.Record, inputs []*records.Record) (_ *work, err error) {
	w := &work{v: v, parent: parent, inputs: inputs}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	parts := []string{"content", b.definition(v), parent.Key}
	switch {
	case b.links.layerOf(v) != nil:
		parts[1] = "link"
		parts = append(parts, inputs[0].Key)
	case v.Copy != nil:
		if b.links.stepOf(v) != nil {
			parts[0] = "layer"
		}
		sums, err := b.collect(ctx, w)
		if err != nil {
			return nil, err
		}
		parts = append(parts, sums...)
	default:
		sums, err := b.mountKeys(ctx, v, inputs)
		if err != nil {
			return nil, err
		}
		parts = append(parts, sums...)
	}
	d, err := b.contextMounts(ctx, v)
	if err != nil {
		return nil, err
	}
	parts = append(parts, d)
	if b.again(v) {
		parts = append(parts, identifiers.New())
	}
	w.key = key(parts...)
	return w, nil
}

// mountKeys says what is in the filesystems that a RUN mounts. Of a part that is bound, only
// the content counts, however it came to be.
func (b *builder) mountKeys(ctx context.Context, v *dockerfile.Vertex, inputs []*records.Record) (out []string, err error) {
	for _, in := range inputs {
		out = append(out, in.Key)
	}
	if v.Run == nil {
		return out, nil
	}
	next := 0
	for _, m := range v.Run.Mounts {
		if m.From == nil {
			continue
		}
		if m.Type == dockerfile.MountBind && m.Source != "/" {
			if out[next], err = b.contentOf(ctx, inputs[next].Snapshot, m.Source); err != nil {
				return nil, err
			}
		}
		next++
	}
	return out, nil
}

// contentOf returns the digest of a part of a snapshot; of one that is not there, a word.
func (b *builder) contentOf(ctx context.Context, snapshot, name string) (string, error) {
	root, unmount, err := b.s.mountView(ctx, snapshot)
	if err != nil {
		return "", err
	}
	defer unmount()
	tree, err := files.OpenRoot(root)
	if err != nil {
		return "", err
	}
	defer func() { _ = tree.Close() }() // only a descriptor
	items, err := files.Select(tree, files.Wish{Sources: []string{name}})
	if _, missing := errors.AsType[*files.NotFoundError](err); missing {
		return "nothing", nil // the command's mount says so
	}
	if err != nil {
		return "", err
	}
	d, err := files.Digest(ctx, tree, items)
	if err != nil {
		return "", err
	}
	_, n, err := files.Resolve(tree, name)
	return fmt.Sprint(d, n.Mode, n.UID, n.GID), err
}

// collect finds all that a COPY or an ADD takes, and says what it is.
func (b *builder) collect(ctx context.Context, w *work) (sums []string, err error) {
	c := w.v.Copy
	add := func(p part, d digest.Digest) {
		w.parts, sums = append(w.parts, p), append(sums, d.String())
	}
	if len(c.Sources) > 0 {
		var p part
		var d digest.Digest
		if c.From != nil {
			p, d, err = b.fromVertex(ctx, w)
		} else {
			p, d, err = b.fromContext(ctx, c)
		}
		if err != nil {
			return nil, err
		}
		add(p, d)
	}
	if len(c.URLs) > 0 {
		p, d, err := b.fetchAll(ctx, w)
		if err != nil {
			return nil, err
		}
		add(p, d)
	}
	for _, u := range c.Repos {
		p, d, err := b.fromRepo(ctx, c, u)
		if err != nil {
			return nil, err
		}
		add(p, d)
	}
	return sums, nil
}

// fromVertex selects the files of a COPY --from: its filesystem stays mounted until the
// work is closed.
func (b *builder) fromVertex(ctx context.Context, w *work) (part, digest.Digest, error) {
	root, unmount, err := b.s.mountView(ctx, w.inputs[0].Snapshot)
	if err != nil {
		return part{}, "", err
	}
	w.undo.Add(unmount)
	tree, err := files.OpenRoot(root)
	if err != nil {
		return part{}, "", err
	}
	w.undo.Add(func() { _ = tree.Close() }) // only a descriptor
	c := w.v.Copy
	items, err := files.Select(tree, files.Wish{Sources: c.Sources, Exclude: c.Exclude, Parents: c.Parents})
	if nf, ok := errors.AsType[*files.NotFoundError](err); ok {
		return part{}, "", fmt.Errorf("COPY failed: %w in the stage or image that it is copied from%s", err, dockerfile.Nearest(nf.Name, nf.Near))
	}
	if err != nil {
		return part{}, "", err
	}
	d, err := files.Digest(ctx, tree, items)
	return part{tree, items}, d, err
}

// repoOf is a repository as an ADD wants it: its flags count beside what the URL says.
func repoOf(c *dockerfile.Copy, u string) (git.Repo, error) {
	repo, err := git.Parse(u)
	if err == nil && c.Commit != "" && repo.Commit != "" && repo.Commit != c.Commit {
		err = fmt.Errorf("checksum conflicts: %q vs %q: %w", c.Commit, repo.Commit, errdefs.ErrInvalidArgument)
	}
	if c.Commit != "" {
		repo.Commit = c.Commit
	}
	repo.KeepDir = repo.KeepDir || c.KeepGit
	return repo, err
}

// fromRepo selects the files of an ADD of a git repository.
func (b *builder) fromRepo(ctx context.Context, c *dockerfile.Copy, u string) (part, digest.Digest, error) {
	repo, err := repoOf(c, u)
	if err != nil {
		return part{}, "", err
	}
	tree, err := b.repoTree(ctx, repo)
	if err != nil {
		return part{}, "", fmt.Errorf("ADD failed: %w", err)
	}
	items, err := files.Select(tree, files.Wish{Sources: []string{"/"}, Exclude: c.Exclude})
	if err != nil {
		return part{}, "", err
	}
	d, err := files.Digest(ctx, tree, items)
	return part{tree, items}, d, err
}

// rootLabels keep what a record needs from the supervisor's collector.
func rootLabels() map[string]string {
	return map[string]string{labelBuild: "true", "containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}
}

func layerOptions(epoch time.Time, mediaType string) supervisor.LayerOptions {
	return supervisor.LayerOptions{MediaType: mediaType, Epoch: epoch, Labels: rootLabels()}
}

// emptyLayer is the diff id of a tar without entries: 1024 zero bytes.
var emptyLayer = digest.FromBytes(make([]byte, 1024))

// make makes a vertex and keeps its record.
func (b *builder) make(ctx context.Context, w *work, plain string) (_ *records.Record, err error) {
	start := time.Now()
	defer func() {
		if err != nil {
			b.report(w.v, Ending{Err: err, Took: time.Since(start)})
		}
	}()
	if ctx, err = b.leased(ctx); err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	rec := &records.Record{Key: w.key, Parent: w.parent.Key, Snapshot: w.parent.Snapshot, Unchanged: true, Name: w.v.Name, Created: now, LastUsed: now, Uses: 1}
	if b.links.layerOf(w.v) != nil {
		rec.Link, rec.Created = w.inputs[0].Key, w.inputs[0].Created
	}
	placed, err := b.rebase(ctx, w, rec)
	if err == nil && !placed {
		err = b.fill(ctx, w, rec)
	}
	if err != nil {
		return nil, err
	}
	keys := []string{}
	if plain != "" {
		keys = append(keys, plain)
	}
	if err := b.s.cache.Put(rec, keys...); err != nil {
		return nil, err
	}
	b.report(w.v, Ending{Key: rec.Key, Cached: b.links.wasCached(w.v), Took: time.Since(start)})
	return rec, nil
}

// fill does what a vertex says on a new snapshot, which becomes that of its record.
func (b *builder) fill(ctx context.Context, w *work, rec *records.Record) error {
	active := "build-" + identifiers.Short(identifiers.New())
	var undo cleanup.Stack
	defer undo.Clean()
	undo.Add(b.s.hold(active))
	mounts, err := b.s.sup.PrepareSnapshot(ctx, b.s.images.Snapshotter(), active, w.parent.Snapshot, rootLabels())
	if err != nil {
		return fmt.Errorf("prepare snapshot: %w", err)
	}
	undo.Add(func() {
		if !rec.Own { // else it is the committed one now
			b.s.dropSnapshot(ctx, active)
		}
	})
	changed, err := b.perform(ctx, w, mounts)
	if err != nil || !changed {
		return err
	}
	if err := b.commitResult(ctx, w, rec, active, mounts); err != nil {
		return err
	}
	if rec.Layer != nil && b.links.stepOf(w.v) != nil {
		b.links.keep(rec.Key, active)
		kept := undo
		undo.Release()
		b.later(kept.Clean)
	}
	return nil
}

func (b *builder) perform(ctx context.Context, w *work, mounts []mount.Mount) (changed bool, err error) {
	switch {
	case w.v.Run != nil:
		return true, b.run(ctx, w, mounts)
	case b.links.layerOf(w.v) != nil:
		if !b.links.wasCached(w.v) { // people are told nothing between "not begun" and "cached"
			b.begun(w.v)
		}
		l := w.inputs[0].Layer
		if l == nil {
			return false, nil
		}
		return true, b.extract(ctx, *l, mounts)
	case w.v.Copy != nil:
		b.begun(w.v)
		return true, b.place(ctx, w, mounts)
	}
	b.o.Started(w.v, "")
	err = mount.WithTemp(ctx, mounts, func(root string) error {
		owner, err := ownerOf(root, w.v.Mkdir.User)
		if err == nil {
			changed, err = files.Mkdir(ctx, root, w.v.Mkdir.Path, owner)
		}
		return err
	})
	return changed, err
}

// commitResult makes the active snapshot a result, with its layer if it is part of the
// target. Of a layer upon nothing, the snapshot stays for the step that places it.
func (b *builder) commitResult(ctx context.Context, w *work, rec *records.Record, active string, mounts []mount.Mount) error {
	step := b.links.stepOf(w.v)
	alone := step != nil
	switch {
	case rec.Link != "":
		rec.Layer = w.inputs[0].Layer
	case alone || w.v.Exported:
		mediaType := ocispec.MediaTypeImageLayerGzip
		if alone && !step.Exported {
			mediaType = ocispec.MediaTypeImageLayer // it goes nowhere yet; an image that needs it compresses it
		}
		l, err := b.diff(ctx, w.parent.Snapshot, mounts, mediaType)
		if err != nil {
			return err
		}
		if l.DiffID == emptyLayer {
			return nil
		}
		rec.Layer = &l
	}
	if alone {
		rec.Unchanged = false
		return nil
	}
	chain := ""
	if w.v.Exported {
		var err error
		if chain, err = b.chainOf(ctx, w, *rec.Layer); err != nil {
			return err
		}
	}
	return b.settle(ctx, rec, chain, supervisor.Commit{Key: active})
}

// settle commits the active snapshot of a record: under the name that an image's snapshot
// has (chain, "" for none), unless that is taken, or under one of its own.
func (b *builder) settle(ctx context.Context, rec *records.Record, chain string, c supervisor.Commit) error {
	c.Snapshotter, c.Labels = b.s.images.Snapshotter(), rootLabels()
	taken := chain == ""
	if !taken {
		c.Name = chain
		err := b.s.sup.CommitSnapshotOnto(ctx, c)
		if err != nil && !errdefs.IsAlreadyExists(err) {
			return fmt.Errorf("commit snapshot: %w", err)
		}
		taken = err != nil
	}
	if taken {
		c.Name = "build-" + identifiers.Short(identifiers.New()) + "-" + strings.TrimPrefix(rec.Key, "sha256:")[:12]
		if err := b.s.sup.CommitSnapshotOnto(ctx, c); err != nil {
			return fmt.Errorf("commit snapshot: %w", err)
		}
	}
	rec.Snapshot, rec.Own, rec.Unchanged = c.Name, true, false
	size, err := b.s.sup.SnapshotUsage(ctx, c.Snapshotter, rec.Snapshot)
	if err != nil {
		ctxlog.From(ctx).Warn("size of a build record is not known", ctxlog.Error, err)
	}
	rec.Size = size
	return nil
}

// chainOf returns the chain id of w's result.
func (b *builder) chainOf(ctx context.Context, w *work, l records.Layer) (string, error) {
	below, err := b.layersOf(ctx, w.v.Parent, w.parent)
	if err != nil {
		return "", err
	}
	var ids []digest.Digest
	for _, x := range append(below, l) {
		ids = append(ids, x.DiffID)
	}
	chain := manifest.ChainIDs(ids)
	return chain[len(chain)-1].String(), nil
}

// dropSnapshot removes a snapshot that is of no use.
func (s *Service) dropSnapshot(ctx context.Context, name string) {
	ctx, done := cleanup.Context(ctx)
	defer done()
	if err := s.sup.RemoveSnapshot(ctx, s.images.Snapshotter(), name); err != nil && !errdefs.IsNotFound(err) {
		ctxlog.From(ctx).Warn("snapshot of a build was not removed; the next start of the engine will", ctxlog.Snapshot, name, ctxlog.Error, err)
	}
}

// view calls fn with how to mount a committed snapshot read-only; "" gives none.
func (s *Service) view(ctx context.Context, name string, fn func([]mount.Mount) error) error {
	if name == "" {
		return fn(nil)
	}
	k := "build-view-" + identifiers.Short(identifiers.New())
	defer s.hold(k)()
	mounts, err := s.sup.ViewSnapshot(ctx, s.images.Snapshotter(), k, name, rootLabels())
	if err != nil {
		return fmt.Errorf("view snapshot: %w", err)
	}
	defer s.dropSnapshot(ctx, k)
	return fn(mounts)
}
