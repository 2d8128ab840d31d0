package build

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/images"
	"strata/pkg/identifiers"
	"strata/pkg/manifest"
)

// base finds or pulls an image to build upon.
func (b *builder) base(ctx context.Context, ref string, p ocispec.Platform) (*dockerfile.Base, error) {
	img, err := b.baseImage(ctx, ref, p)
	if err != nil {
		return nil, err
	}
	name, unnamed := b.baseName(ref)
	out := &dockerfile.Base{
		Name: name, Unnamed: unnamed, ID: img.ID, Digest: img.Target.Digest, Manifest: img.Manifest, ChainID: img.ChainID, Layers: img.Layers, DiffIDs: img.Config.RootFS.DiffIDs,
		Platform: img.Config.Platform, Author: img.Config.Author, History: completed(img.Config),
	}
	if len(img.RawConfig) > 0 {
		if err := json.Unmarshal(img.RawConfig, &out.Config); err != nil {
			return nil, fmt.Errorf("configuration of image %s: %w: %w", ref, err, errdefs.ErrDataLoss)
		}
	}
	return out, nil
}

// baseName is what an image is called that is asked for as ref; unnamed if it is one of a
// named context that says no reference.
func (b *builder) baseName(ref string) (name string, unnamed bool) {
	name, ok := strings.CutPrefix(ref, contextImage)
	if !ok {
		return ref, false
	}
	if image, ok := strings.CutPrefix(b.r.Named[name].Ref, schemeImage); ok {
		return image, false
	}
	return name, true
}

func (b *builder) baseImage(ctx context.Context, ref string, p ocispec.Platform) (images.Image, error) {
	if name, ok := strings.CutPrefix(ref, contextImage); ok {
		n := b.r.Named[name]
		if n.Linked != nil {
			have, err := n.Linked.of(p)
			return have.image, err
		}
		if strings.HasPrefix(n.Ref, schemeLayout) {
			return b.layoutImage(ctx, name, n, p)
		}
		ref = strings.TrimPrefix(n.Ref, schemeImage)
	}
	img, err := b.s.images.Resolve(ctx, ref, &p)
	if errdefs.IsNotFound(err) || b.r.Pull && err == nil {
		if perr := b.pull(ctx, ref, p); perr != nil {
			return b.onlyImage(ctx, ref, p, perr)
		}
		img, err = b.s.images.Resolve(ctx, ref, &p)
	}
	return img, err
}

// onlyImage finds an image of another platform than p, for which a pull ended with err. One
// that is a single manifest is taken, as BuildKit does: nobody chose among platforms when it
// was made, and the linter warns. Of an index the wanted platform is missing.
func (b *builder) onlyImage(ctx context.Context, ref string, p ocispec.Platform, err error) (images.Image, error) {
	if errdefs.IsNotFound(err) && platforms.Format(p) != platforms.Format(b.s.host) {
		if perr := b.pull(ctx, ref, b.s.host); perr != nil {
			return images.Image{}, err
		}
	} else if b.r.Pull {
		return images.Image{}, err
	}
	img, rerr := b.s.images.Resolve(ctx, ref, nil)
	if rerr != nil {
		return images.Image{}, err
	}
	if img.Target.Digest == img.Manifest.Digest {
		return img, nil
	}
	return images.Image{}, fmt.Errorf("%w; the image that is here is for %s, not for %s", err, platforms.Format(img.Config.Platform), platforms.Format(p))
}

// layoutImage takes an image from a client's OCI layout into the store.
func (b *builder) layoutImage(ctx context.Context, name string, n Named, p ocispec.Platform) (images.Image, error) {
	if n.Blobs == nil {
		return images.Image{}, fmt.Errorf("context %s: its OCI layout is not there: %w", name, errdefs.ErrInvalidArgument)
	}
	ref := strings.TrimPrefix(n.Ref, schemeLayout)
	var target ocispec.Descriptor
	var err error
	if _, sum, ok := strings.Cut(ref, "@"); ok {
		target.Digest, err = digest.Parse(sum)
	} else {
		tag := "latest"
		if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
			tag = ref[i+1:]
		}
		target, err = n.Blobs.Resolve(ctx, tag)
	}
	if err != nil {
		return images.Image{}, fmt.Errorf("context %s: %s: %w", name, ref, err)
	}
	ctx, err = b.leased(ctx)
	if err != nil {
		return images.Image{}, err
	}
	if target, err = b.takeImage(ctx, n.Blobs, target, p, 0); err != nil {
		return images.Image{}, fmt.Errorf("context %s: %s: %w", name, ref, err)
	}
	return b.s.images.Open(ctx, target, &p)
}

// maxDepth bounds indexes in indexes.
const maxDepth = 4

// takeImage copies an image for a platform, and what it consists of, into the content
// store. It returns the manifest.
func (b *builder) takeImage(ctx context.Context, blobs Blobs, d ocispec.Descriptor, p ocispec.Platform, depth int) (ocispec.Descriptor, error) {
	raw, err := readBlob(ctx, blobs, d, manifest.MaxSize)
	if err != nil {
		return d, err
	}
	doc, err := manifest.Parse(d.MediaType, raw)
	if err != nil {
		return d, err
	}
	if doc.IsIndex() {
		for _, c := range manifest.Select(doc.Manifests, []ocispec.Platform{p}) {
			if !manifest.IsAttestation(c) && depth < maxDepth {
				return b.takeImage(ctx, blobs, c, p, depth+1)
			}
		}
		return d, fmt.Errorf("no image for %s: %w", platforms.Format(p), errdefs.ErrNotFound)
	}
	children := append([]ocispec.Descriptor{doc.Config}, doc.Layers...)
	for _, c := range children {
		if err := b.takeBlob(ctx, blobs, c); err != nil {
			return d, err
		}
	}
	return b.s.images.WriteDocument(ctx, doc.MediaType, raw, children)
}

// takeBlob copies one blob into the content store, unless it is there.
func (b *builder) takeBlob(ctx context.Context, blobs Blobs, d ocispec.Descriptor) error {
	r, err := blobs.Open(ctx, d)
	if err != nil {
		return fmt.Errorf("read %s: %w", d.Digest, err)
	}
	defer func() { _ = r.Close() }() // only read
	_, err = b.s.sup.WriteContent(ctx, "build-"+identifiers.Short(identifiers.New()), r, d.Digest, nil)
	return err
}

func readBlob(ctx context.Context, blobs Blobs, d ocispec.Descriptor, limit int64) ([]byte, error) {
	r, err := blobs.Open(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d.Digest, err)
	}
	defer func() { _ = r.Close() }() // only read
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d.Digest, err)
	}
	if int64(len(raw)) > limit || d.Digest.Algorithm().FromBytes(raw) != d.Digest {
		return nil, fmt.Errorf("blob %s is damaged or larger than %d bytes: %w", d.Digest, limit, errdefs.ErrDataLoss)
	}
	return raw, nil
}

// completed returns the history of an image with a line for each layer that has none, so
// that what is added says the right thing about the layers above.
func completed(cfg ocispec.Image) []ocispec.History {
	out := slices.Clone(cfg.History)
	layers := 0
	for _, h := range out {
		if !h.EmptyLayer {
			layers++
		}
	}
	for ; layers < len(cfg.RootFS.DiffIDs); layers++ {
		out = append(out, ocispec.History{Created: cfg.Created, Comment: "imported from a layer without history"})
	}
	return out
}

func (b *builder) pull(ctx context.Context, ref string, p ocispec.Platform) error {
	r := images.PullRequest{Image: ref, Platform: platforms.Format(p)}
	if named, err := images.ParseName(ref, ""); err == nil {
		if r.Auth, err = b.auth(ctx, named.String()); err != nil {
			return err
		}
		if !strings.Contains(ref, "@") {
			r.Tag = named.Tag()
		}
	}
	return b.s.images.Pull(ctx, r, func(m images.Progress) { b.o.Pulling(ref, m.ID, m.Status, m.Current, m.Total) })
}

// auth asks the client for credentials of the registry of a full reference.
func (b *builder) auth(ctx context.Context, name string) (images.Auth, error) {
	if b.r.Auth == nil {
		return images.Auth{}, nil
	}
	a, err := b.r.Auth(ctx, hostOf(name))
	if err != nil {
		return a, fmt.Errorf("credentials for %s: %w", name, err)
	}
	return a, nil
}

func hostOf(name string) string {
	host, _, _ := strings.Cut(name, "/")
	return host
}
