package httpapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	registrytypes "github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/filters"
	"strata/engined/internal/images"
)

// ImagesTable serves images and registries.
type ImagesTable struct {
	svc *images.Service
}

// Images returns the routes of images.
func Images(svc *images.Service) ImagesTable { return ImagesTable{svc} }

func (a ImagesTable) routes() []route {
	return []route{
		{http.MethodGet, "/images/json", a.list},
		{http.MethodGet, "/images/search", a.search},
		{http.MethodGet, "/images/get", a.save},
		{http.MethodPost, "/images/create", a.create},
		{http.MethodPost, "/images/load", a.load},
		{http.MethodPost, "/images/prune", a.prune},
		{http.MethodGet, "/images/{name...}/get", a.saveOne},
		{http.MethodGet, "/images/{name...}/json", a.inspect},
		{http.MethodGet, "/images/{name...}/history", a.history},
		{http.MethodGet, "/images/{name...}/attestations", a.attestations},
		{http.MethodPost, "/images/{name...}/push", a.push},
		{http.MethodPost, "/images/{name...}/tag", a.tag},
		{http.MethodDelete, "/images/{name...}", a.remove},
		{http.MethodGet, "/distribution/{name...}/json", a.distribution},
		{http.MethodPost, "/auth", a.auth},
	}
}

// imageSummary is an entry of the list; VirtualSize is for clients before 1.44.
type imageSummary struct {
	image.Summary
	VirtualSize *int64 `json:"VirtualSize,omitempty"`
}

func (a ImagesTable) list(w http.ResponseWriter, r *request) error {
	args, err := filters.Parse(r.Query("filters"), images.FilterKeys...)
	if err != nil {
		return err
	}
	if f := r.Query("filter"); f != "" && !r.AtLeast("1.41") {
		args["reference"] = append(args["reference"], f)
	}
	list, err := a.svc.List(r.Context(), images.ListOptions{Filters: args, SharedSize: r.Bool("shared-size")})
	if err != nil {
		return err
	}
	out := make([]imageSummary, 0, len(list))
	for _, s := range list {
		sum := toSummary(s, r)
		if r.AtLeast("1.47") && r.Bool("manifests") {
			if sum.Manifests, err = a.manifests(r.Context(), s.Target); err != nil {
				return err
			}
		}
		out = append(out, sum)
	}
	return writeJSON(w, http.StatusOK, out)
}

func toSummary(s images.Summary, r *request) imageSummary {
	sum := imageSummary{Summary: image.Summary{
		Containers: -1, Created: s.Created.Unix(), ID: s.ID.String(), Labels: s.Config.Config.Labels, ParentID: s.Parent.String(),
		RepoDigests: s.RepoDigests, RepoTags: s.RepoTags, SharedSize: s.SharedSize, Size: s.Size,
	}}
	if s.Created.IsZero() {
		sum.Created = 0
	}
	if r.AtLeast("1.51") {
		sum.Containers = s.Containers
	}
	if r.AtLeast("1.48") {
		target := s.Target
		sum.Descriptor = &target
	}
	if !r.AtLeast("1.44") {
		sum.VirtualSize = &sum.Size
	}
	if !r.AtLeast("1.43") && len(s.RepoTags) == 0 {
		sum.RepoTags, sum.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
	}
	return sum
}

func (a ImagesTable) manifests(ctx context.Context, target ocispec.Descriptor) ([]image.ManifestSummary, error) {
	list, err := a.svc.Manifests(ctx, target)
	if err != nil {
		return nil, err
	}
	out := make([]image.ManifestSummary, 0, len(list))
	for _, m := range list {
		sum := image.ManifestSummary{ID: m.Descriptor.Digest.String(), Descriptor: m.Descriptor, Available: m.Available, Kind: image.ManifestKindUnknown}
		sum.Size.Content, sum.Size.Total = m.Content, m.Content+m.Unpacked
		switch {
		case m.Attests != "":
			sum.Kind = image.ManifestKindAttestation
			sum.AttestationData = &image.AttestationProperties{For: m.Attests}
		case m.Platform != nil:
			sum.Kind = image.ManifestKindImage
			sum.ImageData = &image.ImageProperties{Platform: *m.Platform, Containers: append([]string{}, m.ContainerID...)}
			sum.ImageData.Size.Unpacked = m.Unpacked
		}
		out = append(out, sum)
	}
	return out, nil
}

// queryPlatform reads the JSON platform of a query; nil for none.
func queryPlatform(r *request) (*ocispec.Platform, error) {
	v := r.Query("platform")
	if v == "" {
		return nil, nil
	}
	var p ocispec.Platform
	if err := json.Unmarshal([]byte(v), &p); err != nil || p.OS == "" || p.Architecture == "" {
		return nil, fmt.Errorf("invalid platform: %q is not a JSON platform: %w", v, errdefs.ErrInvalidArgument)
	}
	return &p, nil
}

// inspected is the answer of inspect; what is only for older clients is omitted for newer
// ones.
type inspected struct {
	image.InspectResponse
	Config          any               `json:"Config"`
	GraphDriver     map[string]any    `json:"GraphDriver,omitempty"`
	Comment         string            `json:"Comment"`
	Author          string            `json:"Author"`
	Parent          *string           `json:"Parent,omitempty"`
	DockerVersion   *string           `json:"DockerVersion,omitempty"`
	Container       *string           `json:"Container,omitempty"`
	ContainerConfig *container.Config `json:"ContainerConfig,omitempty"`
	VirtualSize     *int64            `json:"VirtualSize,omitempty"`
}

func (a ImagesTable) inspect(w http.ResponseWriter, r *request) error {
	platform, err := queryPlatform(r)
	if err != nil {
		return err
	}
	if r.Bool("manifests") && platform != nil {
		return fmt.Errorf("conflicting options: manifests and platform options cannot both be set: %w", errdefs.ErrInvalidArgument)
	}
	s, err := a.svc.Get(r.Context(), r.Var("name"), platform)
	if err != nil {
		return err
	}
	out, err := toInspect(s, a.svc.Snapshotter(), r)
	if err != nil {
		return err
	}
	if r.AtLeast("1.48") && r.Bool("manifests") {
		if out.Manifests, err = a.manifests(r.Context(), s.Target); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func toInspect(s images.Summary, snapshotter string, r *request) (*inspected, error) {
	out := &inspected{InspectResponse: image.InspectResponse{
		ID: s.ID.String(), RepoTags: s.RepoTags, RepoDigests: s.RepoDigests,
		Architecture: s.Config.Architecture, Variant: s.Config.Variant, Os: s.Config.OS, OsVersion: s.Config.OSVersion,
		Size: s.Size, RootFS: image.RootFS{Type: s.Config.RootFS.Type}, Metadata: image.Metadata{LastTagTime: s.TaggedAt},
	}, Author: s.Config.Author, GraphDriver: map[string]any{"Name": snapshotter, "Data": nil}}
	if !s.Created.IsZero() {
		out.Created = s.Created.Format(time.RFC3339Nano)
	}
	for _, d := range s.Config.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	if h := s.Config.History; len(h) > 0 {
		out.Comment = h[len(h)-1].Comment
	}
	if r.AtLeast("1.48") {
		target := s.Target
		out.Descriptor = &target
	}
	raw := s.RawConfig
	if len(raw) == 0 || string(raw) == "null" {
		raw = []byte("{}")
	}
	var err error
	if r.AtLeast("1.50") {
		var c v1.DockerOCIImageConfig
		err = json.Unmarshal(raw, &c)
		out.Config = c
	} else {
		var c container.Config
		err = json.Unmarshal(raw, &c)
		out.Config = c
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: parse config: %w", s.ID, err)
	}
	if !r.AtLeast("1.52") {
		parent, docker := s.Parent.String(), ""
		out.Parent, out.DockerVersion = &parent, &docker
	}
	if !r.AtLeast("1.45") {
		none := ""
		out.Container, out.ContainerConfig = &none, &container.Config{}
	}
	if !r.AtLeast("1.44") {
		out.VirtualSize = &out.Size
	}
	return out, nil
}

func (a ImagesTable) history(w http.ResponseWriter, r *request) error {
	platform, err := queryPlatform(r)
	if err != nil {
		return err
	}
	list, err := a.svc.History(r.Context(), r.Var("name"), platform)
	if err != nil {
		return err
	}
	out := make([]image.HistoryResponseItem, 0, len(list))
	for _, h := range list {
		item := image.HistoryResponseItem{Comment: h.Comment, CreatedBy: h.CreatedBy, ID: h.ID, Size: h.Size, Tags: h.Tags}
		if !h.Created.IsZero() {
			item.Created = h.Created.Unix()
		}
		out = append(out, item)
	}
	return writeJSON(w, http.StatusOK, out)
}

func (ImagesTable) attestations(http.ResponseWriter, *request) error {
	return fmt.Errorf("attestations of images: %w", errdefs.ErrNotImplemented)
}

func (ImagesTable) search(_ http.ResponseWriter, r *request) error {
	if r.Query("term") == "" {
		return fmt.Errorf("search term is missing: %w", errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("search of registries (their API has no such request, only Docker Hub's old one has): %w", errdefs.ErrNotImplemented)
}

// registryAuth reads X-Registry-Auth. What cannot be read is anonymous, as with dockerd.
func registryAuth(r *request) images.Auth {
	var c registrytypes.AuthConfig
	raw := strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(r.Header.Get(registrytypes.AuthHeader)), "=")
	if data, err := base64.RawURLEncoding.DecodeString(raw); err != nil || json.Unmarshal(data, &c) != nil {
		return images.Auth{}
	}
	return toAuth(c)
}

func toAuth(c registrytypes.AuthConfig) images.Auth {
	a := images.Auth{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}
	if data, err := base64.StdEncoding.DecodeString(c.Auth); err == nil && a.Username == "" {
		if user, pass, ok := strings.Cut(string(data), ":"); ok {
			a.Username, a.Password = user, pass
		}
	}
	return a
}

// create pulls an image, or imports one from a tar.
func (a ImagesTable) create(w http.ResponseWriter, r *request) error {
	out := newProgressStream(w, r)
	ctx := r.Context()
	if from := r.Query("fromImage"); from != "" {
		return out.end(a.svc.Pull(ctx, images.PullRequest{
			Image: from, Tag: r.Query("tag"), Platform: r.Query("platform"), Auth: registryAuth(r),
		}, out.send))
	}
	from := r.Query("fromSrc")
	if from == "" {
		return fmt.Errorf("either fromImage or fromSrc is required: %w", errdefs.ErrInvalidArgument)
	}
	req := images.ImportRequest{
		Name: r.Query("repo"), Tag: r.Query("tag"), Message: r.Query("message"),
		Changes: r.URL.Query()["changes"], Platform: r.Query("platform"),
	}
	if from == "-" {
		req.Source = r.Body
	} else {
		req.URL = from
	}
	return out.end(a.svc.Import(ctx, req, out.send))
}

func (a ImagesTable) push(w http.ResponseWriter, r *request) error {
	platform := ""
	if p, err := queryPlatform(r); err != nil {
		return err
	} else if p != nil {
		platform = formatPlatform(*p)
	}
	out := newProgressStream(w, r)
	return out.end(a.svc.Push(r.Context(), images.PushRequest{
		Image: r.Var("name"), Tag: r.Query("tag"), Platform: platform, Auth: registryAuth(r),
	}, out.send))
}

func formatPlatform(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

func (a ImagesTable) tag(w http.ResponseWriter, r *request) error {
	if r.Query("repo") == "" {
		return fmt.Errorf("repository name must have at least one component: %w", errdefs.ErrInvalidArgument)
	}
	if err := a.svc.Tag(r.Context(), r.Var("name"), r.Query("repo"), r.Query("tag")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (a ImagesTable) remove(w http.ResponseWriter, r *request) error {
	if r.URL.Query().Has("platforms") {
		return fmt.Errorf("removal of single platforms: %w", errdefs.ErrNotImplemented)
	}
	list, err := a.svc.Remove(r.Context(), r.Var("name"), images.RemoveOptions{Force: r.Bool("force"), NoPrune: r.Bool("noprune")})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, toDeleted(list))
}

func toDeleted(list []images.Removed) []image.DeleteResponse {
	var out []image.DeleteResponse
	for _, d := range list {
		out = append(out, image.DeleteResponse{Deleted: d.Deleted, Untagged: d.Untagged})
	}
	return out
}

func (a ImagesTable) prune(w http.ResponseWriter, r *request) error {
	args, err := filters.Parse(r.Query("filters"), images.PruneFilterKeys...)
	if err != nil {
		return err
	}
	list, freed, err := a.svc.Prune(r.Context(), args)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, image.PruneReport{ImagesDeleted: toDeleted(list), SpaceReclaimed: uint64(freed)})
}

// tarWriter begins the answer with the first byte, so that an error before it has a status
// of its own.
type tarWriter struct {
	w http.ResponseWriter
}

func (t tarWriter) Write(p []byte) (int, error) {
	t.w.Header().Set("Content-Type", "application/x-tar")
	return t.w.Write(p)
}

func (a ImagesTable) save(w http.ResponseWriter, r *request) error {
	return a.saveAll(w, r, r.URL.Query()["names"])
}

func (a ImagesTable) saveOne(w http.ResponseWriter, r *request) error {
	return a.saveAll(w, r, []string{r.Var("name")})
}

func (a ImagesTable) saveAll(w http.ResponseWriter, r *request, names []string) error {
	platform := ""
	if p, err := queryPlatform(r); err != nil {
		return err
	} else if p != nil {
		platform = formatPlatform(*p)
	}
	return a.svc.Save(r.Context(), names, platform, tarWriter{w})
}

func (a ImagesTable) load(w http.ResponseWriter, r *request) error {
	platform := ""
	if p, err := queryPlatform(r); err != nil {
		return err
	} else if p != nil {
		platform = formatPlatform(*p)
	}
	out := newProgressStream(w, r)
	return out.end(a.svc.Load(r.Context(), r.Body, platform, out.send))
}

func (a ImagesTable) distribution(w http.ResponseWriter, r *request) error {
	desc, platforms, err := a.svc.Distribution(r.Context(), r.Var("name"), registryAuth(r))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, registrytypes.DistributionInspect{Descriptor: desc, Platforms: platforms})
}

func (a ImagesTable) auth(w http.ResponseWriter, r *request) error {
	var c registrytypes.AuthConfig
	if err := r.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	token, err := a.svc.Login(r.Context(), c.ServerAddress, toAuth(c))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, registrytypes.AuthResponse{Status: "Login Succeeded", IdentityToken: token})
}
