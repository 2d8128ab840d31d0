package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"strata/pkg/manifest"
	"strata/pkg/namespaces"
	"strata/pkg/registry"
	"strata/supervisord/internal/content"
	"strata/supervisord/internal/images"
)

// parallel is how many blobs of one image are fetched at a time.
const parallel = 6

// reportEvery is the least time between two reports about one blob.
const reportEvery = 100 * time.Millisecond

// maxDepth bounds indexes in indexes.
const maxDepth = 4

// PullRequest says what to pull.
type PullRequest struct {
	Reference string // "docker.io/library/busybox:latest"
	Registry  registry.Options
	Name      string // of the image; "" means Reference
	Labels    map[string]string
	// Platforms to fetch; none means all. AllMetadata adds manifest and configuration of
	// the others.
	Platforms   []ocispec.Platform
	AllMetadata bool
	Unpacks     []Unpack
}

// Pull fetches an image, unpacks it where asked and gives it its name. Errors by class:
// ErrNotFound (no such image, or none for the platforms), ErrUnauthenticated,
// ErrPermissionDenied, ErrUnavailable, ErrInvalidArgument (a malformed document),
// ErrDataLoss (another digest than announced), ErrResourceExhausted (full disk). After an
// error the name is as it was, and what was fetched is used by the next attempt.
func (s *Service) Pull(ctx context.Context, req PullRequest, report Report) (_ images.Image, err error) {
	repo, err := s.registry.Repository(req.Reference, req.Registry)
	if err != nil {
		return images.Image{}, err
	}
	if req.Name == "" {
		req.Name = repo.Reference()
	}
	p := &pull{s: s, repo: repo, req: req, report: serial(report), slots: make(chan struct{}, parallel)}
	p.report(Progress{Event: "Resolving from OCI Registry (" + repo.Reference() + ")"})
	desc, err := repo.Resolve(ctx) // before the lease: a refusal leaves nothing behind
	if err != nil {
		return images.Image{}, err
	}
	ctx, done, err := s.lease(ctx, "pull "+repo.Reference())
	if err != nil {
		return images.Image{}, err
	}
	var root *ocispec.Descriptor
	defer func() { err = done(err, root) }()
	p.report(Progress{Event: "pulling image content", Name: req.Name})
	p.report(Progress{Event: "fetching image content", Name: req.Name, Desc: &desc})
	if err := p.document(ctx, desc, []string{req.Name}, 0); err != nil {
		return images.Image{}, classify(err)
	}
	if !p.found {
		return images.Image{}, fmt.Errorf("no match for platform %s in the manifest of %q: %w", formatPlatforms(req.Platforms), repo.Reference(), errdefs.ErrNotFound)
	}
	img, err := s.save(ctx, req.Name, desc, req.Labels)
	if err != nil {
		return images.Image{}, err
	}
	root = &desc
	p.report(Progress{Event: "saved", Name: req.Name, Desc: &desc})
	p.report(Progress{Event: "Completed pull from OCI Registry (" + repo.Reference() + ")"})
	return img, nil
}

func formatPlatforms(ps []ocispec.Platform) string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = platforms.FormatAll(p)
	}
	return strings.Join(out, ", ")
}

// pull is one call of Pull.
type pull struct {
	s      *Service
	repo   *registry.Repository
	req    PullRequest
	report Report
	slots  chan struct{}
	found  bool // a manifest for the wanted platforms
}

// document fetches an index or a manifest, and then what it points to.
func (p *pull) document(ctx context.Context, desc ocispec.Descriptor, parents []string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("index %s is nested deeper than %d: %w", desc.Digest, maxDepth, errdefs.ErrInvalidArgument)
	}
	raw, there, err := p.s.readDocument(ctx, desc)
	if err != nil {
		return err
	}
	if !there {
		p.step("waiting", desc, parents, 0)
		if raw, err = p.repo.Manifest(ctx, desc); err != nil {
			return err
		}
	}
	doc, err := manifest.Parse(desc.MediaType, raw)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	children := doc.Children()
	if doc.IsIndex() {
		children = manifest.Select(doc.Manifests, p.req.Platforms)
	}
	if err := p.s.putBlob(ctx, desc, raw, p.withSource(childLabels(doc, children))); err != nil {
		return err
	}
	if there {
		p.step("already exists", desc, parents, desc.Size)
	} else {
		p.step("complete", desc, parents, desc.Size)
	}
	if !doc.IsIndex() {
		return p.image(ctx, doc, []string{manifest.RefKey(desc)})
	}
	for _, c := range children {
		if err := p.document(ctx, c, []string{manifest.RefKey(desc)}, depth+1); err != nil {
			return err
		}
	}
	return p.metadata(ctx, doc, children, manifest.RefKey(desc))
}

// childLabels numbers children by their place in the whole document, so that pulling a
// second platform adds to the labels of the first one.
func childLabels(doc manifest.Document, chosen []ocispec.Descriptor) map[string]string {
	keep := map[string]bool{}
	for _, c := range chosen {
		keep[c.Digest.String()] = true
	}
	labels := manifest.GCLabels(doc.Children())
	maps.DeleteFunc(labels, func(_, d string) bool { return !keep[d] })
	return labels
}

// metadata fetches manifest and configuration of the entries that were not chosen.
func (p *pull) metadata(ctx context.Context, doc manifest.Document, chosen []ocispec.Descriptor, parent string) error {
	if !p.req.AllMetadata {
		return nil
	}
	have := map[digest.Digest]bool{}
	for _, c := range chosen {
		have[c.Digest] = true
	}
	for _, c := range doc.Manifests {
		if have[c.Digest] || !manifest.IsManifest(c.MediaType) {
			continue
		}
		raw, err := p.repo.Manifest(ctx, c)
		if err != nil {
			return err
		}
		m, err := manifest.Parse(c.MediaType, raw)
		if err != nil {
			return err
		}
		if err := p.s.putBlob(ctx, c, raw, p.withSource(manifest.GCLabels([]ocispec.Descriptor{m.Config}))); err != nil {
			return err
		}
		if err := p.blob(ctx, m.Config, []string{parent}, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *pull) withSource(labels map[string]string) map[string]string {
	if labels == nil {
		labels = map[string]string{}
	}
	labels[manifest.SourceLabel(p.repo.Host())] = p.repo.Path()
	return labels
}

// image fetches configuration and layers of a manifest, and unpacks each layer while the
// next ones are still on their way.
func (p *pull) image(ctx context.Context, doc manifest.Document, parents []string) error {
	cfg, isImage, err := p.config(ctx, doc, parents)
	if err != nil {
		return err
	}
	if isImage && !manifest.Runs(cfg.Platform, p.req.Platforms) {
		return nil
	}
	p.found = true
	for _, l := range doc.Layers {
		p.step("waiting", l, parents, 0)
	}
	arrived := make([]chan struct{}, len(doc.Layers))
	g, gctx := errgroup.WithContext(ctx)
	for i, l := range doc.Layers {
		arrived[i] = make(chan struct{})
		g.Go(func() error {
			select {
			case p.slots <- struct{}{}:
				defer func() { <-p.slots }()
			case <-gctx.Done():
				return gctx.Err()
			}
			if err := p.blob(gctx, l, parents, nil); err != nil {
				return err
			}
			close(arrived[i])
			return nil
		})
	}
	for _, u := range p.req.Unpacks {
		if !isImage || !manifest.Runs(cfg.Platform, []ocispec.Platform{u.platform()}) {
			continue
		}
		g.Go(func() error {
			return p.s.unpack(gctx, layers{
				descs: doc.Layers, config: cfg, snapshotter: u.Snapshotter, parents: parents,
				ready: func(ctx context.Context, i int) error {
					select {
					case <-arrived[i]:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				},
			}, p.report)
		})
	}
	return g.Wait()
}

func (u Unpack) platform() ocispec.Platform {
	if u.Platform == nil {
		return platforms.DefaultSpec()
	}
	return *u.Platform
}

// config fetches the configuration, labelled with the snapshots that it will have. It
// reports false for a document that is no image (an attestation, an artifact).
func (p *pull) config(ctx context.Context, doc manifest.Document, parents []string) (ocispec.Image, bool, error) {
	desc := doc.Config
	if !manifest.IsConfig(desc.MediaType) {
		return ocispec.Image{}, false, p.blob(ctx, desc, parents, nil)
	}
	raw, there, err := p.s.readDocument(ctx, desc)
	if err != nil {
		return ocispec.Image{}, false, err
	}
	if !there {
		p.step("waiting", desc, parents, 0)
		if raw, err = p.repo.Blob(ctx, desc, manifest.MaxConfigSize); err != nil {
			return ocispec.Image{}, false, err
		}
	}
	cfg, err := manifest.ParseConfig(raw)
	if err != nil {
		return cfg, false, fmt.Errorf("image config %s: %w", desc.Digest, err)
	}
	labels := p.withSource(nil)
	if chain := manifest.ChainIDs(cfg.RootFS.DiffIDs); len(chain) > 0 {
		for _, u := range p.req.Unpacks {
			if _, name, err := p.s.snapshotter(u.Snapshotter); err == nil && manifest.Runs(cfg.Platform, []ocispec.Platform{u.platform()}) {
				labels[manifest.SnapshotLabel(name)] = chain[len(chain)-1].String()
			}
		}
	}
	if err := p.s.putBlob(ctx, desc, raw, labels); err != nil {
		return cfg, false, err
	}
	event := "complete"
	if there {
		event = "already exists"
	}
	p.step(event, desc, parents, desc.Size)
	return cfg, true, nil
}

func (p *pull) step(event string, desc ocispec.Descriptor, parents []string, n int64) {
	p.report(Progress{Event: event, Name: manifest.RefKey(desc), Parents: parents, Progress: n, Total: desc.Size, Desc: &desc})
}

// blob fetches one blob into the content store.
func (p *pull) blob(ctx context.Context, desc ocispec.Descriptor, parents []string, labels map[string]string) error {
	labels = p.withSource(labels)
	there, err := p.s.relabel(ctx, desc.Digest, labels)
	if err != nil {
		return err
	}
	if there {
		p.step("already exists", desc, parents, desc.Size)
		return nil
	}
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	var last time.Time
	progress := func(n int64) {
		if now := time.Now(); now.Sub(last) >= reportEvery && n < desc.Size {
			last = now
			p.step("downloading", desc, parents, n)
		}
	}
	worked, err := p.s.blobs.do(ctx, ns+"/"+desc.Digest.String(), progress, func(ctx context.Context, tell func(int64)) error {
		return p.download(ctx, desc, labels, tell)
	})
	if err != nil {
		return err
	}
	if !worked {
		if _, err := p.s.relabel(ctx, desc.Digest, labels); err != nil {
			return err
		}
	}
	p.step("complete", desc, parents, desc.Size)
	return nil
}

// download fills and commits the ingest of desc.
func (p *pull) download(ctx context.Context, desc ocispec.Descriptor, labels map[string]string, tell func(int64)) error {
	for attempt := 0; ; attempt++ {
		w, err := p.s.openIngest(ctx, desc)
		if errdefs.IsAlreadyExists(err) {
			_, err = p.s.relabel(ctx, desc.Digest, labels)
			return err
		}
		if err != nil {
			return fmt.Errorf("open ingest of %s: %w", desc.Digest, err)
		}
		sk := &sink{Writer: w}
		resumed, err := sk.Offset()
		if err == nil {
			err = p.repo.Fetch(ctx, desc, sk, tell)
		}
		if err != nil {
			return errors.Join(err, w.Close())
		}
		err = w.Commit(ctx, desc.Size, desc.Digest, labels)
		cerr := w.Close()
		switch {
		case err == nil, errdefs.IsAlreadyExists(err):
			return cerr
		case errdefs.IsFailedPrecondition(err) && resumed > 0 && attempt == 0:
			// What an earlier attempt left may be what is wrong: once from the start.
			if aerr := p.s.stores.Content.Abort(ctx, manifest.RefKey(desc)); aerr != nil && !errdefs.IsNotFound(aerr) {
				return errors.Join(err, aerr)
			}
			continue
		case errdefs.IsFailedPrecondition(err):
			_ = p.s.stores.Content.Abort(ctx, manifest.RefKey(desc)) // nothing of it is worth resuming
			return fmt.Errorf("registry %s sent other bytes for blob %s: %w: %w", p.repo.Host(), desc.Digest, err, errdefs.ErrDataLoss)
		}
		return fmt.Errorf("commit blob %s: %w", desc.Digest, err)
	}
}

// sink makes a content writer a registry's sink.
type sink struct{ content.Writer }

// Offset implements registry.Sink.
func (s *sink) Offset() (int64, error) {
	st, err := s.Status()
	return st.Offset, err
}

// openIngest opens the ingest of desc; while another process holds it, it waits.
func (s *Service) openIngest(ctx context.Context, desc ocispec.Descriptor) (content.Writer, error) {
	wait := 50 * time.Millisecond
	for {
		w, err := s.stores.Content.OpenWriter(ctx, content.WriterOptions{Ref: manifest.RefKey(desc), Descriptor: desc})
		if !errdefs.IsUnavailable(err) {
			return w, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
			wait = min(2*wait, 2*time.Second)
		}
	}
}

// readDocument returns a small blob if it is there.
func (s *Service) readDocument(ctx context.Context, desc ocispec.Descriptor) ([]byte, bool, error) {
	if desc.Size > manifest.MaxConfigSize {
		return nil, false, fmt.Errorf("document %s of %d bytes is larger than %d: %w", desc.Digest, desc.Size, manifest.MaxConfigSize, errdefs.ErrInvalidArgument)
	}
	r, err := s.stores.Content.OpenReader(ctx, desc.Digest)
	if errdefs.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	raw := make([]byte, r.Size())
	if r.Size() > manifest.MaxConfigSize {
		return nil, false, errors.Join(fmt.Errorf("document %s of %d bytes: %w", desc.Digest, r.Size(), errdefs.ErrInvalidArgument), r.Close())
	}
	if n, err := r.ReadAt(raw, 0); n < len(raw) {
		return nil, false, errors.Join(fmt.Errorf("read document %s: %w", desc.Digest, err), r.Close())
	}
	if err := r.Close(); err != nil {
		return nil, false, err
	}
	if desc.Digest.Algorithm().FromBytes(raw) != desc.Digest {
		return nil, false, nil // damaged on disk: fetch it again
	}
	return raw, true, nil
}

// putBlob stores a small blob with labels, or adds the labels if it is there. Under a
// lease the blob is held by it either way.
func (s *Service) putBlob(ctx context.Context, desc ocispec.Descriptor, raw []byte, labels map[string]string) error {
	desc.Size = int64(len(raw))
	w, err := s.openIngest(ctx, desc)
	if err == nil {
		if err = w.Truncate(0); err == nil {
			_, err = bytes.NewReader(raw).WriteTo(w)
		}
		if err == nil {
			err = w.Commit(ctx, desc.Size, desc.Digest, labels)
		}
		err = errors.Join(err, w.Close())
	}
	if errdefs.IsAlreadyExists(err) {
		_, err = s.relabel(ctx, desc.Digest, labels)
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", desc.Digest, err)
	}
	return nil
}

// relabel adds labels to a blob and reports whether it is there. Lists of sources grow.
func (s *Service) relabel(ctx context.Context, dgst digest.Digest, labels map[string]string) (bool, error) {
	info, err := s.stores.Content.Info(ctx, dgst)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	change := content.Info{Digest: dgst, Labels: map[string]string{}}
	var paths []string
	for k, v := range labels {
		if strings.HasPrefix(k, manifest.SourceLabel("")) {
			v = manifest.AddSource(info.Labels[k], v)
		}
		if info.Labels[k] != v {
			change.Labels[k] = v
			paths = append(paths, "labels."+k)
		}
	}
	if len(paths) == 0 {
		return true, nil
	}
	if _, err := s.stores.Content.UpdateLabels(ctx, change, paths...); err != nil {
		return false, fmt.Errorf("label %s: %w", dgst, err)
	}
	return true, nil
}
