package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/records"
)

// CommandError is a RUN that failed.
type CommandError struct {
	Command string
	Code    int
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("The command '%s' returned a non-zero code: %d", e.Command, e.Code)
}

// promise is the result of a vertex, once done is closed.
type promise struct {
	done chan struct{}
	rec  *records.Record
	err  error
}

// solve returns the record of v; it is made once.
func (b *builder) solve(ctx context.Context, v *dockerfile.Vertex) (*records.Record, error) {
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

func (b *builder) solveOnce(ctx context.Context, v *dockerfile.Vertex) (*records.Record, error) {
	if v.Parent == nil {
		return b.bottom(ctx, v)
	}
	plain, err := b.plainKey(ctx, v)
	if err != nil {
		return nil, located(v, err)
	}
	stale := b.isStale(v)
	if plain != "" && !stale {
		if rec, ok := b.s.cache.Alias(plain); ok && b.usable(ctx, rec) {
			b.cached(v, rec)
			return rec, nil
		}
	}
	placed := b.links.layerOf(v) != nil // of a cache elsewhere, it takes the layer alone
	if !stale && !placed {
		if rec, err := b.fromElsewhere(ctx, v, plain); err != nil || rec != nil {
			if rec != nil {
				b.cached(v, rec)
			}
			return rec, located(v, err)
		}
	}
	var parent *records.Record
	needed := b.inputsOf(v)
	inputs := make([]*records.Record, len(needed))
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { parent, err = b.solve(gctx, v.Parent); return err })
	for i, in := range needed {
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
	if !b.again(v) {
		if rec, ok := b.s.cache.Get(w.key); ok && b.usable(ctx, rec) {
			if plain != "" {
				if err := b.s.cache.Link(plain, w.key); err != nil {
					return nil, err
				}
			}
			b.cached(v, rec)
			return rec, nil
		}
	}
	if f, ok := b.imported(ctx, w.key); ok && !placed && !b.again(v) {
		rec, err := b.adopt(ctx, v, parent, f, plain)
		if err != nil || rec != nil {
			if rec != nil {
				b.cached(v, rec)
			}
			return rec, located(v, err)
		}
	}
	rec, err := b.once(ctx, w, plain)
	return rec, located(v, err)
}

// again reports whether v is to be made even if the cache has it.
func (b *builder) again(v *dockerfile.Vertex) bool {
	return b.r.NoCache || slices.ContainsFunc(b.r.NoCacheFilter, func(name string) bool { return strings.EqualFold(name, v.Stage) })
}

// isStale reports whether v, or something that it is built upon, is to be made again: its
// plain key says nothing then.
func (b *builder) isStale(v *dockerfile.Vertex) bool {
	if b.r.NoCache || len(b.r.NoCacheFilter) == 0 || v.Parent == nil {
		return b.r.NoCache
	}
	b.mu.Lock()
	stale, ok := b.stale[v]
	b.mu.Unlock()
	if ok {
		return stale
	}
	stale = b.again(v) || b.isStale(v.Parent) || slices.ContainsFunc(v.Inputs(), b.isStale)
	b.mu.Lock()
	b.stale[v] = stale
	b.mu.Unlock()
	return stale
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
func (b *builder) bottom(ctx context.Context, v *dockerfile.Vertex) (*records.Record, error) {
	if v.Image == nil || v.Image.ChainID == "" {
		b.report(v, Ending{Key: "scratch"})
		return &records.Record{Key: "scratch"}, nil
	}
	b.o.Started(v, "")
	img, err := b.s.images.Open(ctx, v.Image.Manifest, &v.Image.Platform)
	if err == nil {
		err = b.s.images.EnsureUnpacked(ctx, img)
	}
	rec := &records.Record{Key: imageKey(v.Image), Snapshot: v.Image.ChainID.String()}
	b.report(v, Ending{Key: rec.Key, Err: err})
	return rec, err
}

func imageKey(i *dockerfile.Base) string { return "image:" + i.ChainID.String() }

// usable reports whether a record's snapshot, and all records below it, are there; they
// stay while the build runs.
func (b *builder) usable(ctx context.Context, rec *records.Record) bool {
	b.later(b.s.hold(rec.Key))
	for r := rec; isRecord(r.Parent); {
		below, ok := b.s.cache.Get(r.Parent)
		if !ok {
			return false
		}
		r = below
	}
	if rec.Snapshot == "" {
		return b.hasLayer(ctx, rec)
	}
	_, err := b.s.sup.StatSnapshot(ctx, b.s.images.Snapshotter(), rec.Snapshot)
	return err == nil
}

// isRecord reports whether a key is that of a record rather than of an image or nothing.
func isRecord(key string) bool { return strings.HasPrefix(key, "sha256:") }

// cached reports v, and all below it that nobody has to look at, as cached.
func (b *builder) cached(v *dockerfile.Vertex, rec *records.Record) {
	b.s.cache.Use(rec.Key)
	if rec.Link != "" {
		b.s.cache.Use(rec.Link)
	}
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
	if step := b.links.stepOf(v); step != nil {
		b.links.note(step, e)
		if e.Err == nil {
			return true // the step itself is yet to come
		}
		v = step
	}
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
func (b *builder) once(ctx context.Context, w *work, plain string) (*records.Record, error) {
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
				if err := b.s.cache.Link(plain, w.key); err != nil {
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
