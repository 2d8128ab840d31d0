package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/events"
	"strata/engined/internal/supervisor"
	"strata/pkg/compression"
	"strata/pkg/failpoint"
	"strata/pkg/identifiers"
	"strata/pkg/manifest"
	"strata/pkg/registry"
)

// Save writes images to w as an OCI layout and a docker-archive in one tar. A name without
// a tag means all tags of the repository; an id saves the image without its names. Nothing
// is written if one of them is unknown.
func (s *Service) Save(ctx context.Context, refs []string, platform string, w io.Writer) error {
	p, err := parsePlatform(platform)
	if err != nil {
		return err
	}
	var names []string
	for _, ref := range refs {
		found, err := s.saveNames(ctx, ref, p)
		if err != nil {
			return err
		}
		names = append(names, found...)
	}
	if len(names) == 0 {
		return fmt.Errorf("no image to save: %w", errdefs.ErrInvalidArgument)
	}
	if err := s.sup.Save(ctx, names, p, w); err != nil {
		return fmt.Errorf("save images: %w", err)
	}
	for _, ref := range refs {
		s.publish("save", ref, ref)
	}
	return nil
}

// saveNames returns the supervisor's names of what ref means.
func (s *Service) saveNames(ctx context.Context, ref string, p *ocispec.Platform) ([]string, error) {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil && reference.IsNameOnly(named) {
		names, err := s.namesOf(ctx, named)
		if err != nil || len(names) > 0 {
			return names, err
		}
	}
	img, err := s.Resolve(ctx, ref, p)
	if err != nil {
		return nil, err
	}
	if len(img.Names) == 0 || idPrefix.MatchString(ref) {
		return []string{img.Target.Digest.String()}, nil
	}
	return img.Names, nil
}

// Load stores the images of an archive (docker's or OCI's; plain, gzip, bzip2 or zstd) and
// tells of each: "Loaded image: x".
func (s *Service) Load(ctx context.Context, archive io.Reader, platform string, out Output) error {
	p, err := parsePlatform(platform)
	if err != nil {
		return err
	}
	if p == nil {
		p = &s.platform
	}
	before, err := s.sup.Images(ctx)
	if err != nil {
		return err
	}
	ctx, done, err := s.sup.WithLease(ctx)
	if err != nil {
		return err
	}
	defer done()
	old := map[string]supervisor.Image{}
	for _, img := range before {
		old[img.Name] = img
	}
	var saved []supervisor.Progress
	err = s.sup.Load(ctx, supervisor.LoadRequest{Archive: archive, Unnamed: danglingPrefix, Platform: *p, Snapshotter: s.cfg.Snapshotter}, func(e supervisor.Progress) {
		if e.Event == "saved" {
			saved = append(saved, e)
		}
	})
	if err != nil {
		return fmt.Errorf("load images: %w", err)
	}
	failpoint.Pass("images/load/loaded")
	for _, e := range saved {
		if err := s.loaded(ctx, e, old, out); err != nil {
			return err
		}
	}
	return nil
}

// loaded tells of an image, and keeps the one that had its name before.
func (s *Service) loaded(ctx context.Context, e supervisor.Progress, old map[string]supervisor.Image, out Output) error {
	img, err := s.open(ctx, e.Desc, nil)
	if err != nil {
		return err
	}
	if prev, ok := old[e.Name]; ok && prev.Target.Digest != e.Desc.Digest {
		if pimg, err := s.open(ctx, prev.Target, nil); err == nil && pimg.ID != img.ID {
			out(Progress{Stream: fmt.Sprintf("The image %s already exists, renaming the old one with ID %s to empty string\n", familiar(e.Name), pimg.ID)})
			if err := s.keepDangling(ctx, prev); err != nil {
				return err
			}
		}
	}
	s.publish("load", img.ID.String(), img.ID.String())
	if isDangling(e.Name) {
		out(Progress{Stream: "Loaded image ID: " + img.ID.String() + "\n"})
		return nil
	}
	out(Progress{Stream: "Loaded image: " + familiar(e.Name) + "\n"})
	return s.dropDangling(ctx, e.Desc)
}

func familiar(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(named)
}

// loadEmbedded loads the image that comes with the engine, if ref is its name.
func (s *Service) loadEmbedded(ctx context.Context, ref string) (bool, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false, nil // not a name: nothing to load
	}
	r, ok := s.hooks.Embedded(reference.TagNameOnly(named).String())
	if !ok {
		return false, nil
	}
	defer func() { _ = r.Close() }() // only read
	if err := s.Load(ctx, r, "", func(Progress) {}); err != nil {
		return false, fmt.Errorf("load embedded image %s: %w", ref, err)
	}
	return true, nil
}

// ImportRequest says how to make an image of a file system's tar.
type ImportRequest struct {
	// Source is the tar (plain, gzip, bzip2 or zstd), or nil to fetch URL.
	Source   io.Reader
	URL      string
	Name     string // "repository[:tag]"; "" for none
	Tag      string
	Message  string
	Changes  []string // Dockerfile instructions
	Platform string
}

// Import makes an image of one layer and tells its id.
func (s *Service) Import(ctx context.Context, r ImportRequest, out Output) error {
	platform := s.platform
	if p, err := parsePlatform(r.Platform); err != nil {
		return err
	} else if p != nil {
		platform = *p
	}
	name := ""
	if r.Name != "" {
		nt, err := ParseName(r.Name, r.Tag)
		if err != nil {
			return err
		}
		name = nt.String()
	}
	raw, err := ApplyChanges(nil, r.Changes)
	if err != nil {
		return err
	}
	src := r.Source
	if src == nil {
		body, err := download(ctx, r.URL)
		if err != nil {
			return err
		}
		defer func() { _ = body.Close() }() // only read
		out(Progress{Status: "Downloading from " + r.URL})
		src = body
	}
	ctx, done, err := s.sup.WithLease(ctx)
	if err != nil {
		return err
	}
	defer done()
	layer, diffID, err := s.writeLayer(ctx, src)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	if r.Message == "" {
		from := "-"
		if r.URL != "" {
			from = r.URL
		}
		r.Message = "Imported from " + from
	}
	now := time.Now().UTC()
	img, err := s.Assemble(ctx, NewImage{
		Config:  ocispec.Image{Created: &now, Platform: platform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}}, History: []ocispec.History{{Created: &now, Comment: r.Message}}},
		Runtime: raw, Layers: []ocispec.Descriptor{layer}, Name: name,
	})
	if err != nil {
		return err
	}
	s.publish("import", img.ID.String(), img.ID.String())
	out(Progress{Status: img.ID.String()})
	return nil
}

// download opens an http or https URL.
func download(ctx context.Context, url string) (io.ReadCloser, error) {
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil || (req.URL.Scheme != "http" && req.URL.Scheme != "https") {
		return nil, fmt.Errorf("import from %q: %w", url, errdefs.ErrInvalidArgument)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	if resp.StatusCode >= 400 {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("import from %q: %s: %w", url, resp.Status, errdefs.ErrNotFound)
	}
	return resp.Body, nil
}

// writeLayer stores a tar as a gzip layer and returns it with its diff id.
func (s *Service) writeLayer(ctx context.Context, src io.Reader) (ocispec.Descriptor, digest.Digest, error) {
	plain, err := compression.NewReader(src)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	defer func() { _ = plain.Close() }() // only read
	pr, pw := io.Pipe()
	diffID := digest.SHA256.Digester()
	sent := make(chan error, 1) // one result
	go func() {
		zw, err := compression.NewWriter(pw, compression.Gzip, compression.DefaultLevel)
		if err == nil {
			err = copyTar(io.MultiWriter(zw, diffID.Hash()), plain)
			err = errors.Join(err, zw.Close())
		}
		pw.CloseWithError(err)
		sent <- err
	}()
	desc, err := s.sup.WriteContent(ctx, "layer-"+identifiers.Short(identifiers.New()), pr, "", nil)
	pr.CloseWithError(io.ErrClosedPipe)
	if serr := <-sent; serr != nil && (err == nil || !strings.Contains(serr.Error(), io.ErrClosedPipe.Error())) {
		err = fmt.Errorf("read archive: %w: %w", serr, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return desc, "", err
	}
	desc.MediaType = ocispec.MediaTypeImageLayerGzip
	err = s.sup.LabelContent(ctx, desc.Digest, map[string]string{manifest.LabelUncompressed: diffID.Digest().String()})
	return desc, diffID.Digest(), err
}

// copyTar copies a tar, byte by byte, and fails if it is none.
func copyTar(dst io.Writer, src io.Reader) error {
	all := io.TeeReader(src, dst)
	for tr := tar.NewReader(all); ; {
		if _, err := tr.Next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, all) // what follows the end mark belongs to the digest
	return err
}

// NewImage is an image to be put together from layers that are in the content store.
type NewImage struct {
	Config  ocispec.Image   // without Config.Config
	Runtime json.RawMessage // the "config" object, docker's additions included; nil for an empty one
	Layers  []ocispec.Descriptor
	Name    string        // full reference; "" for none
	Parent  digest.Digest // id of the image that it was made from; may be ""

	Annotations map[string]string          // of the manifest
	Docker      bool                       // Docker's media types rather than OCI's
	Extra       map[string]json.RawMessage // further fields of the configuration
}

// Assemble writes configuration and manifest, gives the image its name (or a dangling one),
// and returns it. The caller holds a lease on the layers.
func (s *Service) Assemble(ctx context.Context, n NewImage) (Image, error) {
	target, _, err := s.Write(ctx, n)
	if err != nil {
		return Image{}, err
	}
	if n.Name == "" {
		err = s.Keep(ctx, target)
	} else {
		err = s.SetName(ctx, n.Name, target)
	}
	if err != nil {
		return Image{}, err
	}
	img, err := s.open(ctx, target, &n.Config.Platform)
	if n.Name != "" {
		img.Names = []string{n.Name}
		s.publish("tag", img.ID.String(), familiar(n.Name))
	}
	return img, err
}

// Write writes configuration and manifest of an image, and returns the descriptors of the
// manifest and of the configuration. Nobody but the caller's lease holds them.
func (s *Service) Write(ctx context.Context, n NewImage) (target, config ocispec.Descriptor, err error) {
	raw, err := encodeConfig(n)
	if err != nil {
		return target, config, err
	}
	labels := map[string]string{}
	if n.Parent != "" {
		labels[labelParent] = n.Parent.String()
	}
	config, err = s.sup.WriteContent(ctx, "config-"+identifiers.Short(identifiers.New()), strings.NewReader(string(raw)), digest.FromBytes(raw), labels)
	if err != nil {
		return target, config, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: n.Layers, Annotations: n.Annotations,
	}
	config.MediaType = ocispec.MediaTypeImageConfig
	if n.Docker {
		m.MediaType, config.MediaType, m.Annotations = manifest.DockerManifest, manifest.DockerConfig, nil
	}
	m.Config = config
	if m.Layers == nil {
		m.Layers = []ocispec.Descriptor{}
	}
	doc, err := json.Marshal(m)
	if err != nil {
		return target, config, err
	}
	target, err = s.WriteDocument(ctx, m.MediaType, doc, append([]ocispec.Descriptor{config}, n.Layers...))
	return target, config, err
}

// WriteDocument writes a manifest or an index that holds its children.
func (s *Service) WriteDocument(ctx context.Context, mediaType string, doc []byte, children []ocispec.Descriptor) (ocispec.Descriptor, error) {
	d := digest.FromBytes(doc)
	target, err := s.sup.WriteContent(ctx, "manifest-"+identifiers.Short(identifiers.New()), strings.NewReader(string(doc)), d, manifest.GCLabels(children))
	target.MediaType = mediaType
	return target, err
}

// Keep keeps an image that nobody named.
func (s *Service) Keep(ctx context.Context, target ocispec.Descriptor) error {
	return s.keepDangling(ctx, supervisor.Image{Target: target})
}

// Named tells that an image got a name.
func (s *Service) Named(id digest.Digest, name string) { s.publish("tag", id.String(), familiar(name)) }

// Open reads the image of a platform (nil: the host's) that target is or holds.
func (s *Service) Open(ctx context.Context, target ocispec.Descriptor, platform *ocispec.Platform) (Image, error) {
	return s.open(ctx, target, platform)
}

// Repository opens a repository with the engine's configuration of its registry.
func (s *Service) Repository(ref string, auth AuthFunc) (*registry.Repository, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, fmt.Errorf("invalid reference format: %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	opts, err := s.options(reference.Domain(named), auth)
	if err != nil {
		return nil, err
	}
	return s.registry.Repository(ref, opts)
}

// encodeConfig joins the parts of a configuration.
func encodeConfig(n NewImage) ([]byte, error) {
	if n.Config.RootFS.DiffIDs == nil {
		n.Config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	}
	raw, err := json.Marshal(n.Config)
	if err != nil {
		return nil, err
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil {
		return nil, err
	}
	if len(n.Runtime) > 0 {
		parts["config"] = n.Runtime
	}
	maps.Copy(parts, n.Extra)
	return json.Marshal(parts)
}

// publishPrune tells of a prune.
func (s *Service) publishPrune(reclaimed int64) {
	if s.events == nil {
		return
	}
	s.events.Publish(events.Event{Type: "image", Action: "prune", Attributes: map[string]string{"reclaimed": fmt.Sprint(max(reclaimed, 0))}})
}
