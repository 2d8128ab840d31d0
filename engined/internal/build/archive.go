package build

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// writeArchive streams an image as an OCI layout; type=docker adds the manifest.json that
// docker load has always read.
func (b *builder) writeArchive(ctx context.Context, o *output, m *made) error {
	ctx, err := b.leased(ctx)
	if err != nil {
		return err
	}
	meta := map[string]string{"containerimage.digest": m.target.Digest.String()}
	w, err := o.Sink.Stream(ctx, meta)
	if err != nil {
		return err
	}
	a := &archiver{ctx: ctx, b: b, tw: tar.NewWriter(w)}
	err = a.write(o, m)
	if err == nil {
		err = a.tw.Close()
	}
	return errors.Join(err, w.Close())
}

// writeBlobs gives an image to a client's store, what others refer to first.
func (b *builder) writeBlobs(ctx context.Context, o *output, m *made) error {
	ctx, err := b.leased(ctx)
	if err != nil {
		return err
	}
	for _, d := range m.content() {
		info, err := b.s.sup.ContentInfo(ctx, d.Digest)
		if err != nil {
			return fmt.Errorf("export %s: %w", d.Digest, err)
		}
		d.Size = info.Size
		if err := o.Blobs.Write(ctx, d, b.s.sup.OpenContent(ctx, d)); err != nil {
			return fmt.Errorf("export %s: %w", d.Digest, err)
		}
	}
	return nil
}

// content is all that an image consists of, what others refer to first.
func (m *made) content() []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, img := range m.images {
		out = append(append(out, img.layers...), img.config, img.manifest)
		if img.attestation != nil {
			out = append(out, img.attestation.blobs...)
		}
	}
	out = append(out, m.target)
	seen := map[digest.Digest]bool{}
	return slices.DeleteFunc(out, func(d ocispec.Descriptor) bool {
		again := seen[d.Digest]
		seen[d.Digest] = true
		return again
	})
}

// archiver writes blobs and documents into a tar.
type archiver struct {
	ctx context.Context //nolint:containedctx // of one call of writeArchive
	b   *builder
	tw  *tar.Writer
}

func (a *archiver) write(o *output, m *made) error {
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	for _, d := range m.content() {
		if err := a.blob(d); err != nil {
			return err
		}
	}
	if o.Type == OutputDocker {
		if err := a.document("manifest.json", dockerManifest(o, &m.images[0])); err != nil {
			return err
		}
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: named(o, m)}
	if err := a.document(ocispec.ImageIndexFile, index); err != nil {
		return err
	}
	return a.document(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// named is the entries of the layout's index: one for each name.
func named(o *output, m *made) []ocispec.Descriptor {
	base := m.target
	base.Annotations = maps.Clone(o.annotated(levelIndexDescriptor, nil))
	if len(m.images) == 1 {
		platform := platforms.Normalize(m.images[0].plan.Platform)
		if m.images[0].attestation == nil {
			base.Platform = &platform
		}
		for k, v := range o.annotated(levelManifestDescriptor, &platform) {
			base.Annotations = with(base.Annotations, k, v)
		}
	}
	if len(o.names) == 0 {
		return []ocispec.Descriptor{base}
	}
	var out []ocispec.Descriptor
	for _, name := range o.names {
		d := base
		d.Annotations = with(maps.Clone(base.Annotations), "io.containerd.image.name", name)
		if n, err := reference.ParseNormalizedNamed(name); err == nil {
			if t, ok := n.(reference.Tagged); ok {
				d.Annotations[ocispec.AnnotationRefName] = t.Tag()
			}
		}
		out = append(out, d)
	}
	return out
}

func with(m map[string]string, k, v string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[k] = v
	return m
}

// dockerManifest is the manifest.json of docker's own archives.
func dockerManifest(o *output, img *madeImage) any {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	e := entry{Config: blobPath(img.config.Digest)}
	for _, name := range o.names {
		if n, err := reference.ParseNormalizedNamed(name); err == nil {
			e.RepoTags = append(e.RepoTags, reference.FamiliarString(n))
		}
	}
	for _, l := range img.layers {
		e.Layers = append(e.Layers, blobPath(l.Digest))
	}
	return []entry{e}
}

func blobPath(d digest.Digest) string { return path.Join("blobs", d.Algorithm().String(), d.Encoded()) }

// blob writes content of the store.
func (a *archiver) blob(d ocispec.Descriptor) error {
	info, err := a.b.s.sup.ContentInfo(a.ctx, d.Digest)
	if err != nil {
		return fmt.Errorf("export %s: %w", d.Digest, err)
	}
	d.Size = info.Size
	if err := a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: blobPath(d.Digest), Mode: 0o644, Size: d.Size, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err = a.b.s.sup.OpenContent(a.ctx, d).WriteTo(a.tw)
	return err
}

func (a *archiver) document(name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(raw)), ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err = a.tw.Write(raw)
	return err
}
