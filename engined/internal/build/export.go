package build

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/records"
	"strata/engined/internal/images"
	"strata/pkg/manifest"
)

// made is the image, or the index of images, that an output asked for.
type made struct {
	target ocispec.Descriptor
	images []madeImage
	before bool // an equal build has made it, and the store has it still
}

// madeImage is the image of one platform.
type madeImage struct {
	*product
	manifest, config ocispec.Descriptor
	layers           []ocispec.Descriptor
	attestation      *attestation
}

// export makes the outputs, one after the other, and then writes caches.
func (b *builder) export(ctx context.Context, outputs []output) (Result, error) {
	result := Result{Response: map[string]string{}}
	for _, p := range b.products {
		result.Platforms = append(result.Platforms, p.plan.Platform)
	}
	for i := range outputs {
		o := &outputs[i]
		var err error
		switch o.Type {
		case OutputImage, OutputDocker, OutputOCI:
			err = b.task(exportName(o), func(v *dockerfile.Vertex) error {
				b.tellUnknown(o, v)
				return b.exportImage(ctx, o, v, &result)
			})
		case OutputLocal, OutputTar:
			err = b.task(exportName(o), func(v *dockerfile.Vertex) error {
				b.tellUnknown(o, v)
				return b.exportFiles(ctx, o)
			})
		}
		if err != nil {
			return result, err
		}
	}
	return result, b.exportCaches(ctx)
}

// tellUnknown tells what of an output was not understood.
func (b *builder) tellUnknown(o *output, v *dockerfile.Vertex) {
	for _, k := range o.unknown {
		b.o.Output(v, fmt.Appendf(nil, "no output has an attribute %q: it is ignored\n", k), true)
	}
}

func exportName(o *output) string {
	switch o.Type {
	case OutputLocal:
		return "exporting to client directory"
	case OutputTar:
		return "exporting to client tarball"
	case OutputOCI, OutputDocker:
		if o.outside() {
			return "exporting to " + o.Type + " image format"
		}
	}
	return "exporting to image"
}

// exportImage makes an image and delivers it.
func (b *builder) exportImage(ctx context.Context, o *output, v *dockerfile.Vertex, result *Result) error {
	m, err := b.makeImage(ctx, o)
	if err != nil {
		return err
	}
	switch {
	case o.Blobs != nil:
		err = b.writeBlobs(ctx, o, m)
	case o.Sink != nil:
		err = b.writeArchive(ctx, o, m)
	}
	if err != nil {
		return err
	}
	if o.store {
		if result.Image, err = b.store(ctx, o, m); err != nil {
			return err
		}
	}
	if o.push {
		if err := b.push(ctx, o, m.target, v); err != nil {
			return err
		}
	}
	result.Target = m.target
	result.Response["containerimage.digest"] = m.target.Digest.String()
	if len(m.images) == 1 {
		result.Response["containerimage.config.digest"] = m.images[0].config.Digest.String()
	}
	if d, err := json.Marshal(m.target); err == nil {
		result.Response["containerimage.descriptor"] = base64.StdEncoding.EncodeToString(d)
	}
	if len(o.names) > 0 {
		result.Response["image.name"] = strings.Join(o.names, ",")
	}
	return nil
}

// makeImage writes what o asks for: an image, or an index if there are several platforms
// or attestations.
func (b *builder) makeImage(ctx context.Context, o *output) (*made, error) {
	m := &made{before: true}
	for _, p := range b.products {
		img, before, err := b.platformImage(ctx, o, p)
		if err != nil {
			return nil, fmt.Errorf("write image: %w", err)
		}
		m.images = append(m.images, img)
		m.before = m.before && before
	}
	if len(m.images) == 1 && m.images[0].attestation == nil {
		if o.annotated(levelIndex, nil) != nil {
			return nil, fmt.Errorf("index annotations not supported for single platform export: an image without attestations has no index: %w", errdefs.ErrInvalidArgument)
		}
		m.target = m.images[0].manifest
		return m, nil
	}
	if o.Type == OutputDocker && o.outside() && len(m.images) > 1 {
		return nil, fmt.Errorf("docker archives hold one platform only; use type=oci: %w", errdefs.ErrInvalidArgument)
	}
	ctx, err := b.leased(ctx)
	if err != nil {
		return nil, err
	}
	m.before = false
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Annotations: o.annotated(levelIndex, nil)}
	if o.docker {
		index.MediaType = manifest.DockerIndex
	}
	for i := range m.images {
		img := &m.images[i]
		d := img.manifest
		platform := platforms.Normalize(img.plan.Platform)
		d.Platform, d.Annotations = &platform, o.annotated(levelManifestDescriptor, &platform)
		index.Manifests = append(index.Manifests, d)
	}
	for i := range m.images {
		if a := m.images[i].attestation; a != nil {
			index.Manifests = append(index.Manifests, a.descriptor(m.images[i].manifest.Digest))
		}
	}
	doc, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	if m.target, err = b.s.images.WriteDocument(ctx, index.MediaType, doc, index.Manifests); err != nil {
		return nil, fmt.Errorf("write index: %w", err)
	}
	return m, nil
}

// platformImage writes the image of one platform, or finds the one that an equal build has
// made (before).
func (b *builder) platformImage(ctx context.Context, o *output, p *product) (img madeImage, before bool, err error) {
	img.product = p
	k, err := b.imageKey(o, p)
	if err != nil {
		return img, false, err
	}
	f, finished := b.s.cache.Finished(k)
	finished = finished && !b.r.NoCache
	if finished && o.store && !o.push && !o.attest.wanted {
		have, err := b.s.images.Resolve(ctx, f.Target.Digest.String(), nil)
		if err == nil && have.Target.Digest == f.Target.Digest && (have.ChainID == "" || b.unpacked(ctx, have)) {
			img.manifest, img.config, img.layers = have.Target, ocispec.Descriptor{Digest: have.ID}, have.Layers
			return img, true, nil
		}
	}
	if ctx, err = b.leased(ctx); err != nil {
		return img, false, err
	}
	layers, err := b.layersOf(ctx, p.plan.Target, p.top)
	if err != nil {
		return img, false, err
	}
	created := time.Now().UTC()
	if finished {
		created = f.Created
	}
	n, err := b.newImage(p, layers, created)
	if err != nil {
		return img, false, err
	}
	if n.Layers, err = b.compressed(ctx, o, p, layers); err != nil {
		return img, false, err
	}
	n.Docker, n.Annotations = o.docker, o.annotated(levelManifest, &p.plan.Platform)
	if o.inline {
		if n.Extra, err = b.inlineCache(ctx, p); err != nil {
			return img, false, err
		}
	}
	img.layers = n.Layers
	if img.manifest, img.config, err = b.s.images.Write(ctx, n); err != nil {
		return img, false, err
	}
	if o.attest.wanted {
		if img.attestation, err = b.attest(ctx, o, &img, f.Attested, finished); err != nil {
			return img, false, err
		}
	}
	done := records.Finished{Target: img.manifest, Top: p.top.Key, Created: *n.Config.Created}
	if img.attestation != nil {
		done.Attested = img.attestation.times
	}
	return img, false, b.s.cache.Finish(k, done)
}

// store keeps an image under its names, unpacked for this host if it is for it.
func (b *builder) store(ctx context.Context, o *output, m *made) (images.Image, error) {
	if !m.before {
		var err error
		if ctx, err = b.leased(ctx); err != nil {
			return images.Image{}, err
		}
	}
	img, err := b.s.images.Open(ctx, m.target, nil)
	if err != nil {
		return img, err
	}
	for i := range m.images {
		if m.before || m.images[i].manifest.Digest != img.Manifest.Digest || img.ChainID == "" {
			continue
		}
		if err := b.s.sup.LabelContent(ctx, img.ID, map[string]string{manifest.SnapshotLabel(b.s.images.Snapshotter()): img.ChainID.String()}); err != nil {
			return img, fmt.Errorf("keep snapshot of image: %w", err)
		}
		if err := b.s.images.EnsureUnpacked(ctx, img); err != nil {
			return img, err
		}
	}
	names := o.kept(m.target.Digest)
	if len(names) == 0 && !m.before {
		return img, b.s.images.Keep(ctx, m.target)
	}
	return img, b.name(ctx, names, m.target, img.ID)
}

// unpacked reports whether an image's snapshot is there.
func (b *builder) unpacked(ctx context.Context, img images.Image) bool {
	_, err := b.s.sup.StatSnapshot(ctx, b.s.images.Snapshotter(), img.ChainID.String())
	return err == nil
}

// name gives the image the names that it does not have.
func (b *builder) name(ctx context.Context, names []string, target ocispec.Descriptor, id digest.Digest) error {
	for _, tag := range names {
		if have, err := b.s.sup.GetImage(ctx, tag); err == nil && have.Target.Digest == target.Digest {
			continue
		}
		if err := b.s.images.SetName(ctx, tag, target); err != nil {
			return err
		}
		b.s.images.Named(id, tag)
	}
	return nil
}

// push sends the image to the registries of its names, by which nobody here need know it.
func (b *builder) push(ctx context.Context, o *output, target ocispec.Descriptor, v *dockerfile.Vertex) error {
	for _, name := range o.names {
		if o.byDigest {
			name += "@" + target.Digest.String()
		}
		r := images.PushRequest{Image: name, Ask: b.auth(name, "pull", "push"), Target: &target}
		b.o.Output(v, []byte("pushing "+name+"\n"), false)
		if err := b.s.images.Push(ctx, r, func(images.Progress) {}); err != nil {
			return fmt.Errorf("push %s: %w", name, err)
		}
	}
	return nil
}

// imageKey says what the image will be, but for times.
func (b *builder) imageKey(o *output, p *product) (string, error) {
	config, err := json.Marshal(p.plan.Config)
	if err != nil {
		return "", err
	}
	parts := []string{"image", p.top.Key, string(config), p.plan.Author, platforms.FormatAll(p.plan.Platform), b.dated, provenanceKey(o, &b.r.Provenance)}
	for _, h := range p.plan.History {
		parts = append(parts, h.CreatedBy)
	}
	notes, err := json.Marshal(o.annotated(levelManifest, &p.plan.Platform))
	if err != nil {
		return "", err
	}
	return key(append(parts, fmt.Sprint(o.compression, o.docker, o.inline), string(notes))...), nil
}

// provenanceKey is what imageKey has of attestations.
func provenanceKey(o *output, p *Provenance) string {
	if o.attest.wanted {
		return p.Mode + p.Version
	}
	return ""
}

// newImage puts configuration and history together. An image tells no time but those of its
// records, so that it is the same wherever they come from; now is for one that has none.
func (b *builder) newImage(p *product, layers []records.Layer, now time.Time) (images.NewImage, error) {
	raw, err := json.Marshal(p.plan.Config)
	if err != nil {
		return images.NewImage{}, err
	}
	n := images.NewImage{Runtime: raw, Parent: p.plan.Parent}
	n.Config = ocispec.Image{Author: p.plan.Author, Platform: p.plan.Platform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}}
	for _, l := range layers {
		n.Layers = append(n.Layers, l.Descriptor)
		n.Config.RootFS.DiffIDs = append(n.Config.RootFS.DiffIDs, l.DiffID)
	}
	if n.Config.History, err = b.history(p); err != nil {
		return n, err
	}
	if !b.epoch.IsZero() {
		now = b.epoch
	}
	n.Config.Created = datedHistory(n.Config.History, p.plan.History, b.epoch, now)
	return n, nil
}

// history is that of the base and of this build. A step of this build has the time of its
// record; what changed no file has none.
func (b *builder) history(p *product) ([]ocispec.History, error) {
	byStep := map[*dockerfile.Vertex]*records.Record{}
	var err error
	for v, rec := p.plan.Target, p.top; v.Parent != nil; v = v.Parent {
		byStep[v] = rec
		if rec, err = b.below(v, rec); err != nil {
			return nil, err
		}
	}
	var out []ocispec.History
	for _, e := range p.plan.History {
		h := e.History
		if rec := byStep[e.Vertex]; h.Created == nil && rec != nil {
			h.EmptyLayer, h.Created = rec.Unchanged, &rec.Created
		}
		out = append(out, h)
	}
	return out, nil
}

// datedHistory completes the times of history: epoch, if there is one, for all that this
// build did; else what has no time has that of the layer before, and the first of them that
// of the layer after it. It returns the last time, which is the image's: now if there is none.
//
// Source: moby/buildkit v0.32.2 exporter/containerimage/writer.go "normalizeLayersAndHistory".
func datedHistory(history []ocispec.History, plan []dockerfile.Entry, epoch, now time.Time) *time.Time {
	var at *time.Time
	missing := false
	for _, h := range history {
		if h.Created == nil {
			missing = true
			continue
		}
		if at = h.Created; missing {
			break
		}
	}
	missing = false
	last := &now
	for i := range history {
		h := &history[i]
		switch {
		case plan[i].Created == nil && !epoch.IsZero():
			h.Created = &epoch
		case h.Created == nil:
			h.Created, missing = at, true
		case missing:
			at = h.Created
		}
		if h.Created != nil {
			last = h.Created
		}
	}
	return last
}
