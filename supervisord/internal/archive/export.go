package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/manifest"
	"strata/supervisord/internal/content"
)

// ExportOptions say what Export writes.
type ExportOptions struct {
	// Platforms to write; none means all that are there.
	Platforms []ocispec.Platform
	// OCIOnly leaves out docker's manifest.json.
	OCIOnly bool
	// SkipForeign leaves out layers that may not be distributed.
	SkipForeign bool
}

// exporter is one call of Export.
type exporter struct {
	store content.Store
	opts  ExportOptions
	blobs map[digest.Digest]int64
	index []ocispec.Descriptor
	saved []savedImage
	place map[digest.Digest]int // of a manifest in saved
}

// Export writes images as an OCI layout and a docker-archive in one uncompressed tar, with
// each blob once. The same images give the same bytes. Platforms of an index that are not
// in the store are left out; an image of which nothing is complete is an error of class
// ErrNotFound.
func Export(ctx context.Context, w io.Writer, store content.Store, images []Image, opts ExportOptions) error {
	ex := &exporter{store: store, opts: opts, blobs: map[digest.Digest]int64{}, place: map[digest.Digest]int{}}
	for _, img := range images {
		if err := ex.add(ctx, img); err != nil {
			return fmt.Errorf("export image %s: %w", img.Target.Digest, err)
		}
	}
	return ex.write(ctx, w)
}

// add collects an image.
func (ex *exporter) add(ctx context.Context, img Image) error {
	manifests, err := ex.collect(ctx, img.Target, 0)
	if err != nil {
		return err
	}
	if len(manifests) == 0 {
		return fmt.Errorf("no platform is complete: %w", errdefs.ErrNotFound)
	}
	target := ocispec.Descriptor{MediaType: img.Target.MediaType, Digest: img.Target.Digest, Size: img.Target.Size}
	if len(img.Names) == 0 {
		ex.index = append(ex.index, target)
	}
	var tags []string
	for _, name := range img.Names {
		d := target
		d.Annotations = map[string]string{annotationName: name}
		if named, err := reference.ParseDockerRef(name); err == nil {
			if t, ok := named.(reference.Tagged); ok {
				d.Annotations[ocispec.AnnotationRefName] = t.Tag()
				tags = append(tags, reference.FamiliarString(named))
			}
		}
		ex.index = append(ex.index, d)
	}
	chosen := manifests[0]
	for _, m := range manifests {
		if m.desc.Platform != nil && platforms.Default().Match(*m.desc.Platform) {
			chosen = m
			break
		}
	}
	return ex.dockerEntry(chosen, tags)
}

// exported is a manifest whose content is complete.
type exported struct {
	desc ocispec.Descriptor
	doc  manifest.Document
}

// collect notes the blobs below d that are there, and returns the complete manifests.
func (ex *exporter) collect(ctx context.Context, d ocispec.Descriptor, depth int) ([]exported, error) {
	info, err := ex.store.Info(ctx, d.Digest)
	if errdefs.IsNotFound(err) && depth > 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	raw, err := read(ctx, ex.store, d.Digest)
	if err != nil {
		return nil, err
	}
	doc, err := manifest.Parse(d.MediaType, raw)
	if err != nil {
		return nil, err
	}
	if !doc.IsIndex() {
		complete, err := ex.image(ctx, doc)
		if err != nil || !complete {
			return nil, err
		}
		ex.blobs[d.Digest] = info.Size
		return []exported{{d, doc}}, nil
	}
	if depth > 4 {
		return nil, fmt.Errorf("indexes are nested too deep: %w", errdefs.ErrInvalidArgument)
	}
	var out []exported
	for _, c := range manifest.Select(doc.Manifests, ex.opts.Platforms) {
		if !manifest.IsIndex(c.MediaType) && !manifest.IsManifest(c.MediaType) {
			continue
		}
		got, err := ex.collect(ctx, c, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, got...)
	}
	if len(out) > 0 {
		ex.blobs[d.Digest] = info.Size
	}
	return out, nil
}

// image notes configuration and layers, if all of them are there.
func (ex *exporter) image(ctx context.Context, doc manifest.Document) (bool, error) {
	found := map[digest.Digest]int64{}
	for _, c := range doc.Children() {
		if ex.opts.SkipForeign && manifest.IsForeign(c.MediaType) {
			continue
		}
		info, err := ex.store.Info(ctx, c.Digest)
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		found[c.Digest] = info.Size
	}
	maps.Copy(ex.blobs, found)
	return true, nil
}

// dockerEntry adds tags to the entry of m in manifest.json.
func (ex *exporter) dockerEntry(m exported, tags []string) error {
	if i, ok := ex.place[m.desc.Digest]; ok {
		ex.saved[i].RepoTags = append(ex.saved[i].RepoTags, tags...)
		return nil
	}
	s := savedImage{Config: blobPath(m.doc.Config.Digest), RepoTags: tags}
	for _, l := range m.doc.Layers {
		s.Layers = append(s.Layers, blobPath(l.Digest))
	}
	ex.place[m.desc.Digest] = len(ex.saved)
	ex.saved = append(ex.saved, s)
	return nil
}

func blobPath(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

func (ex *exporter) write(ctx context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return err
		}
	}
	for _, d := range slices.Sorted(maps.Keys(ex.blobs)) {
		if err := ex.writeBlob(ctx, tw, d); err != nil {
			return fmt.Errorf("write blob %s: %w", d, err)
		}
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: ex.index}
	documents := []struct {
		name string
		v    any
	}{{"index.json", index}, {"manifest.json", ex.saved}, {ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}}}
	for _, doc := range documents {
		if doc.name == "manifest.json" && ex.opts.OCIOnly {
			continue
		}
		raw, err := json.Marshal(doc.v)
		if err != nil {
			return err
		}
		if err := writeFile(tw, doc.name, int64(len(raw)), bytes.NewReader(raw)); err != nil {
			return err
		}
	}
	return tw.Close()
}

func (ex *exporter) writeBlob(ctx context.Context, tw *tar.Writer, d digest.Digest) error {
	r, err := ex.store.OpenReader(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	return writeFile(tw, blobPath(d), r.Size(), io.NewSectionReader(r, 0, r.Size()))
}

func writeFile(tw *tar.Writer, name string, size int64, r io.Reader) error {
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}); err != nil {
		return err
	}
	_, err := io.Copy(tw, r)
	return err
}
