package build

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/files"
	"strata/engined/internal/images"
	"strata/pkg/ctxlog"
)

// Solved is a build whose steps are done. What is to be made of them is asked for as often
// as one likes; the steps, and what they need, stay until Close.
type Solved struct {
	b     *builder
	users atomic.Int32 // who are to call Close
}

// Solve does the steps of r, and makes nothing of them yet; Request.Outputs are only looked at
// for mistakes. Errors are those of Build. Close the result.
func (s *Service) Solve(ctx context.Context, r Request, o Observer) (*Solved, error) {
	if _, err := r.outputs(); err != nil {
		return nil, err
	}
	if err := s.checkEntitlements(&r); err != nil {
		return nil, err
	}
	b := newBuilder(s, r, o)
	err := b.plan(ctx)
	if err == nil {
		err = b.solveAll(ctx)
	}
	if err != nil {
		b.end()
		return nil, err
	}
	v := &Solved{b: b}
	v.users.Store(1)
	return v, nil
}

// Close lets go of all that the build held, when the last user calls it.
func (v *Solved) Close() {
	if v.users.Add(-1) == 0 {
		v.b.end()
	}
}

// Export makes outputs, and writes the caches of the Request. Request.Outputs say nothing
// here.
func (v *Solved) Export(ctx context.Context, list []Output) (Result, error) {
	b := v.b
	r := b.r
	r.Outputs = list
	outputs, err := r.outputs()
	if err != nil {
		return Result{}, err
	}
	result, err := b.export(ctx, outputs)
	if err != nil {
		return Result{}, err
	}
	if b.held != nil { // something was made
		if err := b.s.collect(ctx); err != nil {
			ctxlog.From(ctx).Warn("build cache was not brought below its limit; the next build will", ctxlog.Error, err)
		}
	}
	return result, nil
}

// Look calls fn with the files: of one platform, or with a directory for each.
func (v *Solved) Look(ctx context.Context, fn func(files.Tree) error) error {
	tree, err := v.b.resultTree(ctx, &output{split: len(v.b.products) > 1})
	if err != nil {
		return err
	}
	return fn(tree)
}

// Linked is what one build has made for another to be built upon it (Named.Linked): an image
// of each of its platforms, without a name.
type Linked struct {
	v        *Solved
	products []linkedProduct
}

type linkedProduct struct {
	*product
	image images.Image
}

// Link makes the images. Close what it returns after the build that uses it; v may be closed
// before.
func (v *Solved) Link(ctx context.Context) (_ *Linked, err error) {
	v.users.Add(1)
	l := &Linked{v: v}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	// It is not for the engine's store: what is there others may remove.
	o := output{Output: Output{Type: OutputImage}, compression: compression{kind: "gzip"}}
	for _, p := range v.b.products {
		m, _, err := v.b.platformImage(ctx, &o, p)
		if err != nil {
			return nil, fmt.Errorf("write image: %w", err)
		}
		img, err := v.b.s.images.Open(ctx, m.manifest, &p.plan.Platform)
		if err != nil {
			return nil, err
		}
		l.products = append(l.products, linkedProduct{p, img})
	}
	return l, nil
}

// Close lets go of the images.
func (l *Linked) Close() { l.v.Close() }

// of returns what a stage for platform p is built upon. The only image is for every
// platform, as in BuildKit.
func (l *Linked) of(p ocispec.Platform) (linkedProduct, error) {
	if len(l.products) == 1 {
		return l.products[0], nil
	}
	for _, m := range []platforms.Matcher{platforms.OnlyStrict(p), platforms.Only(p)} {
		for _, have := range l.products {
			if m.Match(have.image.Config.Platform) {
				return have, nil
			}
		}
	}
	return linkedProduct{}, fmt.Errorf("the build that this one is built upon makes nothing for %s: %w", platforms.Format(p), errdefs.ErrNotFound)
}

// materials are those of the build for platform p.
func (l *Linked) materials(p ocispec.Platform) []Material {
	have, err := l.of(p)
	if err != nil {
		return nil // then no stage was built upon it
	}
	return l.v.b.materials(have.plan)
}
