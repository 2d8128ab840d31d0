package images

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/manifest"
)

// Manifest is one entry of what an image's name points to.
type Manifest struct {
	Descriptor  ocispec.Descriptor
	Available   bool  // all of its content is here
	Content     int64 // bytes of it that are here, as blobs
	Unpacked    int64 // bytes of its snapshots
	Attests     digest.Digest
	Platform    *ocispec.Platform // nil for what is no image
	ContainerID []string
}

// Manifests returns the entries of target: of an index each, else target itself.
func (s *Service) Manifests(ctx context.Context, target ocispec.Descriptor) ([]Manifest, error) {
	raw, err := s.sup.ReadContent(ctx, target.Digest, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	doc, err := manifest.Parse(target.MediaType, raw)
	if err != nil {
		return nil, err
	}
	entries := []ocispec.Descriptor{target}
	if doc.IsIndex() {
		entries = doc.Manifests
	}
	uses := s.usesByImage(ctx)
	out := make([]Manifest, 0, len(entries))
	for _, d := range entries {
		m, err := s.manifest(ctx, d, uses)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func (s *Service) manifest(ctx context.Context, d ocispec.Descriptor, uses map[digest.Digest][]Use) (Manifest, error) {
	m := Manifest{Descriptor: d, Platform: d.Platform}
	if manifest.IsAttestation(d) {
		m.Attests, m.Platform = digest.Digest(d.Annotations["vnd.docker.reference.digest"]), nil
	}
	raw, err := s.sup.ReadContent(ctx, d.Digest, manifest.MaxSize)
	if errdefs.IsNotFound(err) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	doc, err := manifest.Parse(d.MediaType, raw)
	if err != nil || doc.IsIndex() {
		return m, nil //nolint:nilerr // an entry that is no image is listed as such
	}
	m.Available, m.Content = true, int64(len(raw))
	for _, c := range doc.Children() {
		info, err := s.sup.ContentInfo(ctx, c.Digest)
		if errdefs.IsNotFound(err) {
			m.Available = false
			continue
		}
		if err != nil {
			return m, err
		}
		m.Content += info.Size
	}
	if m.Attests != "" || !manifest.IsConfig(doc.Config.MediaType) {
		return m, nil
	}
	img, err := s.read(ctx, d, nil, 0)
	if err != nil {
		return m, nil //nolint:nilerr // its configuration is not here
	}
	m.Platform = &img.Config.Platform
	if m.Unpacked, err = s.unpackedSize(ctx, img); err != nil {
		return m, err
	}
	for _, u := range uses[img.ID] {
		m.ContainerID = append(m.ContainerID, u.ContainerID)
	}
	return m, nil
}

// unpackedSize returns the bytes of an image's snapshots, or zero if it has none.
func (s *Service) unpackedSize(ctx context.Context, img Image) (int64, error) {
	if img.ChainID == "" {
		return 0, nil
	}
	if _, err := s.sup.StatSnapshot(ctx, s.cfg.Snapshotter, img.ChainID.String()); errdefs.IsNotFound(err) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	return s.size(ctx, img)
}

// lookupTime bounds a question without a context.
const lookupTime = 5 * time.Second

// IDs returns the ids of the images that ref means; none if there is none.
func (s *Service) IDs(ref string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
	defer cancel()
	target, _, err := s.lookup(ctx, ref)
	if err != nil {
		return nil
	}
	img, err := s.open(ctx, target, nil)
	if err != nil {
		return nil
	}
	return []string{img.ID.String()}
}
