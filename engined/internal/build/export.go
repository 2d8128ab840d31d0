package build

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/images"
	"strata/pkg/manifest"
)

// export makes an image of the target's filesystem, or finds the one that an equal build
// has made, and gives it its names.
func (b *builder) export(ctx context.Context, top *Record) (images.Image, error) {
	k, err := b.imageKey(top)
	if err != nil {
		return images.Image{}, err
	}
	if f, ok := b.s.cache.finished(k); ok && !b.r.NoCache {
		img, err := b.s.images.Resolve(ctx, f.Target.Digest.String(), nil)
		if err == nil && (img.ChainID == "" || b.unpacked(ctx, img)) {
			return img, b.name(ctx, img)
		}
	}
	if ctx, err = b.leased(ctx); err != nil {
		return images.Image{}, err
	}
	layers, err := b.layersOf(ctx, b.plan.Target, top)
	if err != nil {
		return images.Image{}, err
	}
	n, err := b.newImage(top, layers)
	if err != nil {
		return images.Image{}, err
	}
	if len(b.r.Tags) > 0 {
		n.Name = b.r.Tags[0]
	}
	img, err := b.s.images.Assemble(ctx, n)
	if err != nil {
		return img, fmt.Errorf("write image: %w", err)
	}
	if img.ChainID != "" {
		if err := b.s.sup.LabelContent(ctx, img.ID, map[string]string{manifest.SnapshotLabel(b.s.images.Snapshotter()): img.ChainID.String()}); err != nil {
			return img, fmt.Errorf("keep snapshot of image: %w", err)
		}
	}
	if err := b.s.images.EnsureUnpacked(ctx, img); err != nil {
		return img, err
	}
	if err := b.s.cache.finish(k, Finished{Target: ocispec.Descriptor{MediaType: img.Target.MediaType, Digest: img.ID, Size: img.Target.Size}, Top: top.Key, Created: *n.Config.Created}); err != nil {
		return img, err
	}
	return img, b.name(ctx, img)
}

func (b *builder) unpacked(ctx context.Context, img images.Image) bool {
	_, err := b.s.sup.StatSnapshot(ctx, b.s.images.Snapshotter(), img.ChainID.String())
	return err == nil
}

// name gives the image the names that it does not have.
func (b *builder) name(ctx context.Context, img images.Image) error {
	for _, tag := range b.r.Tags {
		if have, err := b.s.sup.GetImage(ctx, tag); err == nil && have.Target.Digest == img.Target.Digest {
			continue
		}
		if err := b.s.images.SetName(ctx, tag, img.Target); err != nil {
			return err
		}
	}
	return nil
}

// imageKey says what the image will be, but for times.
func (b *builder) imageKey(top *Record) (string, error) {
	config, err := json.Marshal(b.plan.Config)
	if err != nil {
		return "", err
	}
	parts := []string{"image", top.Key, string(config), b.plan.Platform.OS, b.plan.Platform.Architecture, b.plan.Platform.Variant, b.r.Args["SOURCE_DATE_EPOCH"]}
	for _, h := range b.plan.History {
		parts = append(parts, h.CreatedBy)
	}
	return key(parts...), nil
}

// newImage puts configuration and history together.
func (b *builder) newImage(top *Record, layers []Layer) (images.NewImage, error) {
	epoch, err := dockerfile.Epoch(b.r.Args)
	if err != nil {
		return images.NewImage{}, err
	}
	created := time.Now().UTC()
	if !epoch.IsZero() {
		created = epoch
	}
	raw, err := json.Marshal(b.plan.Config)
	if err != nil {
		return images.NewImage{}, err
	}
	n := images.NewImage{Runtime: raw, Parent: b.plan.Parent}
	n.Config = ocispec.Image{Created: &created, Platform: b.plan.Platform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}}
	for _, l := range layers {
		n.Layers = append(n.Layers, l.Descriptor)
		n.Config.RootFS.DiffIDs = append(n.Config.RootFS.DiffIDs, l.DiffID)
	}
	records := map[*dockerfile.Vertex]*Record{}
	for v, rec := b.plan.Target, top; v.Parent != nil; v = v.Parent {
		records[v] = rec
		if rec, err = b.below(v, rec); err != nil {
			return n, err
		}
	}
	last := created
	if epoch.IsZero() && len(records) > 0 {
		last = time.Time{}
	}
	for _, e := range b.plan.History {
		h := e.History
		if h.Created == nil {
			at := created
			if rec := records[e.Vertex]; rec != nil {
				h.EmptyLayer = rec.Unchanged
				if epoch.IsZero() {
					last = rec.Created
				}
			}
			if epoch.IsZero() && !last.IsZero() {
				at = last
			}
			h.Created = &at
		}
		n.Config.History = append(n.Config.History, h)
	}
	return n, nil
}
