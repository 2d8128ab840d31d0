package httpapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	apibuild "github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"

	"strata/engined/internal/build"
	"strata/engined/internal/buildkit"
	"strata/engined/internal/filters"
	"strata/engined/internal/images"
	"strata/pkg/registry"
)

// buildAPI serves the classic builder's routes, and opens the way to BuildKit's protocol.
type buildAPI struct {
	builder *build.Service
	kit     *buildkit.Service
}

func (a buildAPI) routes() []route {
	if a.builder == nil {
		return []route{
			absent("POST /build", http.StatusNotImplemented, "build: not implemented"),
			absent("POST /build/prune", http.StatusNotImplemented, "build: not implemented"),
		}
	}
	return []route{
		{http.MethodPost, "/build", a.build},
		{http.MethodPost, "/build/prune", a.prune},
		{http.MethodPost, "/build/cancel", a.cancel},
		{http.MethodGet, "/build/usage", a.usage},
		{http.MethodPost, "/session", a.session},
		{http.MethodPost, "/grpc", a.grpc},
	}
}

// maxPadding bounds what may follow a context's archive, in bytes.
const maxPadding = 64 << 20

func (a buildAPI) build(w http.ResponseWriter, r *request) error {
	if r.Query("version") == "2" {
		return a.buildByKit(w, r)
	}
	req, err := buildRequest(r)
	if err != nil {
		return err
	}
	out := newProgressStream(w, r)
	done, err := a.openContext(r, &req)
	if err != nil {
		return err
	}
	defer done()
	story := newBuildStory(out, r)
	result, err := a.builder.Build(r.Context(), req, story)
	story.finish(err)
	if err != nil {
		return out.endBuild(err)
	}
	story.built(result.Image.ID.String())
	for _, t := range req.Tags {
		story.say("Successfully tagged " + images.Familiar(t) + "\n")
	}
	if r.Bool("q") {
		out.write(progressMessage{Stream: result.Image.ID.String() + "\n"})
	}
	return out.end(nil)
}

// openContext gives a request its Dockerfile and its context: the body, or what the engine
// fetches. done lets go of it.
func (a buildAPI) openContext(r *request, req *build.Request) (done func(), err error) {
	name := r.Query("dockerfile")
	if ref := r.Query("remote"); ref != "" {
		remote, err := a.builder.Remote(r.Context(), ref, req.Secrets, req.SSH)
		if err != nil {
			return nil, err
		}
		req.Context = remote
		if req.Dockerfile, err = remote.Definition(name); err != nil {
			return nil, errors.Join(err, remote.Close())
		}
		return func() { _ = remote.Close() }, nil // only files of the build
	}
	files, err := a.builder.Receive(r.Body)
	if err != nil {
		return nil, err
	}
	// Behind the archive's end may be padding. Only when the body has ended does the server
	// notice that a client hangs up.
	if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxPadding)); err != nil {
		return nil, errors.Join(fmt.Errorf("read build context: %w: %w", err, errdefs.ErrInvalidArgument), files.Close())
	}
	if req.Dockerfile, err = build.ReadDefinition(files, name); err != nil {
		return nil, errors.Join(err, files.Close())
	}
	req.Context = build.Sent(files, name)
	return func() { _ = files.Close() }, nil // only a descriptor
}

// endBuild is end for errors of builds: those of a command have its exit code, and those
// with a place say so.
func (p *progressStream) endBuild(err error) error {
	p.mu.Lock()
	began := p.began
	p.mu.Unlock()
	code := 0
	if ce, ok := errors.AsType[*build.CommandError](err); ok {
		code = ce.Code
	} else if !began {
		return err
	}
	text := message(err)
	p.write(progressMessage{Error: &progressError{Code: code, Message: text}, Message: text})
	return nil
}

// buildRequest reads the query and the headers.
func buildRequest(r *request) (build.Request, error) {
	q := r.URL.Query()
	req := build.Request{
		Target: q.Get("target"), NoCache: r.Bool("nocache"), Pull: r.Bool("pull"),
		Network: q.Get("networkmode"), ExtraHosts: q["extrahosts"], Args: map[string]string{},
	}
	for p := range strings.SplitSeq(q.Get("platform"), ",") {
		if p == "" {
			continue
		}
		parsed, err := platforms.Parse(strings.ToLower(p))
		if err != nil {
			return req, fmt.Errorf("platform %q: %w: %w", p, err, errdefs.ErrInvalidArgument)
		}
		req.Platforms = append(req.Platforms, parsed)
	}
	if r.Bool("squash") {
		return req, fmt.Errorf("squash: %w", errdefs.ErrNotImplemented)
	}
	if o := q.Get("outputs"); o != "" && o != "null" && o != "[]" {
		return req, fmt.Errorf("outputs: %w", errdefs.ErrNotImplemented)
	}
	for _, t := range q["t"] {
		if t == "" {
			continue
		}
		name, err := images.ParseName(t, "")
		if err != nil {
			return req, err
		}
		req.Tags = append(req.Tags, name.String())
	}
	args := map[string]*string{}
	if err := queryJSON(q, "buildargs", &args); err != nil {
		return req, err
	}
	for k, v := range args {
		if v != nil {
			req.Args[k] = *v
		}
	}
	if err := queryJSON(q, "labels", &req.Labels); err != nil {
		return req, err
	}
	var err error
	if req.Resources, err = buildResources(q); err != nil {
		return req, err
	}
	if v := q.Get("shmsize"); v != "" {
		if req.ShmSize, err = strconv.ParseInt(v, 10, 64); err != nil {
			return req, fmt.Errorf("shmsize %q: %w", v, errdefs.ErrInvalidArgument)
		}
	}
	if req.Auth, err = registryConfig(r.Header.Get("X-Registry-Config")); err != nil {
		return req, err
	}
	return req, nil
}

func queryJSON(q url.Values, name string, v any) error {
	text := q.Get(name)
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return fmt.Errorf("%s: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// buildResources are the limits of commands.
func buildResources(q url.Values) (container.Resources, error) {
	res := container.Resources{CpusetCpus: q.Get("cpusetcpus"), CpusetMems: q.Get("cpusetmems"), CgroupParent: q.Get("cgroupparent")}
	for _, n := range []struct {
		name string
		to   *int64
	}{
		{"memory", &res.Memory}, {"memswap", &res.MemorySwap}, {"cpushares", &res.CPUShares}, {"cpuperiod", &res.CPUPeriod}, {"cpuquota", &res.CPUQuota},
	} {
		v := q.Get(n.name)
		if v == "" {
			continue
		}
		x, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return res, fmt.Errorf("%s %q: %w", n.name, v, errdefs.ErrInvalidArgument)
		}
		*n.to = x
	}
	return res, queryJSON(q, "ulimits", &res.Ulimits)
}

// registryConfig reads X-Registry-Config: credentials by registry.
func registryConfig(header string) (func(context.Context, build.AuthQuestion) (images.Auth, error), error) {
	if header == "" {
		return nil, nil
	}
	raw, err := decodeBase64(header)
	if err != nil {
		return nil, fmt.Errorf("X-Registry-Config: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var all map[string]struct {
		Username, Password           string
		Auth                         string
		IdentityToken, RegistryToken string
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("X-Registry-Config: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return func(_ context.Context, q build.AuthQuestion) (images.Auth, error) {
		host := q.Host
		for name, c := range all {
			name = strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://")
			name, _, _ = strings.Cut(name, "/")
			if name == host || host == "docker.io" && name == "index.docker.io" || registry.ServerName(name) == registry.ServerName(host) {
				return images.Auth{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}, nil
			}
		}
		return images.Auth{}, nil
	}, nil
}

func decodeBase64(s string) ([]byte, error) {
	if raw, err := base64.URLEncoding.DecodeString(s); err == nil {
		return raw, nil
	}
	return base64.StdEncoding.DecodeString(s)
}

func (a buildAPI) usage(w http.ResponseWriter, r *request) error {
	list, err := buildCache(r.Context(), a.kit)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, list)
}

// buildCache is the cache in the API's words.
func buildCache(ctx context.Context, s *buildkit.Service) ([]apibuild.CacheRecord, error) {
	if s == nil {
		return []apibuild.CacheRecord{}, nil
	}
	list, err := s.Usage(ctx)
	out := make([]apibuild.CacheRecord, 0, len(list))
	for _, u := range list {
		used := u.LastUsedAt
		out = append(out, apibuild.CacheRecord{
			ID: u.ID, Parents: u.Parents, Type: u.Type, Description: u.Description, InUse: u.InUse, Shared: u.Shared,
			Size: u.Size, CreatedAt: u.CreatedAt, LastUsedAt: &used, UsageCount: u.UsageCount,
		})
	}
	return out, err
}

type pruneBuildResponse struct {
	CachesDeleted  []string
	SpaceReclaimed int64
}

func (a buildAPI) prune(w http.ResponseWriter, r *request) error {
	f, err := filters.Parse(r.Query("filters"), "until", "id", "type", "unused-for")
	if err != nil {
		return err
	}
	p := build.PruneRequest{All: r.Bool("all"), IDs: f["id"], Types: f["type"]}
	for name, to := range map[string]*int64{"keep-storage": &p.Keep, "reserved-space": &p.Keep, "max-used-space": &p.MaxUsed, "min-free-space": &p.MinFree} {
		if v := r.Query(name); v != "" {
			if *to, err = units.RAMInBytes(v); err != nil {
				return fmt.Errorf("%s %q: %w", name, v, errdefs.ErrInvalidArgument)
			}
		}
	}
	for _, v := range append(slices.Clone(f["until"]), f["unused-for"]...) {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			return fmt.Errorf("until %q: want a duration, as in 24h: %w", v, errdefs.ErrInvalidArgument)
		}
		p.Until = time.Now().Add(-d)
	}
	gone, err := a.kit.Prune(r.Context(), p)
	if err != nil {
		return err
	}
	out := pruneBuildResponse{CachesDeleted: []string{}}
	for _, u := range gone {
		out.CachesDeleted, out.SpaceReclaimed = append(out.CachesDeleted, u.ID), out.SpaceReclaimed+u.Size
	}
	return writeJSON(w, http.StatusOK, out)
}
