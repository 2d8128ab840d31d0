package transfer

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/identifiers"
	"strata/pkg/manifest"
	"strata/supervisord/internal/archive"
	"strata/supervisord/internal/images"
)

// NameRule says how an image of an archive gets further names.
type NameRule struct {
	Name string
	// Prefix makes Name the part before a tag that the archive has, or before "@DIGEST".
	Prefix bool
	// AddDigest names each image PREFIX@DIGEST; SkipNamed leaves out those with a name.
	AddDigest, SkipNamed bool
}

// ImportRequest says what to do with an archive.
type ImportRequest struct {
	Name    string // for the image of an archive of one; "" takes the archive's names
	Rules   []NameRule
	Labels  map[string]string
	Unpacks []Unpack
}

// Import stores the images of an archive, unpacks and names them. No name appears before
// all content is there. Errors: ErrInvalidArgument for a bad archive.
func (s *Service) Import(ctx context.Context, r io.Reader, req ImportRequest, report Report) (_ []images.Image, err error) {
	report = serial(report)
	ctx, done, err := s.lease(ctx, "import "+identifiers.New())
	if err != nil {
		return nil, err
	}
	var root *ocispec.Descriptor
	defer func() {
		// An archive is not resumed: what a failure leaves is nobody's.
		if derr := done(nil, root); err == nil {
			err = derr
		}
	}()
	report(Progress{Event: "Importing"})
	found, err := archive.Import(ctx, r, s.stores.Content)
	if err != nil {
		return nil, classify(err)
	}
	for _, img := range found {
		if err := s.unpackAll(ctx, img.Target, req.Unpacks, report); err != nil {
			return nil, err
		}
	}
	var out []images.Image
	for _, img := range found {
		names := namesOf(img, req, len(found) == 1)
		if len(names) == 0 {
			report(Progress{Event: "unnamed", Name: img.Target.Digest.String(), Desc: &img.Target})
			continue
		}
		for _, name := range names {
			saved, err := s.save(ctx, name, img.Target, req.Labels)
			if err != nil {
				return nil, err
			}
			out = append(out, saved)
			report(Progress{Event: "saved", Name: name, Desc: &img.Target})
		}
		root = &img.Target
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("archive gives its images no names: %w", errdefs.ErrInvalidArgument)
	}
	report(Progress{Event: "Completed import"})
	return out, nil
}

// namesOf returns the names of an image of an archive.
func namesOf(img archive.Image, req ImportRequest, only bool) []string {
	names := slices.Clone(img.Names)
	if only && req.Name != "" {
		names = []string{req.Name}
	}
	named := len(names) > 0
	for _, r := range req.Rules {
		switch {
		case !r.Prefix:
			if !named {
				names = append(names, r.Name)
			}
		case img.Tag != "" && !strings.Contains(r.Name, "@"):
			if ref, err := reference.ParseDockerRef(r.Name + ":" + img.Tag); err == nil {
				names = append(names, ref.String())
				named = true
			}
		}
		if r.Prefix && r.AddDigest && !(named && r.SkipNamed) {
			names = append(names, r.Name+"@"+img.Target.Digest.String())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// unpackAll unpacks target for each of the wishes that it has a platform for.
func (s *Service) unpackAll(ctx context.Context, target ocispec.Descriptor, wishes []Unpack, report Report) error {
	for _, u := range wishes {
		_, name, err := s.snapshotter(u.Snapshotter)
		if err != nil {
			return err
		}
		m, cfg, err := s.resolveImage(ctx, target, []ocispec.Platform{u.platform()}, 0)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		chain := manifest.ChainIDs(cfg.RootFS.DiffIDs)
		if len(chain) == 0 {
			continue
		}
		labels := map[string]string{manifest.SnapshotLabel(name): chain[len(chain)-1].String()}
		if _, err := s.relabel(ctx, m.Config.Digest, labels); err != nil {
			return err
		}
		if err := s.unpack(ctx, layers{descs: m.Layers, config: cfg, snapshotter: name}, report); err != nil {
			return err
		}
	}
	return nil
}

// ExportRequest says what to write.
type ExportRequest struct {
	// Names of images; a bare digest is the image of that content without a name, as
	// index, manifest or configuration.
	Names   []string
	Options archive.ExportOptions
}

// Export writes images to w, as archive.Export does.
func (s *Service) Export(ctx context.Context, w io.Writer, req ExportRequest, report Report) (err error) {
	ctx, done, err := s.lease(ctx, "export "+strings.Join(req.Names, " "))
	if err != nil {
		return err
	}
	defer func() {
		if derr := done(nil, nil); err == nil {
			err = derr
		}
	}()
	if report != nil {
		report(Progress{Event: "Exporting"})
	}
	var list []archive.Image
	at := map[digest.Digest]int{}
	for _, name := range req.Names {
		img, err := s.find(ctx, name)
		if err != nil {
			return fmt.Errorf("image %q: %w", name, err)
		}
		i, ok := at[img.Target.Digest]
		if !ok {
			i = len(list)
			at[img.Target.Digest] = i
			list = append(list, archive.Image{Target: img.Target})
		}
		if img.Name != "" {
			list[i].Names = append(list[i].Names, img.Name)
		}
	}
	if err := archive.Export(ctx, w, s.stores.Content, list, req.Options); err != nil {
		return err
	}
	if report != nil {
		report(Progress{Event: "Completed export"})
	}
	return nil
}

// findDigest returns the image of a name whose target is digest, with no name: whoever
// asks by digest gets no names along.
func (s *Service) findDigest(ctx context.Context, dgst string) (images.Image, error) {
	all, err := s.stores.Images.List(ctx)
	if err != nil {
		return images.Image{}, err
	}
	for _, img := range all {
		if img.Target.Digest.String() == dgst {
			return images.Image{Target: img.Target}, nil
		}
	}
	return images.Image{}, fmt.Errorf("image %q: %w", dgst, errdefs.ErrNotFound)
}
