package transfer

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"strata/pkg/manifest"
	"strata/pkg/registry"
)

// PushRequest says what to push where.
type PushRequest struct {
	Name      string // of the image
	Reference string // where to; "" means Name
	Registry  registry.Options
	// Platforms: if given, the manifest of the best match is pushed instead of an index.
	Platforms []ocispec.Platform
}

// Push makes a registry hold an image, byte for byte, and returns what the reference names
// there now. An index of which some platforms are not here is replaced by the one manifest
// that is; more than one is of class ErrNotFound, naming what is missing. Further errors as
// for Pull.
func (s *Service) Push(ctx context.Context, req PushRequest, report Report) (_ ocispec.Descriptor, err error) {
	img, err := s.find(ctx, req.Name)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("image %q: %w", req.Name, err)
	}
	if req.Reference == "" {
		req.Reference = req.Name
	}
	repo, err := s.registry.Repository(req.Reference, req.Registry)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	ctx, done, err := s.lease(ctx, "push "+repo.Reference())
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() {
		if derr := done(nil, nil); err == nil {
			err = derr
		}
	}()
	p := &push{s: s, repo: repo, report: serial(report), slots: make(chan struct{}, parallel)}
	target, err := p.choose(ctx, img.Target, req.Platforms)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	p.report(Progress{Event: "Pushing to OCI Registry (" + repo.Reference() + ")"})
	p.report(Progress{Event: "pushing content", Name: req.Name, Desc: &target})
	if err := p.document(ctx, target, repo.Tag(), []string{req.Name}, 0); err != nil {
		return ocispec.Descriptor{}, err
	}
	p.report(Progress{Event: "pushed content", Name: req.Name, Desc: &target})
	p.report(Progress{Event: "Completed push to OCI Registry (" + repo.Reference() + ")"})
	return target, nil
}

type push struct {
	s      *Service
	repo   *registry.Repository
	report Report
	slots  chan struct{}
}

// choose returns target, or the one manifest of it to push instead.
func (p *push) choose(ctx context.Context, target ocispec.Descriptor, wanted []ocispec.Platform) (ocispec.Descriptor, error) {
	doc, err := p.s.parse(ctx, target)
	if err != nil || !doc.IsIndex() {
		return target, err
	}
	var complete, missing []ocispec.Descriptor
	for _, c := range manifest.Select(doc.Manifests, wanted) {
		ok, err := p.s.complete(ctx, c)
		if err != nil {
			return target, err
		}
		if ok {
			complete = append(complete, c)
		} else {
			missing = append(missing, c)
		}
	}
	switch {
	case len(wanted) == 0 && len(missing) == 0:
		return target, nil
	case len(complete) == 1:
		return complete[0], nil
	case len(complete) == 0:
		return target, fmt.Errorf("image %s for platform %s: %w", target.Digest, formatPlatforms(wanted), errdefs.ErrNotFound)
	case len(wanted) > 0:
		return complete[0], nil
	}
	return target, fmt.Errorf("index %s: content of %s is missing here, pull it or choose one platform: %w", target.Digest, missing[0].Digest, errdefs.ErrNotFound)
}

// parse reads a document that has to be there.
func (s *Service) parse(ctx context.Context, desc ocispec.Descriptor) (manifest.Document, error) {
	raw, there, err := s.readDocument(ctx, desc)
	if err == nil && !there {
		err = fmt.Errorf("content %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	if err != nil {
		return manifest.Document{}, err
	}
	return manifest.Parse(desc.MediaType, raw)
}

// complete reports whether all content below desc is there.
func (s *Service) complete(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	_, err := s.stores.Content.Info(ctx, desc.Digest)
	if errdefs.IsNotFound(err) {
		return manifest.IsForeign(desc.MediaType), nil
	}
	if err != nil || (!manifest.IsManifest(desc.MediaType) && !manifest.IsIndex(desc.MediaType)) {
		return err == nil, err
	}
	doc, err := s.parse(ctx, desc)
	if err != nil {
		return false, err
	}
	for _, c := range doc.Children() {
		if ok, err := s.complete(ctx, c); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// document pushes what desc points to, and then desc.
func (p *push) document(ctx context.Context, desc ocispec.Descriptor, tag string, parents []string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("index %s is nested deeper than %d: %w", desc.Digest, maxDepth, errdefs.ErrInvalidArgument)
	}
	raw, there, err := p.s.readDocument(ctx, desc)
	if err == nil && !there {
		err = fmt.Errorf("content %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	doc, err := manifest.Parse(desc.MediaType, raw)
	if err != nil {
		return err
	}
	p.step("waiting", desc, parents, 0)
	self := []string{manifest.RefKey(desc)}
	if doc.IsIndex() {
		for _, c := range doc.Manifests {
			if err := p.document(ctx, c, "", self, depth+1); err != nil {
				return err
			}
		}
	} else if err := p.blobs(ctx, doc, self); err != nil {
		return err
	}
	if err := p.repo.PushManifest(ctx, desc, raw, tag); err != nil {
		return err
	}
	p.step("complete", desc, parents, desc.Size)
	_, err = p.s.relabel(ctx, desc.Digest, map[string]string{manifest.SourceLabel(p.repo.Host()): p.repo.Path()})
	return err
}

func (p *push) blobs(ctx context.Context, doc manifest.Document, parents []string) error {
	g, gctx := errgroup.WithContext(ctx)
	children := append(append([]ocispec.Descriptor{}, doc.Layers...), doc.Config)
	seen := map[string]bool{}
	for _, c := range children {
		if manifest.IsForeign(c.MediaType) || seen[c.Digest.String()] {
			continue
		}
		seen[c.Digest.String()] = true
		p.step("waiting", c, parents, 0)
		g.Go(func() error {
			select {
			case p.slots <- struct{}{}:
				defer func() { <-p.slots }()
			case <-gctx.Done():
				return gctx.Err()
			}
			return p.blob(gctx, c, parents)
		})
	}
	return g.Wait()
}

func (p *push) blob(ctx context.Context, desc ocispec.Descriptor, parents []string) error {
	info, err := p.s.stores.Content.Info(ctx, desc.Digest)
	if err != nil {
		return fmt.Errorf("push blob %s: %w", desc.Digest, err)
	}
	r, err := p.s.stores.Content.OpenReader(ctx, desc.Digest)
	if err != nil {
		return fmt.Errorf("push blob %s: %w", desc.Digest, err)
	}
	defer r.Close()
	var last time.Time
	label := manifest.SourceLabel(p.repo.Host())
	how, err := p.repo.PushBlob(ctx, desc, r, strings.Split(info.Labels[label], ","), func(n int64) {
		if now := time.Now(); now.Sub(last) >= reportEvery && n < desc.Size {
			last = now
			p.step("uploading", desc, parents, n)
		}
	})
	if err != nil {
		return err
	}
	event := map[registry.Pushed]string{registry.Uploaded: "complete", registry.Existed: "already exists", registry.Mounted: "mounted"}[how]
	p.step(event, desc, parents, desc.Size)
	_, err = p.s.relabel(ctx, desc.Digest, map[string]string{label: p.repo.Path()})
	return err
}

func (p *push) step(event string, desc ocispec.Descriptor, parents []string, n int64) {
	p.report(Progress{Event: event, Name: manifest.RefKey(desc), Parents: parents, Progress: n, Total: desc.Size, Desc: &desc})
}
