package images

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/events"
	"strata/engined/internal/supervisor"
	"strata/pkg/cleanup"
	"strata/pkg/failpoint"
	"strata/pkg/identifiers"
	"strata/pkg/manifest"
)

// PullRequest says what to pull: a name, a tag or a digest (empty: what is in the name; if
// that has neither, every tag), for a platform ("" for the host's).
type PullRequest struct {
	Image    string
	Tag      string
	Platform string
	Auth     Auth
	Ask      AuthFunc // instead of Auth, if not nil
}

// Pull fetches and unpacks an image and tells of it in docker's words. Nothing is told
// before the registry has answered, so that a refusal can have a status of its own. Errors:
// ErrNotFound (also for access denied, as dockerd has it), ErrInvalidArgument,
// ErrUnavailable, ErrNotImplemented.
func (s *Service) Pull(ctx context.Context, r PullRequest, out Output) error {
	refs, err := s.pullReferences(ctx, r)
	if err != nil {
		return err
	}
	platform, err := parsePlatform(r.Platform)
	if err != nil {
		return err
	}
	if platform == nil {
		platform = &s.platform
	}
	for _, ref := range refs {
		if err := s.pullOne(ctx, ref, *platform, askOr(r.Ask, r.Auth), out); err != nil {
			return err
		}
	}
	return nil
}

// pullReferences reads what to pull.
func (s *Service) pullReferences(ctx context.Context, r PullRequest) ([]reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(r.Image)
	if err != nil {
		return nil, fmt.Errorf("invalid reference format: %q: %w: %w", r.Image, err, errdefs.ErrInvalidArgument)
	}
	if d, ok := named.(reference.Digested); ok && r.Tag == "" { // a tag beside a digest says nothing
		named, err = reference.WithDigest(reference.TrimNamed(named), d.Digest())
		return []reference.Named{named}, err
	}
	switch {
	case r.Tag == "" && !reference.IsNameOnly(named):
		return []reference.Named{named}, nil
	case r.Tag == "":
		return s.allTags(ctx, named, askOr(r.Ask, r.Auth))
	}
	if d, err := digest.Parse(r.Tag); err == nil {
		named, err = reference.WithDigest(reference.TrimNamed(named), d)
		return []reference.Named{named}, err
	}
	named, err = reference.WithTag(reference.TrimNamed(named), r.Tag)
	if err != nil {
		return nil, fmt.Errorf("invalid tag format: %q: %w: %w", r.Tag, err, errdefs.ErrInvalidArgument)
	}
	return []reference.Named{named}, nil
}

func (s *Service) allTags(ctx context.Context, named reference.Named, auth AuthFunc) ([]reference.Named, error) {
	opts, err := s.options(reference.Domain(named), auth)
	if err != nil {
		return nil, err
	}
	repo, err := s.registry.Repository(named.String(), opts)
	if err != nil {
		return nil, err
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return nil, pullError(named, err)
	}
	var out []reference.Named
	for _, t := range tags {
		if nt, err := reference.WithTag(named, t); err == nil {
			out = append(out, nt)
		}
	}
	return out, nil
}

// pullError has dockerd's words for a registry's refusal.
func pullError(ref reference.Named, err error) error {
	switch {
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return fmt.Errorf("pull access denied for %s, repository does not exist or may require 'docker login': %w: %w", reference.FamiliarName(ref), err, errdefs.ErrNotFound) // dockerd answers 404
	case errdefs.IsNotFound(err) && strings.Contains(err.Error(), "no match for platform"):
		return err
	case errdefs.IsNotFound(err):
		return fmt.Errorf("manifest for %s not found: manifest unknown: %w: %w", reference.FamiliarString(ref), err, errdefs.ErrNotFound) // the class is said once
	}
	return err
}

func (s *Service) pullOne(ctx context.Context, ref reference.Named, platform ocispec.Platform, auth AuthFunc, out Output) error {
	name := ref.String()
	dir, err := s.hostDir(reference.Domain(ref))
	if err != nil {
		return err
	}
	old, err := s.sup.GetImage(ctx, name)
	had := err == nil
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	ctx, done, err := s.sup.WithLease(ctx)
	if err != nil {
		return err
	}
	defer done()
	if had {
		if err := s.sup.Hold(ctx, old.Target.Digest.String()); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	told := &pullStory{out: out, ref: ref, states: map[string]layerState{}}
	err = s.sup.Pull(ctx, supervisor.PullRequest{
		Reference: name, Platform: platform, Snapshotter: s.cfg.Snapshotter,
		Access: supervisor.RegistryAccess{Ask: auth.supervisor(), Host: reference.Domain(ref), HostDir: dir},
	}, told.step)
	if err != nil {
		return pullError(ref, err)
	}
	failpoint.Pass("images/pull/pulled")
	rec, err := s.sup.GetImage(ctx, name)
	if err != nil {
		return fmt.Errorf("pulled image %q: %w", name, err)
	}
	changed := !had || old.Target.Digest != rec.Target.Digest
	if had && changed {
		if err := s.keepDangling(ctx, old); err != nil {
			return err
		}
	}
	if err := s.dropDangling(ctx, rec.Target); err != nil {
		return err
	}
	told.begin()
	out(Progress{Status: "Digest: " + rec.Target.Digest.String()})
	familiar := reference.FamiliarString(ref)
	if changed || told.fetched {
		out(Progress{Status: "Status: Downloaded newer image for " + familiar})
	} else {
		out(Progress{Status: "Status: Image is up to date for " + familiar})
	}
	if s.events != nil {
		s.events.Publish(events.Event{Type: "image", Action: "pull", ActorID: familiar, Attributes: map[string]string{"name": reference.FamiliarName(ref)}})
	}
	return nil
}

// layerState is how far docker's story of a layer has come.
type layerState uint8

const (
	layerWaiting layerState = iota + 1
	layerHere               // was in the store before
	layerLoaded
	layerDone
)

// pullStory turns containerd's progress into docker's.
type pullStory struct {
	out     Output
	ref     reference.Named
	begun   bool
	fetched bool // a layer came over the network
	states  map[string]layerState
}

func (p *pullStory) begin() {
	if p.begun {
		return
	}
	p.begun = true
	tag := "latest"
	switch r := p.ref.(type) {
	case reference.Digested:
		tag = r.Digest().String()
	case reference.Tagged:
		tag = r.Tag()
	}
	p.out(Progress{Status: "Pulling from " + reference.Path(p.ref), ID: tag})
}

// step is called in order, from one goroutine.
func (p *pullStory) step(e supervisor.Progress) {
	if e.Desc.Digest == "" {
		return
	}
	p.begin() // the registry has answered
	if !manifest.IsLayer(e.Desc.MediaType) {
		return
	}
	id := short(e.Desc.Digest)
	say := func(status string) { p.out(Progress{Status: status, ID: id, Detail: true}) }
	st := p.states[id]
	switch e.Event {
	case "waiting":
		if st == 0 {
			p.states[id] = layerWaiting
			say("Pulling fs layer")
		}
	case "downloading":
		if st < layerHere {
			p.out(Progress{Status: "Downloading", ID: id, Current: e.Progress, Total: e.Total, Detail: true})
		}
	case "complete":
		if st < layerHere {
			p.fetched = true
			p.states[id] = layerLoaded
			say("Verifying Checksum")
			say("Download complete")
		}
	case "already exists":
		if st < layerHere {
			p.states[id] = layerHere
		}
	case "extracting":
		if st < layerDone {
			p.out(Progress{Status: "Extracting", ID: id, Current: e.Progress, Total: e.Total, Detail: true})
			p.states[id] = layerLoaded
		}
	case "extracted":
		switch {
		case st == layerLoaded:
			p.out(Progress{Status: "Extracting", ID: id, Current: e.Total, Total: e.Total, Detail: true})
			say("Pull complete")
		case st < layerDone:
			say("Already exists")
		}
		p.states[id] = layerDone
	}
}

// PushRequest says what to push: a name, and a tag (empty: what is in the name; if that
// has none, every tag of the repository here).
type PushRequest struct {
	Image    string
	Tag      string
	Platform string
	Auth     Auth
	Ask      AuthFunc // instead of Auth, if not nil
	// Target, if not nil, is what to push as Image, whatever that means here. Image is a full
	// reference with a tag, or with the digest of Target.
	Target *ocispec.Descriptor
}

// askOr returns ask, or an answer with a.
func askOr(ask AuthFunc, a Auth) AuthFunc {
	if ask != nil {
		return ask
	}
	return a.Func()
}

// Push sends images to their registry and tells of it in docker's words. Errors:
// ErrNotFound, ErrInvalidArgument; what the registry says is told in the stream.
func (s *Service) Push(ctx context.Context, r PushRequest, out Output) error {
	named, err := reference.ParseNormalizedNamed(r.Image)
	if err != nil {
		return fmt.Errorf("invalid reference format: %q: %w: %w", r.Image, err, errdefs.ErrInvalidArgument)
	}
	platform, err := parsePlatform(r.Platform)
	if err != nil {
		return err
	}
	if r.Target != nil {
		return s.pushTarget(ctx, named, r, out)
	}
	if r.Tag != "" {
		if named, err = reference.WithTag(reference.TrimNamed(named), r.Tag); err != nil {
			return fmt.Errorf("invalid tag format: %q: %w: %w", r.Tag, err, errdefs.ErrInvalidArgument)
		}
	}
	names := []string{named.String()}
	if reference.IsNameOnly(named) {
		if names, err = s.namesOf(ctx, named); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("An image does not exist locally with the tag: %s: %w", reference.FamiliarName(named), errdefs.ErrNotFound) //nolint:staticcheck // clients match it
	}
	for _, n := range names {
		if _, err := s.sup.GetImage(ctx, n); errdefs.IsNotFound(err) {
			return fmt.Errorf("An image does not exist locally with the tag: %s: %w", reference.FamiliarName(named), errdefs.ErrNotFound) //nolint:staticcheck // clients match it
		} else if err != nil {
			return err
		}
	}
	out(Progress{Status: "The push refers to repository [" + named.Name() + "]"})
	for _, n := range names {
		if err := s.pushOne(ctx, supervisor.PushRequest{Name: n, Reference: n, Platform: platform}, askOr(r.Ask, r.Auth), out); err != nil {
			return err
		}
	}
	return nil
}

// pushTarget pushes what has no name that says it: for as long as it takes, it has one that
// nobody is shown.
func (s *Service) pushTarget(ctx context.Context, to reference.Named, r PushRequest, out Output) error {
	name := danglingName(*r.Target) + "-" + identifiers.Short(identifiers.New())
	if err := s.sup.CreateImage(ctx, supervisor.Image{Name: name, Target: *r.Target}); err != nil {
		return fmt.Errorf("push %s: %w", to, err)
	}
	err := s.pushOne(ctx, supervisor.PushRequest{Name: name, Reference: to.String()}, askOr(r.Ask, r.Auth), out)
	ctx, done := cleanup.Context(ctx)
	defer done()
	if derr := s.sup.DeleteImage(ctx, name, false); derr != nil && !errdefs.IsNotFound(derr) {
		err = errors.Join(err, derr)
	}
	return err
}

// namesOf returns the full references of a repository, sorted by the supervisor.
func (s *Service) namesOf(ctx context.Context, repo reference.Named) ([]string, error) {
	all, err := s.sup.Images(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, img := range all {
		if n, err := reference.ParseNormalizedNamed(img.Name); err == nil && n.Name() == repo.Name() {
			if _, tagged := n.(reference.Tagged); tagged {
				out = append(out, img.Name)
			}
		}
	}
	return out, nil
}

func (s *Service) pushOne(ctx context.Context, r supervisor.PushRequest, auth AuthFunc, out Output) error {
	ref, err := reference.ParseNormalizedNamed(r.Reference)
	if err != nil {
		return err
	}
	dir, err := s.hostDir(reference.Domain(ref))
	if err != nil {
		return err
	}
	var pushed ocispec.Descriptor
	seen := map[string]bool{}
	r.Access = supervisor.RegistryAccess{Ask: auth.supervisor(), Host: reference.Domain(ref), HostDir: dir}
	err = s.sup.Push(ctx, r, func(e supervisor.Progress) {
		if e.Event == "pushed content" {
			pushed = e.Desc
		}
		if manifest.IsLayer(e.Desc.MediaType) {
			pushStep(e, seen, out)
		}
	})
	switch {
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return fmt.Errorf("push access denied for %s, repository does not exist or may require authorization: %w", reference.FamiliarName(ref), err)
	case err != nil:
		return err
	case pushed.Digest == "":
		return errors.New("supervisor did not say what it pushed")
	}
	tag := ""
	if t, ok := ref.(reference.Tagged); ok {
		tag = t.Tag()
	}
	out(Progress{Status: tag + ": digest: " + pushed.Digest.String() + " size: " + strconv.FormatInt(pushed.Size, 10)})
	out(Progress{Detail: true, Aux: PushResult{Tag: tag, Digest: pushed.Digest.String(), Size: pushed.Size}})
	if s.events != nil {
		s.events.Publish(events.Event{Type: "image", Action: "push", ActorID: reference.FamiliarString(ref), Attributes: map[string]string{"name": reference.FamiliarName(ref)}})
	}
	return nil
}

// PushResult is the last word of a push, for machines.
type PushResult struct {
	Tag    string
	Digest string
	Size   int64
}

// pushStep tells of one layer.
func pushStep(e supervisor.Progress, seen map[string]bool, out Output) {
	id := identifiers.Short(e.Desc.Digest.Encoded())
	say := func(status string) { out(Progress{Status: status, ID: id, Detail: true}) }
	switch e.Event {
	case "waiting":
		if !seen[id] {
			seen[id] = true
			say("Preparing")
			say("Waiting")
		}
	case "uploading":
		out(Progress{Status: "Pushing", ID: id, Current: e.Progress, Total: e.Total, Detail: true})
	case "complete":
		say("Pushed")
	case "already exists":
		say("Layer already exists")
	case "mounted":
		say("Mounted from another repository")
	}
}

// Login proves credentials at a registry and returns an identity token if it issues one.
func (s *Service) Login(ctx context.Context, server string, a Auth) (string, error) {
	host := hostOf(server)
	if host == "" || host == "index.docker.io" {
		host = "docker.io"
	}
	opts, err := s.options(host, a.Func())
	if err != nil {
		return "", err
	}
	return s.registry.Login(ctx, host, a.credential(), opts)
}

// Distribution asks a registry what ref points to and for which platforms.
func (s *Service) Distribution(ctx context.Context, ref string, a Auth) (ocispec.Descriptor, []ocispec.Platform, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("invalid reference format: %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	opts, err := s.options(reference.Domain(named), a.Func())
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	repo, err := s.registry.Repository(reference.TagNameOnly(named).String(), opts)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	desc, err := repo.Resolve(ctx)
	if err != nil {
		return desc, nil, err
	}
	raw, err := repo.Manifest(ctx, desc)
	if err != nil {
		return desc, nil, err
	}
	doc, err := manifest.Parse(desc.MediaType, raw)
	if err != nil {
		return desc, nil, err
	}
	list := []ocispec.Platform{}
	if doc.IsIndex() {
		for _, m := range doc.Manifests {
			if m.Platform != nil && !manifest.IsAttestation(m) {
				list = append(list, *m.Platform)
			}
		}
		return desc, list, nil
	}
	raw, err = repo.Blob(ctx, doc.Config, manifest.MaxConfigSize)
	if err != nil {
		return desc, nil, err
	}
	cfg, err := manifest.ParseConfig(raw)
	return desc, append(list, cfg.Platform), err
}
