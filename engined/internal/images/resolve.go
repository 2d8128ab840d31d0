package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/supervisor"
	"strata/pkg/manifest"
)

// danglingPrefix begins the name of an image that has lost its own. Source: moby,
// daemon/containerd.
const danglingPrefix = "moby-dangling"

func isDangling(name string) bool { return strings.HasPrefix(name, danglingPrefix+"@") }

var idPrefix = regexp.MustCompile(`^(sha256:)?([0-9a-f]{1,64})$`)

// notFound has dockerd's words.
func notFound(ref string) error {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil { // a full id is no name
		ref = reference.FamiliarString(reference.TagNameOnly(named))
	}
	return fmt.Errorf("No such image: %s: %w", ref, errdefs.ErrNotFound) //nolint:staticcheck // clients match it
}

// ForContainer returns the image that ref means on platform ("" for the host's),
// unpacked. ErrNotFound with dockerd's words if there is none.
func (s *Service) ForContainer(ctx context.Context, ref, platform string) (Image, error) {
	p, err := parsePlatform(platform)
	if err != nil {
		return Image{}, err
	}
	img, err := s.Resolve(ctx, ref, p)
	if err != nil {
		return Image{}, err
	}
	return img, s.EnsureUnpacked(ctx, img)
}

// parsePlatform reads "linux/arm64"; nil means that any will do, the host's first.
func parsePlatform(s string) (*ocispec.Platform, error) {
	if s == "" {
		return nil, nil
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("%q is not a platform: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	return &p, nil
}

// Resolve returns the image that ref means: a name with or without tag or digest, familiar
// or full; an id, or a prefix of one that is unambiguous; the digest of a manifest or an
// index. With a platform it is the image for that one; without, that of the host or else
// whatever there is. An image that comes with the engine is loaded first. Errors:
// ErrNotFound "No such image: x", ErrInvalidArgument.
//
// It asks the supervisor once (by id, mostly once): what a name points to may change at
// any time, but what a digest names never does.
func (s *Service) Resolve(ctx context.Context, ref string, platform *ocispec.Platform) (Image, error) {
	target, name, err := s.lookup(ctx, ref)
	if errdefs.IsNotFound(err) {
		loaded, lerr := s.loadEmbedded(ctx, ref)
		if lerr != nil {
			return Image{}, lerr
		}
		if loaded {
			target, name, err = s.lookup(ctx, ref)
		}
	}
	if err != nil {
		return Image{}, err
	}
	img, err := s.open(ctx, target, platform)
	if errdefs.IsNotFound(err) && platform != nil {
		return Image{}, fmt.Errorf("image with reference %s was found but does not provide the specified platform (%s): %w", ref, platforms.FormatAll(*platform), errdefs.ErrNotFound)
	}
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", ref, err)
	}
	if name != "" {
		img.Names = []string{name}
	}
	return img, nil
}

// lookup finds what ref points to and a name of it.
func (s *Service) lookup(ctx context.Context, ref string) (ocispec.Descriptor, string, error) {
	m := idPrefix.FindStringSubmatch(ref)
	if m != nil && (m[1] != "" || len(m[2]) == 64) {
		return s.lookupID(ctx, ref, m[2])
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ocispec.Descriptor{}, "", fmt.Errorf("invalid reference format: %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	full := reference.TagNameOnly(named)
	if d, ok := named.(reference.Digested); ok {
		return s.lookupDigest(ctx, named, d.Digest())
	}
	img, err := s.sup.GetImage(ctx, full.String())
	if err == nil {
		return img.Target, img.Name, nil
	}
	if errdefs.IsNotFound(err) && m != nil {
		return s.lookupID(ctx, ref, m[2])
	}
	if errdefs.IsNotFound(err) {
		return ocispec.Descriptor{}, "", notFound(ref)
	}
	return ocispec.Descriptor{}, "", err
}

// lookupDigest finds an image of the repository whose target is d.
func (s *Service) lookupDigest(ctx context.Context, named reference.Named, d digest.Digest) (ocispec.Descriptor, string, error) {
	bare := reference.TrimNamed(named)
	if canonical, err := reference.WithDigest(bare, d); err == nil {
		if img, err := s.sup.GetImage(ctx, canonical.String()); err == nil {
			return img.Target, img.Name, nil
		} else if !errdefs.IsNotFound(err) {
			return ocispec.Descriptor{}, "", err
		}
	}
	all, err := s.sup.Images(ctx)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	for _, img := range all {
		if n, err := reference.ParseNormalizedNamed(img.Name); err == nil && n.Name() == bare.Name() && img.Target.Digest == d {
			return img.Target, img.Name, nil
		}
	}
	return ocispec.Descriptor{}, "", notFound(named.String())
}

// lookupID finds the image whose id, manifest or target begins with hex.
func (s *Service) lookupID(ctx context.Context, ref, hex string) (ocispec.Descriptor, string, error) {
	if len(hex) == 64 {
		s.mu.Lock()
		name, ok := s.hint[digest.NewDigestFromEncoded(digest.SHA256, hex)]
		s.mu.Unlock()
		if ok {
			if img, err := s.sup.GetImage(ctx, name); err == nil {
				if got, err := s.open(ctx, img.Target, nil); err == nil && got.ID.Encoded() == hex {
					return img.Target, s.shown(img.Name), nil
				}
			}
		}
	}
	groups, err := s.groups(ctx)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	var found *group
	for _, g := range groups {
		if !strings.HasPrefix(g.ID.Encoded(), hex) {
			continue
		}
		if found != nil {
			return ocispec.Descriptor{}, "", fmt.Errorf("multiple IDs found with provided prefix: %s: %w", ref, errdefs.ErrInvalidArgument)
		}
		found = g
	}
	if found != nil {
		img := found.records[0]
		return img.Target, s.shown(img.Name), nil
	}
	for _, g := range groups {
		for _, img := range g.records {
			if strings.HasPrefix(img.Target.Digest.Encoded(), hex) || strings.HasPrefix(g.Manifest.Digest.Encoded(), hex) && len(hex) >= 12 {
				return img.Target, s.shown(img.Name), nil
			}
		}
	}
	return ocispec.Descriptor{}, "", notFound(ref)
}

// shown returns a name as users see it: none for a dangling image.
func (s *Service) shown(name string) string {
	if isDangling(name) {
		return ""
	}
	return name
}

// open reads manifest and configuration of target for a platform. What it has read once
// it knows: digests name bytes.
func (s *Service) open(ctx context.Context, target ocispec.Descriptor, platform *ocispec.Platform) (Image, error) {
	key := target.Digest.String()
	if platform != nil {
		key += " " + platforms.FormatAll(*platform)
	}
	s.mu.Lock()
	img, ok := s.parsed[key]
	s.mu.Unlock()
	if ok {
		return img, nil
	}
	wanted := []ocispec.Platform{s.platform}
	if platform != nil {
		wanted[0] = *platform
	}
	img, err := s.read(ctx, target, wanted, 0)
	if errdefs.IsNotFound(err) && platform == nil {
		img, err = s.read(ctx, target, nil, 0)
		if err == nil {
			img.Target = target
			return img, nil // not cached: the host's own platform may arrive later
		}
	}
	if err != nil {
		return Image{}, err
	}
	img.Target = target
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.parsed) >= cacheSize {
		clear(s.parsed)
	}
	s.parsed[key] = img
	return img, nil
}

// read walks from desc to the image for wanted; no wanted platform takes the first image
// that is there.
func (s *Service) read(ctx context.Context, desc ocispec.Descriptor, wanted []ocispec.Platform, depth int) (Image, error) {
	raw, err := s.sup.ReadContent(ctx, desc.Digest, manifest.MaxSize)
	if err != nil {
		return Image{}, err
	}
	doc, err := manifest.Parse(desc.MediaType, raw)
	if err != nil {
		return Image{}, err
	}
	if doc.IsIndex() {
		err := fmt.Errorf("index %s has no image for it: %w", desc.Digest, errdefs.ErrNotFound)
		if depth > 4 {
			return Image{}, err
		}
		for _, c := range manifest.Select(doc.Manifests, wanted) {
			if manifest.IsAttestation(c) {
				continue
			}
			img, cerr := s.read(ctx, c, wanted, depth+1)
			if cerr == nil {
				return img, nil
			}
			err = errors.Join(err, cerr)
		}
		return Image{}, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound) // whatever the entries lack, the image is not here
	}
	raw, err = s.sup.ReadContent(ctx, doc.Config.Digest, manifest.MaxConfigSize)
	if err != nil {
		return Image{}, err
	}
	cfg, err := manifest.ParseConfig(raw)
	if err != nil {
		return Image{}, err
	}
	if !manifest.Runs(cfg.Platform, wanted) {
		return Image{}, fmt.Errorf("image is for %s: %w", platforms.FormatAll(cfg.Platform), errdefs.ErrNotFound)
	}
	img := Image{ID: doc.Config.Digest, Manifest: desc, Config: cfg, Layers: doc.Layers}
	img.Manifest.Platform = nil
	var parts struct {
		Config json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return Image{}, err
	}
	img.RawConfig = parts.Config
	if chain := manifest.ChainIDs(cfg.RootFS.DiffIDs); len(chain) > 0 {
		img.ChainID = chain[len(chain)-1]
	}
	return img, nil
}

// EnsureUnpacked makes the snapshots of an image if they are not there.
func (s *Service) EnsureUnpacked(ctx context.Context, img Image) error {
	if img.ChainID == "" {
		return nil
	}
	_, err := s.sup.StatSnapshot(ctx, s.cfg.Snapshotter, img.ChainID.String())
	if !errdefs.IsNotFound(err) {
		return err
	}
	if len(img.Layers) != len(img.Config.RootFS.DiffIDs) {
		return fmt.Errorf("image %s: config names %d layers, manifest %d: %w", img.ID, len(img.Config.RootFS.DiffIDs), len(img.Layers), errdefs.ErrInvalidArgument)
	}
	ctx, done, err := s.sup.WithLease(ctx)
	if err != nil {
		return err
	}
	defer done()
	chain := manifest.ChainIDs(img.Config.RootFS.DiffIDs)
	if err := s.sup.LabelContent(ctx, img.ID, map[string]string{manifest.SnapshotLabel(s.cfg.Snapshotter): img.ChainID.String()}); err != nil {
		return fmt.Errorf("unpack image %s: %w", img.ID, err)
	}
	parent := ""
	for i, l := range img.Layers {
		if err := s.unpackLayer(ctx, l, img.Config.RootFS.DiffIDs[i], chain[i].String(), parent); err != nil {
			return fmt.Errorf("unpack image %s: %w", img.ID, err)
		}
		parent = chain[i].String()
	}
	return nil
}

// unpackLayer makes one snapshot, as all of containerd's clients do.
func (s *Service) unpackLayer(ctx context.Context, layer ocispec.Descriptor, diffID digest.Digest, chainID, parent string) error {
	if _, err := s.sup.StatSnapshot(ctx, s.cfg.Snapshotter, chainID); err == nil {
		return nil
	}
	key := extractKey(chainID)
	mounts, err := s.sup.PrepareSnapshot(ctx, s.cfg.Snapshotter, key, parent, nil)
	if err != nil {
		return fmt.Errorf("prepare snapshot: %w", err)
	}
	applied, err := s.sup.ApplyDiff(ctx, layer, mounts)
	if err == nil && applied.Digest != diffID {
		err = fmt.Errorf("layer %s unpacks to %s, its image says %s: %w", layer.Digest, applied.Digest, diffID, errdefs.ErrDataLoss)
	}
	if err == nil {
		err = s.sup.CommitSnapshot(ctx, s.cfg.Snapshotter, chainID, key, nil)
		if err == nil {
			return s.sup.LabelContent(ctx, layer.Digest, map[string]string{manifest.LabelUncompressed: diffID.String()})
		}
	}
	rerr := s.removeSnapshot(ctx, key)
	if errdefs.IsAlreadyExists(err) {
		return rerr
	}
	return errors.Join(err, rerr)
}

// group is an image with all its names.
type group struct {
	Image
	records []supervisor.Image
}

// groups returns all images by id; names that point to nothing readable are left out.
func (s *Service) groups(ctx context.Context) ([]*group, error) {
	all, err := s.sup.Images(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	byID := map[digest.Digest]*group{}
	var out []*group
	for _, rec := range all {
		img, err := s.open(ctx, rec.Target, nil)
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) || errdefs.IsDataLoss(err) {
			continue // an artifact, or content that somebody removed
		}
		if err != nil {
			return nil, err
		}
		g, ok := byID[img.ID]
		if !ok {
			g = &group{Image: img}
			g.Names = nil
			byID[img.ID] = g
			out = append(out, g)
		}
		g.records = append(g.records, rec)
		if !isDangling(rec.Name) {
			g.Names = append(g.Names, rec.Name)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.hint)
	for _, g := range out {
		slices.Sort(g.Names)
		slices.SortFunc(g.records, func(a, b supervisor.Image) int { return strings.Compare(a.Name, b.Name) })
		s.hint[g.ID] = g.records[0].Name
	}
	return out, nil
}
