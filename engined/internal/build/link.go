package build

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/records"
	"strata/engined/internal/supervisor"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/identifiers"
	"strata/pkg/linux/mount"
	"strata/pkg/manifest"
)

// A COPY --link is two things. Its layer is made upon nothing, so that its key has nothing
// in it of what is below, and its record is a layer without a snapshot. The step itself
// places that layer upon its parent, as one that came from a cache elsewhere is placed: on
// another parent, only this is done again. The build that makes the layer has its files in a
// snapshot, and puts that onto the parent if the supervisor can. People are told of one step, cached if its layer
// was.

// links are the layers of the COPY --links of one build.
type links struct {
	mu     sync.Mutex
	layers map[*dockerfile.Vertex]*dockerfile.Vertex // by step
	steps  map[*dockerfile.Vertex]*dockerfile.Vertex // by layer, and by what the layer is upon: nothing
	made   map[*dockerfile.Vertex]bool               // steps whose layer this build has made
	files  map[string]string                         // active snapshots of layers that this build has made, by the key of their record
}

// layerOf returns the vertex of the layer that step v places; nil if v is none that does.
func (l *links) layerOf(v *dockerfile.Vertex) *dockerfile.Vertex {
	if v.Copy == nil || !v.Copy.Link {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.steps[v] != nil {
		return nil // it is the layer
	}
	layer, ok := l.layers[v]
	if !ok {
		if l.layers == nil {
			l.layers, l.steps, l.made = map[*dockerfile.Vertex]*dockerfile.Vertex{}, map[*dockerfile.Vertex]*dockerfile.Vertex{}, map[*dockerfile.Vertex]bool{}
		}
		layer = &dockerfile.Vertex{Parent: &dockerfile.Vertex{Stage: v.Stage}, Copy: v.Copy, Name: v.Name, Stage: v.Stage, Lines: v.Lines}
		l.layers[v], l.steps[layer], l.steps[layer.Parent] = layer, v, v
	}
	return layer
}

// stepOf returns the step that v is the layer of; nil if v is no layer by itself.
func (l *links) stepOf(v *dockerfile.Vertex) *dockerfile.Vertex {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.steps[v]
}

// note remembers how the layer of a step ended.
func (l *links) note(step *dockerfile.Vertex, e Ending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made[step] = l.made[step] || e.Key != "scratch" && !e.Cached
}

// wasCached reports whether v places a layer that was there before.
func (l *links) wasCached(v *dockerfile.Vertex) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.layers[v] != nil && !l.made[v]
}

// keep remembers the snapshot that a layer was made in.
func (l *links) keep(k, active string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files == nil {
		l.files = map[string]string{}
	}
	l.files[k] = active
}

// take returns what keep remembers, once.
func (l *links) take(k string) (active string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	active, ok = l.files[k]
	delete(l.files, k)
	return active, ok
}

// rebase places a layer that this build has just made by putting its very files onto w's
// parent. It reports false if they are not here, or the supervisor cannot: then the layer is
// to be extracted.
func (b *builder) rebase(ctx context.Context, w *work, rec *records.Record) (bool, error) {
	if rec.Link == "" || w.inputs[0].Layer == nil || !b.s.rebases(ctx) {
		return false, nil
	}
	active, ok := b.links.take(rec.Link)
	if !ok {
		return false, nil
	}
	chain := ""
	if w.v.Exported {
		var err error
		if chain, err = b.chainOf(ctx, w, *w.inputs[0].Layer); err != nil {
			return false, err
		}
	}
	rec.Layer = w.inputs[0].Layer
	return true, b.settle(ctx, rec, chain, supervisor.Commit{Key: active, Parent: w.parent.Snapshot})
}

// rebases reports whether the supervisor puts snapshots onto parents. It is asked once, with
// snapshots that nobody knows: one that has not heard of it would not say so.
func (s *Service) rebases(ctx context.Context) bool {
	s.rebasing.Lock()
	defer s.rebasing.Unlock()
	if s.canRebase == nil {
		can, err := s.tryRebase(ctx)
		if err != nil && !errdefs.IsNotImplemented(err) {
			ctxlog.From(ctx).Warn("it is not known whether snapshots can be put onto parents; layers are extracted", ctxlog.Error, err)
			return false // ask again
		}
		s.canRebase = &can
	}
	return *s.canRebase
}

func (s *Service) tryRebase(ctx context.Context) (bool, error) {
	var undo cleanup.Stack
	defer undo.Clean()
	parent := ""
	for range 2 {
		c := supervisor.Commit{Snapshotter: s.images.Snapshotter(), Name: "build-" + identifiers.Short(identifiers.New()), Parent: parent}
		c.Key = c.Name + "-active"
		undo.Add(s.hold(c.Key))
		if _, err := s.sup.PrepareSnapshot(ctx, c.Snapshotter, c.Key, "", rootLabels()); err != nil {
			return false, err
		}
		undo.Add(func() { s.dropSnapshot(ctx, c.Key); s.dropSnapshot(ctx, c.Name) })
		if err := s.sup.CommitSnapshotOnto(ctx, c); err != nil {
			return false, err
		}
		parent = c.Name
	}
	got, err := s.sup.StatSnapshot(ctx, s.images.Snapshotter(), parent)
	return err == nil && got.Parent != "", err
}

// inputsOf are the vertices that v needs beside its parent.
func (b *builder) inputsOf(v *dockerfile.Vertex) []*dockerfile.Vertex {
	if layer := b.links.layerOf(v); layer != nil {
		return []*dockerfile.Vertex{layer}
	}
	return v.Inputs()
}

// begun tells that v is being made.
func (b *builder) begun(v *dockerfile.Vertex) {
	if step := b.links.stepOf(v); step != nil {
		v = step
	}
	b.o.Started(v, "")
}

// extract puts the content of a layer of the store onto mounts.
func (b *builder) extract(ctx context.Context, l records.Layer, mounts []mount.Mount) error {
	applied, err := b.s.sup.ApplyDiff(ctx, l.Descriptor, mounts)
	if err != nil {
		return err
	}
	if applied.Digest != l.DiffID {
		return fmt.Errorf("layer %s unpacks to %s instead of %s: %w", l.Descriptor.Digest, applied.Digest, l.DiffID, errdefs.ErrDataLoss)
	}
	return b.s.sup.LabelContent(ctx, l.Descriptor.Digest, map[string]string{manifest.LabelUncompressed: l.DiffID.String()})
}

// hasLayer reports whether the layer of a record that consists of nothing else is there.
func (b *builder) hasLayer(ctx context.Context, rec *records.Record) bool {
	if rec.Layer == nil {
		return true // it changed nothing
	}
	_, err := b.s.sup.ContentInfo(ctx, rec.Layer.Descriptor.Digest)
	return err == nil
}
