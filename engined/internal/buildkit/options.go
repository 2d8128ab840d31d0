package buildkit

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"strata/engined/internal/build"
	"strata/engined/internal/buildkit/session"
	"strata/engined/internal/images"
	"strata/pkg/cleanup"
)

// Attributes of the frontend dockerfile.v0, and prefixes of those that have a name in them.
const (
	attrFilename    = "filename"
	attrTarget      = "target"
	attrPlatform    = "platform"
	attrNoCache     = "no-cache"
	attrResolveMode = "image-resolve-mode"
	attrAddHosts    = "add-hosts"
	attrShmSize     = "shm-size"
	attrUlimit      = "ulimit"
	attrNetwork     = "force-network-mode"
	attrCgroup      = "cgroup-parent"
	attrCacheFrom   = "cache-from"
	attrCacheImport = "cache-imports"
	attrRequest     = "requestid"
	attrContextName = "contextkey"    // of the local directory that is the context
	attrFileName    = "dockerfilekey" // of the one that has the Dockerfile
	attrSubdir      = "contextsubdir"
	attrHostname    = "hostname"
	prefixArg       = "build-arg:"
	prefixLabel     = "label:"
	prefixContext   = "context:"
	prefixAttest    = "attest:"
	prefixVCS       = "vcs:"
	prefixSharedKey = "sharedkey:localdir:"
	prefixSession   = "local-sessionid:" // of a local directory that another session has
	argHostname     = prefixArg + "BUILDKIT_SANDBOX_HOSTNAME"
)

// request makes a build.Request of a result's attributes, without its outputs. What is to be
// let go of after the build is added to undo.
func (j *job) request(ctx context.Context, r *result, undo *cleanup.Stack) (build.Request, error) {
	req := build.Request{
		Args: map[string]string{}, Labels: map[string]string{}, Target: r.attrs[attrTarget],
		Pull: r.attrs[attrResolveMode] == "pull", Entitlements: j.req.Entitlements,
	}
	for k, v := range r.attrs {
		if name, ok := strings.CutPrefix(k, prefixArg); ok {
			req.Args[name] = v
		}
		if name, ok := strings.CutPrefix(k, prefixLabel); ok {
			req.Labels[name] = v
		}
	}
	if j.session != nil {
		req.Auth, req.Secrets, req.SSH = j.auth, j.session, j.session
	}
	for _, set := range []func(map[string]string, *build.Request) error{setPlatforms, setCommands, setAttestations, j.setCaches} {
		if err := set(r.attrs, &req); err != nil {
			return req, err
		}
	}
	if v, ok := r.attrs[attrNoCache]; ok {
		if req.NoCache = v == ""; !req.NoCache {
			req.NoCacheFilter = strings.Split(v, ",")
		}
	}
	in := &inputs{j: j, r: r, undo: undo}
	return req, in.fill(ctx, &req)
}

// auth is build.Request's Auth.
func (j *job) auth(ctx context.Context, q build.AuthQuestion) (images.Auth, error) {
	return j.session.Auth(ctx, session.AuthRequest{Host: q.Host, Challenges: q.Challenges, Scopes: q.Scopes})
}

func setPlatforms(attrs map[string]string, req *build.Request) error {
	for p := range strings.SplitSeq(attrs[attrPlatform], ",") {
		if p == "" {
			continue
		}
		parsed, err := platforms.Parse(p)
		if err != nil {
			return fmt.Errorf("failed to parse target platform %s: %w: %w", p, err, errdefs.ErrInvalidArgument)
		}
		req.Platforms = append(req.Platforms, platforms.Normalize(parsed))
	}
	return nil
}

// setCommands sets what RUN runs with.
func setCommands(attrs map[string]string, req *build.Request) error {
	// Beyond BuildKit's host and none, a network of the engine by its name.
	if mode := attrs[attrNetwork]; mode != "sandbox" {
		req.Network = mode
	}
	for host := range strings.SplitSeq(attrs[attrAddHosts], ",") {
		if host == "" {
			continue
		}
		name, ip, ok := strings.Cut(host, "=")
		if !ok || net.ParseIP(ip) == nil {
			return fmt.Errorf("invalid host %q: %w", host, errdefs.ErrInvalidArgument)
		}
		req.ExtraHosts = append(req.ExtraHosts, name+":"+ip)
	}
	req.Hostname = attrs[attrHostname]
	if v, ok := attrs[argHostname]; ok {
		req.Hostname = v
	}
	req.Resources.CgroupParent = attrs[attrCgroup]
	req.Resources.CpusetCpus, req.Resources.CpusetMems = attrs["cpusetcpus"], attrs["cpusetmems"]
	for name, to := range map[string]*int64{
		attrShmSize: &req.ShmSize, "memory": &req.Resources.Memory, "memswap": &req.Resources.MemorySwap,
		"cpushares": &req.Resources.CPUShares, "cpuperiod": &req.Resources.CPUPeriod, "cpuquota": &req.Resources.CPUQuota,
	} {
		if attrs[name] == "" {
			continue
		}
		var err error
		if *to, err = strconv.ParseInt(attrs[name], 10, 64); err != nil {
			return fmt.Errorf("%s %q: %w", name, attrs[name], errdefs.ErrInvalidArgument)
		}
	}
	for text := range strings.SplitSeq(attrs[attrUlimit], ",") {
		if text == "" {
			continue
		}
		u, err := units.ParseUlimit(text)
		if err != nil {
			return fmt.Errorf("failed to parse ulimit: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		req.Resources.Ulimits = append(req.Resources.Ulimits, &container.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return nil
}

// setAttestations reads attest:provenance and attest:sbom: lists of key=value, in which
// disabled=true is as if they were not there.
func setAttestations(attrs map[string]string, req *build.Request) error {
	fields := func(name string) (map[string]string, bool) {
		text, ok := attrs[prefixAttest+name]
		out := map[string]string{}
		for f := range strings.SplitSeq(text, ",") {
			if k, v, ok := strings.Cut(f, "="); ok {
				out[k] = v
			}
		}
		off, _ := strconv.ParseBool(out["disabled"]) // "" is not off
		return out, ok && !off
	}
	if p, ok := fields("provenance"); ok {
		req.Provenance.Mode, req.Provenance.BuilderID, req.Provenance.Version = p["mode"], p["builder-id"], p["version"]
		req.Provenance.InlineOnly, _ = strconv.ParseBool(p["inline-only"]) // "" is not
		for k, v := range attrs {
			if strings.HasPrefix(k, prefixVCS) || strings.HasPrefix(k, prefixContext) {
				if req.Provenance.Attrs == nil {
					req.Provenance.Attrs = map[string]string{}
				}
				req.Provenance.Attrs[k] = v
			}
		}
		switch req.Provenance.Mode {
		case "": // as BuildKit has it
			req.Provenance.Mode = "max"
		case "min", "max":
		default:
			return fmt.Errorf("invalid mode %q: must be one of min or max: %w", p["mode"], errdefs.ErrInvalidArgument)
		}
	}
	_, req.Provenance.SBOM = fields("sbom")
	return nil
}

// setCaches reads where cache comes from and goes to.
func (j *job) setCaches(attrs map[string]string, req *build.Request) error {
	var imports []build.CacheOption
	if text := attrs[attrCacheImport]; text != "" {
		if err := json.Unmarshal([]byte(text), &imports); err != nil {
			return fmt.Errorf("%s: %w: %w", attrCacheImport, err, errdefs.ErrInvalidArgument)
		}
	}
	for ref := range strings.SplitSeq(attrs[attrCacheFrom], ",") {
		if ref != "" {
			imports = append(imports, build.CacheOption{Type: build.CacheRegistry, Attrs: map[string]string{"ref": ref}})
		}
	}
	for _, e := range j.req.GetCache().GetImports() {
		o := build.CacheOption{Type: e.Type, Attrs: e.Attrs}
		if !slices.ContainsFunc(imports, func(i build.CacheOption) bool {
			return i.Type == o.Type && i.Attrs["ref"] == o.Attrs["ref"] && i.Attrs["digest"] == o.Attrs["digest"]
		}) {
			imports = append(imports, o)
		}
	}
	req.CacheFrom = imports
	for _, e := range j.req.GetCache().GetExports() {
		req.CacheTo = append(req.CacheTo, build.CacheOption{Type: e.Type, Attrs: e.Attrs})
	}
	// A client's store is called as its directory is.
	for dir, list := range map[string][]build.CacheOption{"src": req.CacheFrom, "dest": req.CacheTo} {
		for i := range list {
			if list[i].Type == build.CacheLocal {
				list[i].Blobs = j.blobs("local:" + list[i].Attrs[dir])
			}
		}
	}
	return nil
}
