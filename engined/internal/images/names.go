package images

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/filters"
	"strata/engined/internal/supervisor"
	"strata/pkg/cleanup"
	"strata/pkg/failpoint"
	"strata/pkg/identifiers"
	"strata/pkg/manifest"
)

// extractKey returns a key for a snapshot on its way to chainID, as containerd's clients
// form it.
func extractKey(chainID string) string {
	var salt [3]byte
	_, _ = rand.Read(salt[:]) // never fails: crypto/rand.Read, Go 1.24
	return fmt.Sprintf("extract-%d-%s %s", time.Now().Nanosecond(), hex.EncodeToString(salt[:]), chainID)
}

// removeSnapshot undoes a Prepare.
func (s *Service) removeSnapshot(ctx context.Context, key string) error {
	ctx, cancel := cleanup.Context(ctx)
	defer cancel()
	if err := s.sup.RemoveSnapshot(ctx, s.cfg.Snapshotter, key); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove snapshot %q: %w", key, err)
	}
	return nil
}

// SetName points a full reference at target. The image that had the name, and loses its
// last one by it, stays as a dangling one.
func (s *Service) SetName(ctx context.Context, name string, target ocispec.Descriptor) error {
	old, err := s.sup.GetImage(ctx, name)
	switch {
	case errdefs.IsNotFound(err):
		err = s.sup.CreateImage(ctx, supervisor.Image{Name: name, Target: target})
		if errdefs.IsAlreadyExists(err) {
			err = s.sup.RetargetImage(ctx, supervisor.Image{Name: name, Target: target})
		}
	case err == nil && old.Target.Digest != target.Digest:
		if err = s.keepDangling(ctx, old); err == nil {
			err = s.sup.RetargetImage(ctx, supervisor.Image{Name: name, Target: target})
		}
	}
	if err != nil {
		return fmt.Errorf("name image %q: %w", name, err)
	}
	if isDangling(name) {
		return nil // it is the one that would be dropped
	}
	return s.dropDangling(ctx, target)
}

func danglingName(target ocispec.Descriptor) string {
	return danglingPrefix + "@" + target.Digest.String()
}

// keepDangling gives the target of rec a dangling name unless another name has it.
func (s *Service) keepDangling(ctx context.Context, rec supervisor.Image) error {
	all, err := s.sup.Images(ctx)
	if err != nil {
		return err
	}
	for _, img := range all {
		if img.Name != rec.Name && img.Target.Digest == rec.Target.Digest {
			return nil
		}
	}
	err = s.sup.CreateImage(ctx, supervisor.Image{Name: danglingName(rec.Target), Target: rec.Target})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("keep untagged image: %w", err)
	}
	return nil
}

// dropDangling removes the dangling name of a target that has a real one now.
func (s *Service) dropDangling(ctx context.Context, target ocispec.Descriptor) error {
	err := s.sup.DeleteImage(ctx, danglingName(target), false)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove dangling name: %w", err)
	}
	return nil
}

// ParseName reads the name that an image is to get: repository and tag ("" means what is
// in repository, or "latest"). A digest is refused. Errors are of class
// ErrInvalidArgument.
func ParseName(repository, tag string) (reference.NamedTagged, error) {
	named, err := reference.ParseNormalizedNamed(repository)
	if err != nil {
		return nil, fmt.Errorf("invalid reference format: %q: %w: %w", repository, err, errdefs.ErrInvalidArgument)
	}
	if _, ok := named.(reference.Digested); ok {
		return nil, fmt.Errorf("refusing to create a tag with a digest reference: %w", errdefs.ErrInvalidArgument)
	}
	if tag != "" {
		nt, err := reference.WithTag(reference.TrimNamed(named), tag)
		if err != nil {
			return nil, fmt.Errorf("invalid tag format: %q: %w: %w", tag, err, errdefs.ErrInvalidArgument)
		}
		return nt, nil
	}
	nt, _ := reference.TagNameOnly(named).(reference.NamedTagged)
	return nt, nil
}

// Tag gives the image that ref means another name.
func (s *Service) Tag(ctx context.Context, ref, repository, tag string) error {
	name, err := ParseName(repository, tag)
	if err != nil {
		return err
	}
	img, err := s.Resolve(ctx, ref, nil)
	if err != nil {
		return err
	}
	if err := s.SetName(ctx, name.String(), img.Target); err != nil {
		return err
	}
	s.publish("tag", img.ID.String(), reference.FamiliarString(name))
	return nil
}

// Removed is a step of a removal: one of the two is set.
type Removed struct {
	Untagged string
	Deleted  string
}

// RemoveOptions are those of DELETE /images/{name}.
type RemoveOptions struct {
	Force   bool
	NoPrune bool // accepted; the supervisor frees what nothing refers to
}

// Remove takes a name from an image, or by id all of them, and the image with the last one.
// An image that a container uses is not removed: an error of class ErrConflict with
// dockerd's words, which Force overrides as far as dockerd lets it.
func (s *Service) Remove(ctx context.Context, ref string, opts RemoveOptions) ([]Removed, error) {
	img, err := s.Resolve(ctx, ref, nil)
	if err != nil {
		return nil, err
	}
	g, err := s.groupOf(ctx, img.ID)
	if err != nil {
		return nil, err
	}
	uses := s.usesByImage(ctx)[img.ID]
	byID := len(img.Names) == 0 || isIDOf(ref, img, g)
	if byID {
		return s.removeByID(ctx, g, uses, opts)
	}
	name := img.Names[0]
	others := slices.DeleteFunc(slices.Clone(g.Names), func(n string) bool { return n == name })
	if len(others) > 0 {
		return s.untag(ctx, g, []string{name})
	}
	if len(uses) > 0 && !opts.Force {
		return nil, conflict("conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s", ref, identifiers.Short(uses[0].ContainerID), short(g.ID))
	}
	if running(uses) != nil {
		if err := s.keepDangling(ctx, g.records[0]); err != nil {
			return nil, err
		}
		return s.untag(ctx, g, []string{name})
	}
	return s.delete(ctx, g)
}

// isIDOf reports whether ref named the image by id rather than by a name.
func isIDOf(ref string, img Image, g *group) bool {
	m := idPrefix.FindStringSubmatch(ref)
	if m == nil {
		return false
	}
	if named, err := reference.ParseNormalizedNamed(ref); err == nil && slices.Contains(g.Names, reference.TagNameOnly(named).String()) {
		return false
	}
	return strings.HasPrefix(img.ID.Encoded(), m[2]) || strings.HasPrefix(img.Target.Digest.Encoded(), m[2]) || strings.HasPrefix(img.Manifest.Digest.Encoded(), m[2])
}

func conflict(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrConflict)...)
}

func short(d digest.Digest) string { return identifiers.Short(d.Encoded()) }

func running(uses []Use) *Use {
	for i := range uses {
		if uses[i].Running {
			return &uses[i]
		}
	}
	return nil
}

func (s *Service) removeByID(ctx context.Context, g *group, uses []Use, opts RemoveOptions) ([]Removed, error) {
	if u := running(uses); u != nil {
		return nil, conflict("conflict: unable to delete %s (cannot be forced) - image is being used by running container %s", short(g.ID), identifiers.Short(u.ContainerID))
	}
	if !opts.Force {
		repos := map[string]bool{}
		for _, n := range g.Names {
			if named, err := reference.ParseNormalizedNamed(n); err == nil {
				repos[named.Name()] = true
			}
		}
		if len(repos) > 1 || len(g.Names) > 1 {
			return nil, conflict("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories", short(g.ID))
		}
		if len(uses) > 0 {
			return nil, conflict("conflict: unable to delete %s (must be forced) - image is being used by stopped container %s", short(g.ID), identifiers.Short(uses[0].ContainerID))
		}
	}
	return s.delete(ctx, g)
}

// groupOf returns the image id with all its names.
func (s *Service) groupOf(ctx context.Context, id digest.Digest) (*group, error) {
	groups, err := s.groups(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if g.ID == id {
			return g, nil
		}
	}
	return nil, notFound(id.String())
}

// untag removes names of an image that keeps others.
func (s *Service) untag(ctx context.Context, g *group, names []string) ([]Removed, error) {
	var out []Removed
	for _, n := range names {
		if err := s.sup.DeleteImage(ctx, n, false); err != nil && !errdefs.IsNotFound(err) {
			return out, fmt.Errorf("untag %q: %w", n, err)
		}
		familiar := n
		if named, err := reference.ParseNormalizedNamed(n); err == nil {
			familiar = reference.FamiliarString(named)
		}
		out = append(out, Removed{Untagged: familiar})
		s.publish("untag", g.ID.String(), g.ID.String())
	}
	return out, nil
}

// delete removes all names of an image, the dangling one last and with a collection.
func (s *Service) delete(ctx context.Context, g *group) ([]Removed, error) {
	sum := s.summarize(g)
	var out []Removed
	for _, t := range sum.RepoTags {
		out = append(out, Removed{Untagged: t})
	}
	for _, d := range sum.RepoDigests {
		out = append(out, Removed{Untagged: d})
	}
	for i, rec := range g.records {
		if err := s.sup.DeleteImage(ctx, rec.Name, i == len(g.records)-1); err != nil && !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("remove image %q: %w", rec.Name, err)
		}
		if !isDangling(rec.Name) {
			s.publish("untag", g.ID.String(), g.ID.String())
		}
	}
	failpoint.Pass("images/delete/unnamed")
	out = append(out, Removed{Deleted: g.ID.String()})
	s.publish("delete", g.ID.String(), g.ID.String())
	gone, err := s.goneLayers(ctx, g.Image)
	return append(out, gone...), err
}

// goneLayers lists the layers of a removed image that went with it, topmost first.
func (s *Service) goneLayers(ctx context.Context, img Image) ([]Removed, error) {
	groups, err := s.groups(ctx)
	if err != nil {
		return nil, err
	}
	kept := map[digest.Digest]bool{}
	for _, g := range groups {
		for _, c := range manifest.ChainIDs(g.Config.RootFS.DiffIDs) {
			kept[c] = true
		}
	}
	var out []Removed
	chain := manifest.ChainIDs(img.Config.RootFS.DiffIDs)
	for _, c := range slices.Backward(chain) {
		if !kept[c] {
			out = append(out, Removed{Deleted: c.String()})
		}
	}
	return out, nil
}

// PruneFilterKeys are the filters of Prune.
var PruneFilterKeys = []string{"dangling", "label", "label!", "until"}

// Prune removes images that no container uses: the dangling ones, or with filter
// dangling=false all. It returns what went and the bytes of the layers that no other image
// has.
func (s *Service) Prune(ctx context.Context, f filters.Args) ([]Removed, int64, error) {
	dangling, err := f.Bool("dangling", true)
	if err != nil {
		return nil, 0, err
	}
	var until time.Time
	if f.Has("until") {
		if until, err = parseTime(f["until"][0]); err != nil {
			return nil, 0, err
		}
	}
	before, err := s.LayersSize(ctx)
	if err != nil {
		return nil, 0, err
	}
	groups, err := s.groups(ctx)
	if err != nil {
		return nil, 0, err
	}
	uses := s.usesByImage(ctx)
	var out []Removed
	for _, g := range groups {
		sum := s.summarize(g)
		if len(uses[g.ID]) > 0 || dangling && len(g.Names) > 0 || !f.Labels(g.Config.Config.Labels) || !until.IsZero() && !sum.Created.Before(until) {
			continue
		}
		removed, derr := s.delete(ctx, g)
		out = append(out, removed...)
		err = errors.Join(err, derr)
	}
	after, serr := s.LayersSize(ctx)
	if len(out) > 0 {
		s.publishPrune(before - after)
	}
	return out, max(before-after, 0), errors.Join(err, serr)
}
