package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/compression"
	"strata/pkg/identifiers"
	"strata/pkg/manifest"
	"strata/supervisord/internal/content"
)

// Bounds against hostile archives.
const (
	maxEntries   = 100_000
	maxDocuments = 128 << 20 // bytes of JSON files kept in memory
)

// annotationName is where containerd's exports keep an image's full name.
const annotationName = "io.containerd.image.name"

// Image is one image of an archive.
type Image struct {
	Names  []string // full references; none for an image without a name
	Tag    string   // a name that is a tag only (org.opencontainers.image.ref.name)
	Target ocispec.Descriptor
}

// entry is a file of the archive.
type entry struct {
	digest digest.Digest
	size   int64
	kind   compression.Kind
	raw    []byte // of a small document; nil if the content is in the store
	link   string // another entry
}

// importer is one call of Import.
type importer struct {
	store   content.Store
	entries map[string]entry
	memory  int64
	session string
}

// Import stores the blobs of an archive (plain, gzip, bzip2 or zstd), labelled with what
// they point to, and returns its images. The caller holds a lease. Errors:
// ErrInvalidArgument for what is not an archive of images, is incomplete or contradicts
// itself; ErrNotImplemented for xz.
func Import(ctx context.Context, r io.Reader, store content.Store) ([]Image, error) {
	plain, err := compression.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	defer plain.Close()
	im := &importer{store: store, entries: map[string]entry{}, session: identifiers.Short(identifiers.New())}
	if err := im.scan(ctx, plain); err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	if _, err := io.Copy(io.Discard, plain); err != nil { // padding, so that a client is not cut off
		return nil, fmt.Errorf("read archive: %w", err)
	}
	if _, ok := im.entries["index.json"]; ok {
		return im.layout(ctx)
	}
	if _, ok := im.entries["manifest.json"]; ok {
		return im.docker(ctx)
	}
	return nil, fmt.Errorf("archive holds neither index.json nor manifest.json: %w", errdefs.ErrInvalidArgument)
}

// scan stores each file as it comes.
func (im *importer) scan(ctx context.Context, r io.Reader) error {
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		if n >= maxEntries {
			return fmt.Errorf("archive has more than %d entries: %w", maxEntries, errdefs.ErrInvalidArgument)
		}
		name := path.Clean("/" + hdr.Name)[1:]
		switch hdr.Typeflag {
		case tar.TypeReg:
			e, err := im.file(ctx, name, hdr.Size, tr)
			if err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
			im.entries[name] = e
		case tar.TypeSymlink:
			im.entries[name] = entry{link: path.Join("/", path.Dir(name), hdr.Linkname)[1:]}
		case tar.TypeLink:
			im.entries[name] = entry{link: path.Clean("/" + hdr.Linkname)[1:]}
		}
	}
}

// file keeps a document in memory, or makes a blob of anything else.
func (im *importer) file(ctx context.Context, name string, size int64, r io.Reader) (entry, error) {
	dir, base := path.Split(name)
	if alg, ok := strings.CutPrefix(dir, "blobs/"); ok {
		d := digest.NewDigestFromEncoded(digest.Algorithm(strings.TrimSuffix(alg, "/")), base)
		if err := d.Validate(); err != nil {
			return entry{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		return im.blob(ctx, d, size, r)
	}
	if !strings.HasSuffix(base, ".json") && base != "oci-layout" && base != "json" && base != "VERSION" && base != "repositories" {
		return im.blob(ctx, "", size, r)
	}
	if im.memory += size; size > manifest.MaxConfigSize || im.memory > maxDocuments {
		return entry{}, fmt.Errorf("document of %d bytes: %w", size, errdefs.ErrInvalidArgument)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		return entry{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return entry{digest: digest.FromBytes(raw), size: int64(len(raw)), raw: raw}, nil
}

// blob writes a blob of a known digest, or of one to be found out.
func (im *importer) blob(ctx context.Context, want digest.Digest, size int64, r io.Reader) (entry, error) {
	head := make([]byte, min(size, 16))
	if _, err := io.ReadFull(r, head); err != nil {
		return entry{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	e := entry{digest: want, size: size, kind: compression.Detect(head)}
	opts := content.WriterOptions{Ref: fmt.Sprintf("import-%s-%d", im.session, len(im.entries))}
	if want != "" {
		opts.Descriptor = ocispec.Descriptor{Digest: want, Size: size}
	}
	w, err := im.store.OpenWriter(ctx, opts)
	if errdefs.IsAlreadyExists(err) {
		return e, nil
	}
	if err != nil {
		return entry{}, err
	}
	if _, err = io.Copy(w, io.MultiReader(bytes.NewReader(head), r)); err == nil {
		if e.digest == "" {
			e.digest = w.Digest()
		}
		err = w.Commit(ctx, size, e.digest, nil)
	}
	err = errors.Join(err, w.Close())
	switch {
	case errdefs.IsAlreadyExists(err):
		err = nil
	case errdefs.IsFailedPrecondition(err):
		err = fmt.Errorf("content is not what its name says: %w: %w", err, errdefs.ErrInvalidArgument) // the class of the store means something else to clients
	}
	if err != nil {
		_ = im.store.Abort(ctx, opts.Ref) // gone already after a failed commit
		return entry{}, err
	}
	return e, nil
}

// lookup follows links.
func (im *importer) lookup(name string) (entry, error) {
	name = path.Clean("/" + name)[1:]
	for range 8 {
		e, ok := im.entries[name]
		if !ok {
			break
		}
		if e.link == "" {
			return e, nil
		}
		name = e.link
	}
	return entry{}, fmt.Errorf("archive lacks %q: %w", name, errdefs.ErrInvalidArgument)
}

// bytes returns a small file, from memory or from the store.
func (im *importer) bytes(ctx context.Context, e entry) ([]byte, error) {
	if e.raw != nil {
		return e.raw, nil
	}
	if e.size > manifest.MaxConfigSize {
		return nil, fmt.Errorf("document of %d bytes: %w", e.size, errdefs.ErrInvalidArgument)
	}
	return read(ctx, im.store, e.digest)
}

// read returns a small blob.
func read(ctx context.Context, store content.Store, d digest.Digest) ([]byte, error) {
	r, err := store.OpenReader(ctx, d)
	if err != nil {
		return nil, err
	}
	if r.Size() > manifest.MaxConfigSize {
		return nil, errors.Join(fmt.Errorf("document %s of %d bytes: %w", d, r.Size(), errdefs.ErrInvalidArgument), r.Close())
	}
	raw := make([]byte, r.Size())
	if n, err := r.ReadAt(raw, 0); n < len(raw) {
		return nil, errors.Join(err, r.Close())
	}
	return raw, r.Close()
}

// put stores a document with labels.
func (im *importer) put(ctx context.Context, d ocispec.Descriptor, raw []byte, labels map[string]string) error {
	w, err := im.store.OpenWriter(ctx, content.WriterOptions{Ref: "import-" + im.session + "-" + d.Digest.String(), Descriptor: d})
	if err == nil {
		if _, err = w.Write(raw); err == nil {
			err = w.Commit(ctx, d.Size, d.Digest, labels)
		}
		err = errors.Join(err, w.Close())
	}
	if errdefs.IsAlreadyExists(err) {
		return im.label(ctx, d.Digest, labels)
	}
	return err
}

func (im *importer) label(ctx context.Context, d digest.Digest, labels map[string]string) error {
	paths := make([]string, 0, len(labels))
	for k := range labels {
		paths = append(paths, "labels."+k)
	}
	if len(paths) == 0 {
		return nil
	}
	_, err := im.store.UpdateLabels(ctx, content.Info{Digest: d, Labels: labels}, paths...)
	return err
}

// layout reads an OCI image layout.
func (im *importer) layout(ctx context.Context) ([]Image, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(im.entries["index.json"].raw, &idx); err != nil {
		return nil, fmt.Errorf("parse index.json: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var out []Image
	byDigest := map[digest.Digest]int{}
	for _, d := range idx.Manifests {
		if err := manifest.Validate(d); err != nil {
			return nil, fmt.Errorf("index.json: %w", err)
		}
		complete, err := im.tree(ctx, d, 0)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", d.Digest, err)
		}
		if !complete {
			return nil, fmt.Errorf("archive lacks content of image %s: %w", d.Digest, errdefs.ErrInvalidArgument)
		}
		i, seen := byDigest[d.Digest]
		if !seen {
			i = len(out)
			byDigest[d.Digest] = i
			out = append(out, Image{Target: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}})
		}
		name := d.Annotations[annotationName]
		if name == "" {
			name = d.Annotations[ocispec.AnnotationRefName]
		}
		if full, ok := fullName(name); ok {
			out[i].Names = append(out[i].Names, full)
		} else {
			out[i].Tag = name
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("index.json names no image: %w", errdefs.ErrInvalidArgument)
	}
	return out, nil
}

// fullName normalises a name that is more than a tag.
func fullName(name string) (string, bool) {
	if !strings.ContainsAny(name, "/:@") {
		return "", false
	}
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", false
	}
	return named.String(), true
}

// tree labels the documents below d and reports whether an image of it is complete: an
// index may lack platforms, but not all.
func (im *importer) tree(ctx context.Context, d ocispec.Descriptor, depth int) (bool, error) {
	if _, err := im.store.Info(ctx, d.Digest); errdefs.IsNotFound(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if !manifest.IsIndex(d.MediaType) && !manifest.IsManifest(d.MediaType) {
		return true, nil
	}
	if depth > 4 {
		return false, fmt.Errorf("indexes are nested too deep: %w", errdefs.ErrInvalidArgument)
	}
	raw, err := read(ctx, im.store, d.Digest)
	if err != nil {
		return false, err
	}
	doc, err := manifest.Parse(d.MediaType, raw)
	if err != nil {
		return false, err
	}
	complete := !doc.IsIndex()
	for _, c := range doc.Children() {
		ok, err := im.tree(ctx, c, depth+1)
		if err != nil {
			return false, err
		}
		switch {
		case doc.IsIndex():
			complete = complete || ok
		case !ok && !manifest.IsForeign(c.MediaType):
			complete = false
		}
	}
	return complete, im.label(ctx, d.Digest, manifest.GCLabels(doc.Children()))
}

// savedImage is an entry of manifest.json.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// docker reads a docker-archive and makes manifests for its images.
func (im *importer) docker(ctx context.Context) ([]Image, error) {
	var saved []savedImage
	if err := json.Unmarshal(im.entries["manifest.json"].raw, &saved); err != nil {
		return nil, fmt.Errorf("parse manifest.json: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var out []Image
	for _, s := range saved {
		target, err := im.dockerImage(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("image %q: %w", s.Config, err)
		}
		img := Image{Target: target}
		for _, tag := range s.RepoTags {
			named, err := reference.ParseDockerRef(tag)
			if err != nil {
				return nil, fmt.Errorf("image name %q: %w: %w", tag, err, errdefs.ErrInvalidArgument)
			}
			img.Names = append(img.Names, named.String())
		}
		out = append(out, img)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("manifest.json names no image: %w", errdefs.ErrInvalidArgument)
	}
	return out, nil
}

func (im *importer) dockerImage(ctx context.Context, s savedImage) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	ce, err := im.lookup(s.Config)
	if err != nil {
		return none, err
	}
	raw, err := im.bytes(ctx, ce)
	if err != nil {
		return none, err
	}
	cfg, err := manifest.ParseConfig(raw)
	if err != nil {
		return none, err
	}
	if len(cfg.RootFS.DiffIDs) != len(s.Layers) {
		return none, fmt.Errorf("config names %d layers, manifest.json %d: %w", len(cfg.RootFS.DiffIDs), len(s.Layers), errdefs.ErrInvalidArgument)
	}
	m := dockerManifest{SchemaVersion: 2, MediaType: manifest.DockerManifest, Layers: []ocispec.Descriptor{}}
	m.Config = ocispec.Descriptor{MediaType: manifest.DockerConfig, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	for i, name := range s.Layers {
		e, err := im.lookup(name)
		if err != nil {
			return none, err
		}
		d := ocispec.Descriptor{Digest: e.digest, Size: e.size}
		switch e.kind {
		case compression.None:
			d.MediaType = manifest.DockerLayer
			if e.digest != cfg.RootFS.DiffIDs[i] {
				return none, fmt.Errorf("layer %q is %s, its config says %s: %w", name, e.digest, cfg.RootFS.DiffIDs[i], errdefs.ErrInvalidArgument)
			}
		case compression.Gzip:
			d.MediaType = manifest.DockerLayerGzip
		case compression.Zstd:
			d.MediaType = manifest.DockerLayerZstd
		default:
			return none, fmt.Errorf("layer %q is compressed with %s: %w", name, e.kind, errdefs.ErrNotImplemented)
		}
		m.Layers = append(m.Layers, d)
	}
	if err := im.put(ctx, m.Config, raw, nil); err != nil {
		return none, err
	}
	doc, err := json.Marshal(m)
	if err != nil {
		return none, err
	}
	target := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(doc), Size: int64(len(doc))}
	return target, im.put(ctx, target, doc, manifest.GCLabels(append([]ocispec.Descriptor{m.Config}, m.Layers...)))
}

type dockerManifest struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Config        ocispec.Descriptor   `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
}
