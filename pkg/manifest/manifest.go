package manifest

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types.
const (
	DockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	DockerIndex        = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig       = "application/vnd.docker.container.image.v1+json"
	DockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	DockerLayerGzip    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	DockerLayerZstd    = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	DockerLayerForeign = "application/vnd.docker.image.rootfs.foreign.diff.tar"

	schema1       = "application/vnd.docker.distribution.manifest.v1+json"
	schema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// Bounds in bytes. Registries refuse manifests above 4 MiB; configurations are a little
// larger in the wild.
const (
	MaxSize       = 8 << 20
	MaxConfigSize = 16 << 20
)

// maxChildren bounds the entries of a manifest or an index.
const maxChildren = 4096

// Accept lists the media types to ask a registry for, best first.
var Accept = []string{
	ocispec.MediaTypeImageIndex, DockerIndex, ocispec.MediaTypeImageManifest, DockerManifest, "*/*",
}

// Document is a parsed manifest or index.
type Document struct {
	MediaType    string
	ArtifactType string
	Annotations  map[string]string
	Manifests    []ocispec.Descriptor // of an index
	Config       ocispec.Descriptor   // of a manifest
	Layers       []ocispec.Descriptor // of a manifest, lowest first
}

// IsIndex reports whether d is an index.
func (d Document) IsIndex() bool { return IsIndex(d.MediaType) }

// Children returns what d points to: the manifests of an index, or the configuration
// and the layers.
func (d Document) Children() []ocispec.Descriptor {
	if d.IsIndex() {
		return d.Manifests
	}
	return append([]ocispec.Descriptor{d.Config}, d.Layers...)
}

type wire struct {
	SchemaVersion int                    `json:"schemaVersion"`
	MediaType     string                 `json:"mediaType"`
	ArtifactType  string                 `json:"artifactType"`
	Annotations   map[string]string      `json:"annotations"`
	Manifests     []ocispec.Descriptor   `json:"manifests"`
	Config        *ocispec.Descriptor    `json:"config"`
	Layers        []ocispec.Descriptor   `json:"layers"`
	FSLayers      []struct{ Sum string } `json:"fsLayers"`
}

// Parse reads a manifest or an index that was announced as mediaType ("" if unknown).
// Errors are of class ErrInvalidArgument: not JSON, too large, schema 1, neither or both
// of index and manifest (CVE-2021-41190), a media type that contradicts the announced
// one, or a descriptor that is not one.
func Parse(mediaType string, raw []byte) (Document, error) {
	if len(raw) > MaxSize {
		return Document{}, fmt.Errorf("manifest of %d bytes is larger than %d: %w", len(raw), MaxSize, errdefs.ErrInvalidArgument)
	}
	var w wire
	if err := json.Unmarshal(raw, &w); err != nil {
		return Document{}, fmt.Errorf("parse manifest: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if mediaType == schema1 || mediaType == schema1Signed || w.SchemaVersion == 1 || len(w.FSLayers) > 0 {
		return Document{}, fmt.Errorf("image has a schema 1 manifest, a format that is no longer supported: push it again with a current client: %w", errdefs.ErrInvalidArgument)
	}
	mt, err := w.kind(mediaType)
	if err != nil {
		return Document{}, err
	}
	d := Document{MediaType: mt, ArtifactType: w.ArtifactType, Annotations: w.Annotations, Manifests: w.Manifests, Layers: w.Layers}
	if w.Config != nil {
		d.Config = *w.Config
	}
	children := d.Children()
	if len(children) > maxChildren {
		return Document{}, fmt.Errorf("manifest has %d entries, more than %d: %w", len(children), maxChildren, errdefs.ErrInvalidArgument)
	}
	for i, c := range children {
		if err := Validate(c); err != nil {
			return Document{}, fmt.Errorf("manifest entry %d: %w", i, err)
		}
	}
	return d, nil
}

// kind decides what the document is; all that it says must agree.
func (w wire) kind(announced string) (string, error) {
	announced, _, _ = strings.Cut(announced, ";")
	mt := w.MediaType
	if mt == "" && (IsIndex(announced) || IsManifest(announced)) {
		mt = announced
	}
	isManifest := w.Config != nil || w.Layers != nil
	isIndex := w.Manifests != nil
	switch {
	case isManifest && isIndex:
		return "", fmt.Errorf("document is both an index and a manifest: %w", errdefs.ErrInvalidArgument)
	case mt == "" && isIndex:
		mt = ocispec.MediaTypeImageIndex
	case mt == "" && isManifest:
		mt = ocispec.MediaTypeImageManifest
	}
	switch {
	case !IsIndex(mt) && !IsManifest(mt):
		return "", fmt.Errorf("media type %q is not one of an image: %w", mt, errdefs.ErrInvalidArgument)
	case IsIndex(mt) && isManifest, IsManifest(mt) && isIndex:
		return "", fmt.Errorf("content contradicts media type %q: %w", mt, errdefs.ErrInvalidArgument)
	case IsManifest(mt) && w.Config == nil:
		return "", fmt.Errorf("manifest has no config: %w", errdefs.ErrInvalidArgument)
	case (IsIndex(announced) || IsManifest(announced)) && IsIndex(announced) != IsIndex(mt):
		return "", fmt.Errorf("media type %q contradicts the announced %q: %w", mt, announced, errdefs.ErrInvalidArgument)
	}
	return mt, nil
}

// Validate checks digest and size of a descriptor; errors are of class
// ErrInvalidArgument.
func Validate(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", d.Digest, err, errdefs.ErrInvalidArgument)
	}
	if d.Size < 0 {
		return fmt.Errorf("size %d of %s: %w", d.Size, d.Digest, errdefs.ErrInvalidArgument)
	}
	return nil
}

// IsIndex reports whether mt is an index or a docker manifest list.
func IsIndex(mt string) bool { return mt == ocispec.MediaTypeImageIndex || mt == DockerIndex }

// IsManifest reports whether mt is a manifest of one platform.
func IsManifest(mt string) bool { return mt == ocispec.MediaTypeImageManifest || mt == DockerManifest }

// IsConfig reports whether mt is an image's configuration.
func IsConfig(mt string) bool { return mt == ocispec.MediaTypeImageConfig || mt == DockerConfig }

// IsLayer reports whether mt is a tar layer, of any compression.
func IsLayer(mt string) bool {
	return strings.HasPrefix(mt, "application/vnd.oci.image.layer.") || strings.HasPrefix(mt, "application/vnd.docker.image.rootfs.")
}

// IsForeign reports whether a registry may refuse to hold blobs of type mt.
func IsForeign(mt string) bool {
	return strings.HasPrefix(mt, DockerLayerForeign) || strings.HasPrefix(mt, "application/vnd.oci.image.layer.nondistributable.")
}

// IsAttestation reports whether an entry of an index describes another entry instead of
// an image.
func IsAttestation(d ocispec.Descriptor) bool {
	return d.Annotations["vnd.docker.reference.type"] == "attestation-manifest"
}

// RefKey returns the name that containerd's clients give to the ingest of d.
func RefKey(d ocispec.Descriptor) string {
	kind := "unknown"
	switch {
	case IsManifest(d.MediaType):
		kind = "manifest"
	case IsIndex(d.MediaType):
		kind = "index"
	case IsLayer(d.MediaType):
		kind = "layer"
	case IsConfig(d.MediaType):
		kind = "config"
	}
	return kind + "-" + d.Digest.String()
}

// Labels that clients of containerd read and write.
const (
	LabelUncompressed = "containerd.io/uncompressed"
	labelGCContent    = "containerd.io/gc.ref.content."
	labelGCSnapshot   = "containerd.io/gc.ref.snapshot."
	labelSource       = "containerd.io/distribution.source."
)

// GCLabels returns the labels by which a document holds its children.
func GCLabels(children []ocispec.Descriptor) map[string]string {
	labels := make(map[string]string, len(children))
	counts := map[string]int{}
	for _, c := range children {
		switch {
		case IsConfig(c.MediaType):
			labels[labelGCContent+"config"] = c.Digest.String()
			continue
		case IsLayer(c.MediaType):
			labels[fmt.Sprintf("%sl.%d", labelGCContent, counts["l"])] = c.Digest.String()
			counts["l"]++
		case IsManifest(c.MediaType), IsIndex(c.MediaType):
			labels[fmt.Sprintf("%sm.%d", labelGCContent, counts["m"])] = c.Digest.String()
			counts["m"]++
		default:
			labels[fmt.Sprintf("%s%d", labelGCContent, counts[""])] = c.Digest.String()
			counts[""]++
		}
	}
	return labels
}

// SnapshotLabel returns the label by which a configuration holds its unpacked layers.
func SnapshotLabel(snapshotter string) string { return labelGCSnapshot + snapshotter }

// SourceLabel returns the label that lists the repositories of a registry that hold a
// blob, separated by commas.
func SourceLabel(host string) string { return labelSource + host }

// AddSource returns the value of a source label with repository added.
func AddSource(value, repository string) string {
	for r := range strings.SplitSeq(value, ",") {
		if r == repository {
			return value
		}
	}
	if value == "" {
		return repository
	}
	return value + "," + repository
}

// ChainIDs returns the chain id of each layer: how its unpacked state is named.
func ChainIDs(diffIDs []digest.Digest) []digest.Digest {
	chain := make([]digest.Digest, len(diffIDs))
	for i, d := range diffIDs {
		if i == 0 {
			chain[i] = d
			continue
		}
		chain[i] = digest.FromString(chain[i-1].String() + " " + d.String())
	}
	return chain
}

// ParseConfig reads an image's configuration. Errors are of class ErrInvalidArgument.
func ParseConfig(raw []byte) (ocispec.Image, error) {
	var img ocispec.Image
	if len(raw) > MaxConfigSize {
		return img, fmt.Errorf("image config of %d bytes is larger than %d: %w", len(raw), MaxConfigSize, errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(raw, &img); err != nil {
		return img, fmt.Errorf("parse image config: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	for _, d := range img.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return img, fmt.Errorf("image config: diff id %q: %w: %w", d, err, errdefs.ErrInvalidArgument)
		}
	}
	return img, nil
}
