package build

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/records"
	"strata/pkg/linux/mount"
	"strata/pkg/manifest"
)

// layersOf returns the layers of a record's filesystem, lowest first; those that nobody
// has needed before are made now.
func (b *builder) layersOf(ctx context.Context, v *dockerfile.Vertex, rec *records.Record) ([]records.Layer, error) {
	var own []records.Layer
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
	var out []records.Layer
	if v.Image != nil {
		for i, l := range v.Image.Layers {
			out = append(out, records.Layer{Descriptor: l, DiffID: v.Image.DiffIDs[i]})
		}
	}
	slices.Reverse(own)
	return append(out, own...), nil
}

// below returns the record of what v builds upon.
func (b *builder) below(v *dockerfile.Vertex, rec *records.Record) (*records.Record, error) {
	if isRecord(rec.Parent) {
		below, ok := b.s.cache.Get(rec.Parent)
		if !ok {
			return nil, fmt.Errorf("build cache lacks %s: %w", rec.Parent, errdefs.ErrDataLoss)
		}
		return below, nil
	}
	if img := v.Parent.Image; img != nil && img.ChainID != "" {
		return &records.Record{Key: rec.Parent, Snapshot: img.ChainID.String()}, nil
	}
	return &records.Record{Key: rec.Parent}, nil
}

// ensureLayer writes the layer of a record that has none, or one that is not compressed yet.
func (b *builder) ensureLayer(ctx context.Context, rec *records.Record, lower string) (*records.Record, error) {
	if rec.Layer != nil {
		_, err := b.s.sup.ContentInfo(ctx, rec.Layer.Descriptor.Digest)
		if err == nil && kindOf(rec.Layer.Descriptor.MediaType) == "uncompressed" {
			return b.compressLayer(ctx, rec)
		}
		if err == nil || !errdefs.IsNotFound(err) {
			return rec, err
		}
	}
	var l records.Layer
	err := b.s.view(ctx, rec.Snapshot, func(upper []mount.Mount) error {
		var err error
		l, err = b.diff(ctx, lower, upper, ocispec.MediaTypeImageLayerGzip)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := *rec
	out.Layer = &l
	return &out, b.s.cache.Put(&out)
}

// compressLayer compresses a record's layer, which nobody has needed so far.
func (b *builder) compressLayer(ctx context.Context, rec *records.Record) (*records.Record, error) {
	ctx, err := b.leased(ctx)
	if err != nil {
		return nil, err
	}
	d, err := b.recompress(ctx, *rec.Layer, compression{kind: "gzip"})
	if err != nil {
		return nil, err
	}
	if err := b.s.sup.LabelContent(ctx, d.Digest, rootLabels()); err != nil {
		return nil, err
	}
	out := *rec
	out.Layer = &records.Layer{Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d.Digest, Size: d.Size}, DiffID: rec.Layer.DiffID}
	if err := b.s.cache.Put(&out); err != nil {
		return nil, err
	}
	all, err := b.s.cache.All()
	if err != nil {
		return nil, err
	}
	plain := rec.Layer.Descriptor.Digest
	if shared(all, rec, func(o *records.Record) bool { return o.Layer != nil && o.Layer.Descriptor.Digest == plain }) {
		return &out, nil
	}
	return &out, b.s.unroot(ctx, plain)
}

// diff writes what upper changed above snapshot lower as a layer that stays.
func (b *builder) diff(ctx context.Context, lower string, upper []mount.Mount, mediaType string) (records.Layer, error) {
	ctx, err := b.leased(ctx)
	if err != nil {
		return records.Layer{}, err
	}
	var l records.Layer
	err = b.s.view(ctx, lower, func(low []mount.Mount) error {
		d, err := b.s.sup.DiffLayer(ctx, low, upper, layerOptions(b.epoch, mediaType))
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
