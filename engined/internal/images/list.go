package images

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/filters"
	"strata/pkg/manifest"
)

// labelParent, on a configuration's blob, names the image that a commit or a build step
// was made from.
const labelParent = "strata.engine/image.parent"

// Summary is an image in a list.
type Summary struct {
	Image
	RepoTags    []string // familiar
	RepoDigests []string // familiar name @ digest of the target
	Parent      digest.Digest
	Created     time.Time
	TaggedAt    time.Time // when a name last changed
	Size        int64     // bytes of all layers, unpacked
	SharedSize  int64     // of those in other images too; -1 if not asked for
	Containers  int64
}

// FilterKeys are the filters of List.
var FilterKeys = []string{"before", "dangling", "label", "reference", "since", "until"}

// ListOptions says what to list.
type ListOptions struct {
	Filters    filters.Args
	SharedSize bool
}

// List returns the images that match, newest first.
func (s *Service) List(ctx context.Context, opts ListOptions) ([]Summary, error) {
	groups, err := s.groups(ctx)
	if err != nil {
		return nil, err
	}
	match, err := s.matcher(ctx, opts.Filters)
	if err != nil {
		return nil, err
	}
	uses := s.usesByImage(ctx)
	out := []Summary{}
	for _, g := range groups {
		sum := s.summarize(g)
		if !match(&sum) {
			continue
		}
		sum.Containers = int64(len(uses[g.ID]))
		if sum.Size, err = s.size(ctx, g.Image); err != nil {
			return nil, err
		}
		out = append(out, sum)
	}
	if opts.SharedSize {
		if err := s.share(ctx, groups, out); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(out, func(a, b Summary) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// Get returns the summary of the image that ref means.
func (s *Service) Get(ctx context.Context, ref string, platform *ocispec.Platform) (Summary, error) {
	img, err := s.Resolve(ctx, ref, platform)
	if err != nil {
		return Summary{}, err
	}
	groups, err := s.groups(ctx)
	if err != nil {
		return Summary{}, err
	}
	sum := Summary{Image: img, SharedSize: -1}
	for _, g := range groups {
		if g.ID == img.ID || slices.Contains(g.Names, first(img.Names)) {
			sum = s.summarize(g)
			sum.Image = img
			sum.Names = g.Names
			sum.Created = created(img)
		}
	}
	if sum.Parent, err = s.parent(ctx, img.ID); err != nil {
		return sum, err
	}
	sum.Containers = int64(len(s.usesByImage(ctx)[img.ID]))
	sum.Size, err = s.size(ctx, img)
	return sum, err
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// parent returns the image that id was made from here, or "".
func (s *Service) parent(ctx context.Context, id digest.Digest) (digest.Digest, error) {
	info, err := s.sup.ContentInfo(ctx, id)
	if err != nil {
		return "", fmt.Errorf("image %s: %w", id, err)
	}
	return digest.Digest(info.Labels[labelParent]), nil
}

func created(img Image) time.Time {
	if img.Config.Created == nil {
		return time.Time{}
	}
	return *img.Config.Created
}

// summarize fills in what needs no further questions.
func (s *Service) summarize(g *group) Summary {
	sum := Summary{Image: g.Image, RepoTags: []string{}, RepoDigests: []string{}, SharedSize: -1, Created: created(g.Image)}
	for _, rec := range g.records {
		if rec.UpdatedAt.After(sum.TaggedAt) {
			sum.TaggedAt = rec.UpdatedAt
		}
		named, err := reference.ParseNormalizedNamed(rec.Name)
		if err != nil || isDangling(rec.Name) {
			continue
		}
		if _, ok := named.(reference.Tagged); ok {
			sum.RepoTags = append(sum.RepoTags, reference.FamiliarString(named))
		}
		if c, err := reference.WithDigest(reference.TrimNamed(named), rec.Target.Digest); err == nil {
			sum.RepoDigests = append(sum.RepoDigests, reference.FamiliarString(c))
		}
	}
	slices.Sort(sum.RepoTags)
	slices.Sort(sum.RepoDigests)
	sum.RepoTags = slices.Compact(sum.RepoTags)
	sum.RepoDigests = slices.Compact(sum.RepoDigests)
	return sum
}

func (s *Service) usesByImage(ctx context.Context) map[digest.Digest][]Use {
	out := map[digest.Digest][]Use{}
	for _, u := range s.hooks.Users(ctx) {
		out[u.ImageID] = append(out[u.ImageID], u)
	}
	return out
}

// size returns the bytes of all layers of an image.
func (s *Service) size(ctx context.Context, img Image) (int64, error) {
	sizes, err := s.layerSizes(ctx, img)
	var total int64
	for _, n := range sizes {
		total += n
	}
	return total, err
}

// layerSizes returns the bytes of each layer: as snapshot, or as blob where it is not
// unpacked.
func (s *Service) layerSizes(ctx context.Context, img Image) ([]int64, error) {
	chain := manifest.ChainIDs(img.Config.RootFS.DiffIDs)
	sizes := make([]int64, len(chain))
	for i, c := range chain {
		s.mu.Lock()
		n, ok := s.sizes[c]
		s.mu.Unlock()
		if ok {
			sizes[i] = n
			continue
		}
		n, err := s.sup.SnapshotUsage(ctx, s.cfg.Snapshotter, c.String())
		if errdefs.IsNotFound(err) {
			if i < len(img.Layers) {
				sizes[i] = img.Layers[i].Size
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("size of snapshot %s: %w", c, err)
		}
		s.mu.Lock()
		if len(s.sizes) >= cacheSize {
			clear(s.sizes)
		}
		s.sizes[c] = n
		s.mu.Unlock()
		sizes[i] = n
	}
	return sizes, nil
}

// share fills in how much of each image other images have too.
func (s *Service) share(ctx context.Context, all []*group, sums []Summary) error {
	owners := map[digest.Digest]int{}
	for _, g := range all {
		for _, c := range manifest.ChainIDs(g.Config.RootFS.DiffIDs) {
			owners[c]++
		}
	}
	for i := range sums {
		sizes, err := s.layerSizes(ctx, sums[i].Image)
		if err != nil {
			return err
		}
		sums[i].SharedSize = 0
		for j, c := range manifest.ChainIDs(sums[i].Config.RootFS.DiffIDs) {
			if owners[c] > 1 {
				sums[i].SharedSize += sizes[j]
			}
		}
	}
	return nil
}

// LayersSize returns the bytes of all layers of all images, each counted once.
func (s *Service) LayersSize(ctx context.Context) (int64, error) {
	groups, err := s.groups(ctx)
	if err != nil {
		return 0, err
	}
	seen := map[digest.Digest]bool{}
	var total int64
	for _, g := range groups {
		sizes, err := s.layerSizes(ctx, g.Image)
		if err != nil {
			return 0, err
		}
		for i, c := range manifest.ChainIDs(g.Config.RootFS.DiffIDs) {
			if !seen[c] {
				total += sizes[i]
			}
			seen[c] = true
		}
	}
	return total, nil
}

// matcher compiles filters. A bad value is of class ErrInvalidArgument.
func (s *Service) matcher(ctx context.Context, f filters.Args) (func(*Summary) bool, error) {
	var before, since, until time.Time
	var err error
	if before, err = s.createdOf(ctx, f["before"]); err != nil {
		return nil, err
	}
	if since, err = s.createdOf(ctx, f["since"]); err != nil {
		return nil, err
	}
	if f.Has("until") {
		if until, err = parseTime(f["until"][0]); err != nil {
			return nil, err
		}
	}
	dangling, err := f.Bool("dangling", false)
	if err != nil {
		return nil, err
	}
	for _, p := range f["reference"] {
		if _, err := reference.FamiliarMatch(p, exampleReference); err != nil {
			return nil, fmt.Errorf("invalid filter 'reference=%s': %w: %w", p, err, errdefs.ErrInvalidArgument)
		}
	}
	return func(sum *Summary) bool {
		switch {
		case !before.IsZero() && !sum.Created.Before(before),
			!since.IsZero() && !sum.Created.After(since),
			!until.IsZero() && !sum.Created.Before(until),
			f.Has("dangling") && dangling != (len(sum.RepoTags) == 0),
			!f.Labels(sum.Config.Config.Labels):
			return false
		}
		return !f.Has("reference") || s.keepReferences(sum, f["reference"])
	}, nil
}

// exampleReference is what a pattern is tried on.
var exampleReference, _ = reference.WithName("example/name")

// keepReferences leaves the names that match one of the patterns, and reports whether
// there are any.
func (s *Service) keepReferences(sum *Summary, patterns []string) bool {
	match := func(name string) bool {
		ref, err := reference.ParseNormalizedNamed(name)
		return err == nil && slices.ContainsFunc(patterns, func(p string) bool {
			ok, _ := reference.FamiliarMatch(p, ref)
			return ok
		})
	}
	sum.RepoTags = slices.DeleteFunc(slices.Clone(sum.RepoTags), func(n string) bool { return !match(n) })
	sum.RepoDigests = slices.DeleteFunc(slices.Clone(sum.RepoDigests), func(n string) bool { return !match(n) })
	return len(sum.RepoTags)+len(sum.RepoDigests) > 0
}

// createdOf returns when the image that a filter names was made.
func (s *Service) createdOf(ctx context.Context, refs []string) (time.Time, error) {
	if len(refs) == 0 {
		return time.Time{}, nil
	}
	img, err := s.Resolve(ctx, refs[0], nil)
	return created(img), err
}

// parseTime reads a duration before now, RFC 3339, a date or Unix seconds.
func parseTime(v string) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return time.Now().Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	sec, frac, _ := strings.Cut(v, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("invalid filter 'until=%s': %w", v, errdefs.ErrInvalidArgument)
	}
	nanos, _ := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
	return time.Unix(n, nanos), nil
}

// HistoryItem is one step of an image's making.
type HistoryItem struct {
	ID        string // of an image, or "<missing>"
	Created   time.Time
	CreatedBy string
	Comment   string
	Size      int64
	Tags      []string
}

// History returns the steps of an image, newest first.
func (s *Service) History(ctx context.Context, ref string, platform *ocispec.Platform) ([]HistoryItem, error) {
	sum, err := s.Get(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	sizes, err := s.layerSizes(ctx, sum.Image)
	if err != nil {
		return nil, err
	}
	var out []HistoryItem
	layer := 0
	for _, h := range sum.Config.History {
		item := HistoryItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			item.Created = *h.Created
		}
		if !h.EmptyLayer && layer < len(sizes) {
			item.Size = sizes[layer]
			layer++
		}
		out = append(out, item)
	}
	for ; layer < len(sizes); layer++ { // an image that tells less than it has
		out = append(out, HistoryItem{ID: "<missing>", Size: sizes[layer]})
	}
	slices.Reverse(out)
	if len(out) > 0 {
		out[0].ID, out[0].Tags = sum.ID.String(), sum.RepoTags
	}
	return out, nil
}
