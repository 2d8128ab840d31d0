package build

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/images"
	"strata/pkg/ctxlog"
	"strata/pkg/linux/mount"
	"strata/pkg/manifest"
)

// CommandError is a RUN that failed.
type CommandError struct {
	Command string
	Code    int
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("The command '%s' returned a non-zero code: %d", e.Command, e.Code)
}

// Build makes an image and gives it its names. Errors: *dockerfile.Error for mistakes in
// the Dockerfile, *CommandError, ErrNotFound for missing images and files,
// ErrInvalidArgument, context.Canceled.
func (s *Service) Build(ctx context.Context, r Request, o Observer) (Result, error) {
	if err := r.check(); err != nil {
		return Result{}, err
	}
	b := &builder{s: s, r: r, o: o, plain: map[*dockerfile.Vertex]string{}, solving: map[*dockerfile.Vertex]*promise{}, reported: map[*dockerfile.Vertex]bool{}}
	defer b.end()
	plan, err := b.compile(ctx)
	if err != nil {
		return Result{}, err
	}
	exclude, err := patterns(r.Dockerfile.Ignore)
	if err != nil {
		return Result{}, err
	}
	b.plan, b.context = plan, &lazy{source: r.Context, paths: contextPaths(plan), exclude: exclude}
	o.Planned([]*dockerfile.Plan{plan})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends what a failure has left running
	top, err := b.solve(ctx, plan.Target)
	if err != nil {
		cancel()
		b.wait()
		return Result{}, err
	}
	img, err := b.export(ctx, top)
	if err != nil {
		return Result{}, err
	}
	if b.held != nil { // something was made
		if _, err := s.pruned(ctx, PruneRequest{Keep: s.cfg.Keep, All: true, auto: true}); err != nil {
			ctxlog.From(ctx).Warn("build cache was not brought below its limit; the next build will", ctxlog.Error, err)
		}
	}
	return Result{Target: img.Target, Image: img, Platforms: []ocispec.Platform{plan.Platform}, Response: response(r, img)}, nil
}

// check refuses what is not implemented.
func (r *Request) check() error {
	missing := func(what string) error { return fmt.Errorf("%s: %w", what, errdefs.ErrNotImplemented) }
	switch {
	case len(r.Platforms) > 1:
		return missing("several platforms in one build")
	case len(r.Named) > 0:
		return missing("--build-context")
	case len(r.Annotations) > 0:
		return missing("--annotation")
	case len(r.CacheFrom)+len(r.CacheTo) > 0:
		return missing("--cache-from and --cache-to")
	case len(r.NoCacheFilter) > 0:
		return missing("--no-cache-filter")
	case r.Provenance.Mode != "":
		return missing("--provenance")
	case r.Provenance.SBOM:
		return missing("--sbom")
	}
	for _, o := range r.Outputs {
		if o.Type != OutputImage || len(o.Attrs) > 0 {
			return missing("--output type=" + o.Type)
		}
	}
	return nil
}

// response is what BuildKit's image exporter says.
func response(r Request, img images.Image) map[string]string {
	out := map[string]string{"containerimage.digest": img.Target.Digest.String(), "containerimage.config.digest": img.ID.String()}
	if d, err := json.Marshal(img.Target); err == nil {
		out["containerimage.descriptor"] = base64.StdEncoding.EncodeToString(d)
	}
	if len(r.Tags) > 0 {
		out["image.name"] = strings.Join(r.Tags, ",")
	}
	return out
}

// builder is one build.
type builder struct {
	s       *Service
	r       Request
	o       Observer
	plan    *dockerfile.Plan
	context *lazy

	mu       sync.Mutex
	plain    map[*dockerfile.Vertex]string
	solving  map[*dockerfile.Vertex]*promise
	reported map[*dockerfile.Vertex]bool
	undo     []func()

	wg    sync.WaitGroup
	lease sync.Once
	held  func(context.Context) context.Context
}

// promise is the result of a vertex, once done is closed.
type promise struct {
	done chan struct{}
	rec  *Record
	err  error
}

func (b *builder) wait() { b.wg.Wait() }

// end lets go of all that the build held.
func (b *builder) end() {
	b.wg.Wait()
	b.mu.Lock()
	undo := b.undo
	b.mu.Unlock()
	for _, fn := range slices.Backward(undo) {
		fn()
	}
}

func (b *builder) later(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.undo = append(b.undo, fn)
}

// leased returns ctx with the build's lease, which is taken when something is made.
func (b *builder) leased(ctx context.Context) (context.Context, error) {
	var err error
	b.lease.Do(func() {
		var lctx context.Context
		var done func()
		if lctx, done, err = b.s.sup.WithLease(ctx); err == nil {
			b.later(done)
			b.held = func(c context.Context) context.Context { return withValues{c, lctx} }
		}
	})
	if err != nil {
		return nil, err
	}
	if b.held == nil {
		return nil, fmt.Errorf("build has no lease: %w", errdefs.ErrUnavailable)
	}
	return b.held(ctx), nil
}

// withValues is a context with the values of another.
type withValues struct {
	context.Context //nolint:containedctx // it is one
	values          context.Context
}

func (w withValues) Value(key any) any {
	if v := w.values.Value(key); v != nil {
		return v
	}
	return w.Context.Value(key)
}

func (b *builder) compile(ctx context.Context) (*dockerfile.Plan, error) {
	target := b.s.host
	if len(b.r.Platforms) > 0 {
		target = platforms.Normalize(b.r.Platforms[0])
	}
	return dockerfile.Compile(ctx, b.r.Dockerfile.Text, dockerfile.Options{
		Args: b.r.Args, Labels: b.r.Labels, Target: b.r.Target, Platform: target, Host: b.s.host, Base: b.base,
	})
}

// base finds or pulls an image to build upon.
func (b *builder) base(ctx context.Context, ref string, p ocispec.Platform) (*dockerfile.Base, error) {
	img, err := b.s.images.Resolve(ctx, ref, &p)
	if errdefs.IsNotFound(err) || b.r.Pull && err == nil {
		if perr := b.pull(ctx, ref, p); perr != nil {
			return nil, perr
		}
		img, err = b.s.images.Resolve(ctx, ref, &p)
	}
	if err != nil {
		return nil, err
	}
	out := &dockerfile.Base{
		Name: ref, ID: img.ID, ChainID: img.ChainID, Layers: img.Layers, DiffIDs: img.Config.RootFS.DiffIDs,
		Platform: img.Config.Platform, History: completed(img.Config),
	}
	if len(img.RawConfig) > 0 {
		if err := json.Unmarshal(img.RawConfig, &out.Config); err != nil {
			return nil, fmt.Errorf("configuration of image %s: %w: %w", ref, err, errdefs.ErrDataLoss)
		}
	}
	return out, nil
}

// completed returns the history of an image with a line for each layer that has none, so
// that what is added says the right thing about the layers above.
func completed(cfg ocispec.Image) []ocispec.History {
	out := slices.Clone(cfg.History)
	layers := 0
	for _, h := range out {
		if !h.EmptyLayer {
			layers++
		}
	}
	for ; layers < len(cfg.RootFS.DiffIDs); layers++ {
		out = append(out, ocispec.History{Created: cfg.Created, Comment: "imported from a layer without history"})
	}
	return out
}

func (b *builder) pull(ctx context.Context, ref string, p ocispec.Platform) error {
	r := images.PullRequest{Image: ref, Platform: platforms.Format(p)}
	if named, err := images.ParseName(ref, ""); err == nil {
		if b.r.Auth != nil {
			if r.Auth, err = b.r.Auth(ctx, hostOf(named.String())); err != nil {
				return fmt.Errorf("credentials for %s: %w", ref, err)
			}
		}
		if !strings.Contains(ref, "@") {
			r.Tag = named.Tag()
		}
	}
	return b.s.images.Pull(ctx, r, func(m images.Progress) { b.o.Pulling(ref, m.ID, m.Status, m.Current, m.Total) })
}

func hostOf(name string) string {
	host, _, _ := strings.Cut(name, "/")
	return host
}

// solve returns the record of v; it is made once.
func (b *builder) solve(ctx context.Context, v *dockerfile.Vertex) (*Record, error) {
	b.mu.Lock()
	p, ok := b.solving[v]
	if !ok {
		p = &promise{done: make(chan struct{})}
		b.solving[v] = p
	}
	b.mu.Unlock()
	if !ok {
		p.rec, p.err = b.solveOnce(ctx, v)
		close(p.done)
	}
	select {
	case <-p.done:
		return p.rec, p.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (b *builder) solveOnce(ctx context.Context, v *dockerfile.Vertex) (*Record, error) {
	if v.Parent == nil {
		return b.bottom(ctx, v)
	}
	plain, err := b.plainKey(ctx, v)
	if err != nil {
		return nil, located(v, err)
	}
	if plain != "" && !b.r.NoCache {
		if rec, ok := b.s.cache.alias(plain); ok && b.usable(ctx, rec) {
			b.cached(v, rec)
			return rec, nil
		}
	}
	var parent *Record
	inputs := make([]*Record, len(v.Inputs()))
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { parent, err = b.solve(gctx, v.Parent); return err })
	for i, in := range v.Inputs() {
		g.Go(func() (err error) { inputs[i], err = b.solve(gctx, in); return err })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	w, err := b.prepare(ctx, v, parent, inputs)
	if err != nil {
		return nil, located(v, err)
	}
	defer w.close()
	if !b.r.NoCache {
		if rec, ok := b.s.cache.get(w.key); ok && b.usable(ctx, rec) {
			if plain != "" {
				if err := b.s.cache.link(plain, w.key); err != nil {
					return nil, err
				}
			}
			b.cached(v, rec)
			return rec, nil
		}
	}
	rec, err := b.once(ctx, w, plain)
	return rec, located(v, err)
}

// located says at which lines of the Dockerfile something went wrong.
func located(v *dockerfile.Vertex, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*StepError](err); ok {
		return err
	}
	return &StepError{Step: v.Name, Lines: v.Lines, Err: err}
}

// StepError is an error at an instruction.
type StepError struct {
	Step  string
	Lines [2]int // of the Dockerfile; zero if unknown
	Err   error
}

func (e *StepError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }

// bottom is the record of an image or of the empty filesystem.
func (b *builder) bottom(ctx context.Context, v *dockerfile.Vertex) (*Record, error) {
	if v.Image == nil || v.Image.ChainID == "" {
		b.report(v, Ending{Key: "scratch"})
		return &Record{Key: "scratch"}, nil
	}
	b.o.Started(v, "")
	img, err := b.s.images.Resolve(ctx, v.Image.ID.String(), nil)
	if err == nil {
		err = b.s.images.EnsureUnpacked(ctx, img)
	}
	rec := &Record{Key: imageKey(v.Image), Snapshot: v.Image.ChainID.String()}
	b.report(v, Ending{Key: rec.Key, Err: err})
	return rec, err
}

func imageKey(i *dockerfile.Base) string { return "image:" + i.ChainID.String() }

// usable reports whether a record's snapshot, and all records below it, are there; they
// stay while the build runs.
func (b *builder) usable(ctx context.Context, rec *Record) bool {
	b.later(b.s.hold(rec.Key))
	for r := rec; isRecord(r.Parent); {
		below, ok := b.s.cache.get(r.Parent)
		if !ok {
			return false
		}
		r = below
	}
	if rec.Snapshot == "" {
		return true
	}
	_, err := b.s.sup.StatSnapshot(ctx, b.s.images.Snapshotter(), rec.Snapshot)
	return err == nil
}

// isRecord reports whether a key is that of a record rather than of an image or nothing.
func isRecord(key string) bool { return strings.HasPrefix(key, "sha256:") }

// cached reports v, and all below it that nobody has to look at, as cached.
func (b *builder) cached(v *dockerfile.Vertex, rec *Record) {
	b.s.cache.use(rec.Key)
	var visit func(v *dockerfile.Vertex, key string)
	visit = func(v *dockerfile.Vertex, key string) {
		if v == nil {
			return
		}
		if key == "" {
			b.mu.Lock()
			key = b.plain[v]
			b.mu.Unlock()
		}
		if !b.report(v, Ending{Key: key, Cached: true}) {
			return
		}
		for _, in := range v.Inputs() {
			visit(in, "")
		}
		visit(v.Parent, "")
	}
	visit(v, rec.Key)
}

// report tells the end of v once.
func (b *builder) report(v *dockerfile.Vertex, e Ending) bool {
	b.mu.Lock()
	said := b.reported[v]
	b.reported[v] = true
	b.mu.Unlock()
	if !said {
		b.o.Ended(v, e)
	}
	return !said
}

// once makes a vertex unless another build is making the same one, and then waits for it.
func (b *builder) once(ctx context.Context, w *work, plain string) (*Record, error) {
	for {
		b.s.mu.Lock()
		f, other := b.s.flight[w.key]
		if !other {
			f = &flight{done: make(chan struct{})}
			b.s.flight[w.key] = f
		}
		b.s.mu.Unlock()
		if !other {
			b.later(b.s.hold(w.key))
			b.wg.Add(1)
			f.rec, f.err = b.make(ctx, w, plain)
			b.wg.Done()
			b.s.mu.Lock()
			delete(b.s.flight, w.key)
			b.s.mu.Unlock()
			close(f.done)
			return f.rec, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if f.err == nil && b.usable(ctx, f.rec) {
			if plain != "" {
				if err := b.s.cache.link(plain, w.key); err != nil {
					return nil, err
				}
			}
			b.cached(w.v, f.rec)
			return f.rec, nil
		}
		if _, failed := errors.AsType[*CommandError](f.err); failed {
			b.report(w.v, Ending{Err: f.err})
			return nil, f.err
		}
		// The other build was cancelled, or its result is gone: it is our turn.
	}
}

// key hashes parts, each with its length.
func key(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// ShortHash names a text.
func ShortHash(text string) string { return key(text)[len("sha256:") : len("sha256:")+12] }

// layersOf returns the layers of a record's filesystem, lowest first; those that nobody
// has needed before are made now.
func (b *builder) layersOf(ctx context.Context, v *dockerfile.Vertex, rec *Record) ([]Layer, error) {
	var own []Layer
	for ; v.Parent != nil; v = v.Parent {
		below, err := b.below(v, rec)
		if err != nil {
			return nil, err
		}
		if !rec.Unchanged {
			if rec, err = b.ensureLayer(ctx, rec, below.Snapshot); err != nil {
				return nil, err
			}
			own = append(own, *rec.Layer)
		}
		rec = below
	}
	var out []Layer
	if v.Image != nil {
		for i, l := range v.Image.Layers {
			out = append(out, Layer{l, v.Image.DiffIDs[i]})
		}
	}
	slices.Reverse(own)
	return append(out, own...), nil
}

// below returns the record of what v builds upon.
func (b *builder) below(v *dockerfile.Vertex, rec *Record) (*Record, error) {
	if isRecord(rec.Parent) {
		below, ok := b.s.cache.get(rec.Parent)
		if !ok {
			return nil, fmt.Errorf("build cache lacks %s: %w", rec.Parent, errdefs.ErrDataLoss)
		}
		return below, nil
	}
	if img := v.Parent.Image; img != nil && img.ChainID != "" {
		return &Record{Key: rec.Parent, Snapshot: img.ChainID.String()}, nil
	}
	return &Record{Key: rec.Parent}, nil
}

// ensureLayer writes the layer of a record that has none.
func (b *builder) ensureLayer(ctx context.Context, rec *Record, lower string) (*Record, error) {
	if rec.Layer != nil {
		if _, err := b.s.sup.ContentInfo(ctx, rec.Layer.Descriptor.Digest); err == nil || !errdefs.IsNotFound(err) {
			return rec, err
		}
	}
	var l Layer
	err := b.s.view(ctx, rec.Snapshot, func(upper []mount.Mount) error {
		var err error
		l, err = b.diff(ctx, lower, upper)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := *rec
	out.Layer = &l
	return &out, b.s.cache.put(&out)
}

// diff writes what upper changed above snapshot lower as a layer that stays.
func (b *builder) diff(ctx context.Context, lower string, upper []mount.Mount) (Layer, error) {
	ctx, err := b.leased(ctx)
	if err != nil {
		return Layer{}, err
	}
	epoch, err := dockerfile.Epoch(b.r.Args)
	if err != nil {
		return Layer{}, err
	}
	var l Layer
	err = b.s.view(ctx, lower, func(low []mount.Mount) error {
		d, err := b.s.sup.DiffLayer(ctx, low, upper, layerOptions(epoch))
		if err != nil {
			return err
		}
		l.Descriptor = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
		diffID := d.Annotations[manifest.LabelUncompressed]
		if diffID == "" {
			info, err := b.s.sup.ContentInfo(ctx, d.Digest)
			if err != nil {
				return err
			}
			diffID = info.Labels[manifest.LabelUncompressed]
		}
		l.DiffID, err = digest.Parse(diffID)
		return err
	})
	return l, err
}
