package containers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sync/errgroup"

	"strata/engined/internal/images"
	"strata/engined/internal/spec"
	"strata/engined/internal/store"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/identifiers"
	"strata/pkg/linux/mount"
)

// CreateRequest asks for a container. The service owns what it points to afterwards.
type CreateRequest struct {
	Name      string // "" for one that the engine makes up
	Platform  string // "" for the host's
	Config    *container.Config
	Host      *container.HostConfig
	Endpoints map[string]*network.EndpointSettings
}

// Create makes a container and returns its id and warnings for the user. ErrNotFound
// without the image, ErrConflict for a name in use, ErrInvalidArgument for what cannot be.
func (s *Service) Create(ctx context.Context, r CreateRequest) (string, []string, error) {
	d, warnings, err := s.define(ctx, r)
	if err != nil {
		return "", nil, err
	}
	var undo cleanup.Stack
	defer undo.Clean()
	if err := s.nameContainer(d); err != nil {
		return "", nil, err
	}
	undo.Add(func() { s.unreserve(d.Name, d.ID) })
	undo.Add(func() { s.undoCreate(ctx, d) })
	if err := os.MkdirAll(s.dir(d.ID), 0o710); err != nil {
		return "", nil, fmt.Errorf("create container directory: %w", err)
	}
	if err := s.makeVolumes(ctx, d); err != nil {
		return "", nil, err
	}
	if err := failpoint.Hit("containers/create/named"); err != nil {
		return "", nil, err
	}
	c := newContainer(d, State{Status: Created})
	var rootfs []mount.Mount
	// Side by side: whichever is there alone after a crash is finished by the next start
	// of the container, or swept by the next start of the engine.
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if rootfs, err = s.Records.PrepareRootfs(gctx, d.Image.Snapshotter, d.ID, d.Image.ChainID.String()); err == nil {
			err = markContainer(rootfs)
		}
		if err != nil {
			return fmt.Errorf("prepare rootfs: %w", err)
		}
		return nil
	})
	g.Go(func() error { return s.Store.Create(d, c.State().stored()) })
	if err := g.Wait(); err != nil {
		return "", nil, err
	}
	c.setInfo(func(i *runtimeInfo) { i.mounts, i.userCached = rootfs, true })
	undo.Release() // Point of no return: the definition is stored.
	failpoint.Pass("containers/create/stored")
	s.insert(c)
	s.publish(c, "create")
	ctxlog.From(ctx).Info("container created", ctxlog.ContainerID, d.ID, ctxlog.Name, d.Name, ctxlog.Image, d.Config.Image)
	return d.ID, warnings, nil
}

// undoCreate takes back whatever there is of a container that does not come to be.
func (s *Service) undoCreate(ctx context.Context, d *store.Definition) {
	ctx, done := cleanup.Context(ctx)
	defer done()
	if err := s.Store.Remove(d, store.Tombstone{Volumes: true, Snapshotter: d.Image.Snapshotter}); err != nil {
		ctxlog.From(ctx).Warn("creation was not undone; the next start of the engine will", ctxlog.ContainerID, d.ID, ctxlog.Error, err)
		return
	}
	s.bury(ctx, d.ID, store.Tombstone{Volumes: true, Snapshotter: d.Image.Snapshotter})
}

// define turns a request into a definition: defaults, image, checks, mounts.
func (s *Service) define(ctx context.Context, r CreateRequest) (*store.Definition, []string, error) {
	if r.Config == nil {
		return nil, nil, invalid("config cannot be empty in order to create a container")
	}
	if r.Host == nil {
		r.Host = &container.HostConfig{}
	}
	d := &store.Definition{
		ID: identifiers.New(), Name: strings.TrimPrefix(r.Name, "/"), Created: time.Now().UTC(), Config: r.Config, Host: r.Host, Endpoints: r.Endpoints,
	}
	if d.Name != "" && !identifiers.ValidName(d.Name) {
		return nil, nil, invalid("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", d.Name)
	}
	img, err := s.Images.ForContainer(ctx, r.Config.Image, r.Platform)
	if err != nil {
		return nil, nil, err
	}
	d.Image = store.Image{ID: img.ID, Manifest: img.Manifest, ChainID: img.ChainID, Platform: img.Config.Platform, Snapshotter: s.cfg.Snapshotter}
	if err := mergeImage(d.Config, img); err != nil {
		return nil, nil, err
	}
	if err := s.fillDefaults(d); err != nil {
		return nil, nil, err
	}
	warnings, err := s.validate(d.Config, d.Host)
	if err != nil {
		return nil, nil, err
	}
	if err := s.resolveReferences(d); err != nil {
		return nil, nil, err
	}
	if d.Mounts, err = s.collectMounts(d); err != nil {
		return nil, nil, err
	}
	return d, warnings, nil
}

// imageExtras are docker's additions to an image's configuration.
type imageExtras struct {
	Healthcheck *container.HealthConfig
	Shell       []string
	StopTimeout *int
}

// mergeImage fills what the user left open from the image.
func mergeImage(c *container.Config, img images.Image) error {
	ic := img.Config.Config
	var extra imageExtras
	if len(img.RawConfig) > 0 {
		if err := json.Unmarshal(img.RawConfig, &extra); err != nil {
			return fmt.Errorf("decode configuration of image %s: %w", img.ID, err)
		}
	}
	if c.User == "" {
		c.User = ic.User
	}
	for p := range ic.ExposedPorts {
		port, err := network.ParsePort(p)
		if err != nil {
			return fmt.Errorf("image %s exposes %q: %w", img.ID, p, err)
		}
		if c.ExposedPorts == nil {
			c.ExposedPorts = network.PortSet{}
		}
		c.ExposedPorts[port] = struct{}{}
	}
	c.Env = append(c.Env, missingEnv(c.Env, ic.Env)...)
	if len(ic.Labels) > 0 && c.Labels == nil {
		c.Labels = map[string]string{}
	}
	for k, v := range ic.Labels {
		if _, ok := c.Labels[k]; !ok {
			c.Labels[k] = v
		}
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = ic.Cmd
		}
		if c.Entrypoint == nil {
			c.Entrypoint = ic.Entrypoint
		}
	}
	if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" {
		c.Entrypoint = nil
	}
	c.Healthcheck = mergeHealth(c.Healthcheck, extra.Healthcheck)
	if c.WorkingDir == "" {
		c.WorkingDir = ic.WorkingDir
	}
	for v := range ic.Volumes {
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[v] = struct{}{}
	}
	if c.StopSignal == "" {
		c.StopSignal = ic.StopSignal
	}
	if c.StopTimeout == nil {
		c.StopTimeout = extra.StopTimeout
	}
	if c.Shell == nil {
		c.Shell = extra.Shell
	}
	return nil
}

func missingEnv(have, more []string) []string {
	var out []string
	for _, kv := range more {
		key, _, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(have, func(h string) bool {
			k, _, _ := strings.Cut(h, "=")
			return k == key
		}) {
			out = append(out, kv)
		}
	}
	return out
}

func mergeHealth(user, image *container.HealthConfig) *container.HealthConfig {
	if user == nil || image == nil {
		if user != nil {
			return user
		}
		return image
	}
	if len(user.Test) == 0 {
		user.Test = image.Test
	}
	if user.Interval == 0 {
		user.Interval = image.Interval
	}
	if user.Timeout == 0 {
		user.Timeout = image.Timeout
	}
	if user.StartPeriod == 0 {
		user.StartPeriod = image.StartPeriod
	}
	if user.StartInterval == 0 {
		user.StartInterval = image.StartInterval
	}
	if user.Retries == 0 {
		user.Retries = image.Retries
	}
	return user
}

// fillDefaults completes the definition with the engine's defaults, so that inspect shows
// what applies.
func (s *Service) fillDefaults(d *store.Definition) error {
	h, c := d.Host, d.Config
	if h.NetworkMode == "" || h.NetworkMode.IsDefault() {
		h.NetworkMode = network.NetworkBridge
	}
	if c.Hostname == "" && !h.NetworkMode.IsContainer() && !h.UTSMode.IsHost() && !h.NetworkMode.IsHost() {
		c.Hostname = identifiers.Short(d.ID)
	} else if c.Hostname == "" && h.NetworkMode.IsHost() && !h.UTSMode.IsHost() {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read host name: %w", err)
		}
		c.Hostname = name
	}
	if h.ShmSize == 0 {
		h.ShmSize = s.cfg.ShmSize
	}
	if h.IpcMode.IsEmpty() {
		h.IpcMode = s.cfg.IpcMode
	}
	if h.CgroupnsMode.IsEmpty() {
		h.CgroupnsMode = s.cfg.CgroupnsMode
	}
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	if h.Memory > 0 && h.MemorySwap == 0 {
		h.MemorySwap = 2 * h.Memory
	}
	if h.PidsLimit != nil && *h.PidsLimit < 0 {
		h.PidsLimit = nil
	}
	s.fillLog(h)
	if err := s.fillSecurity(h); err != nil {
		return err
	}
	return s.fillRuntime(d)
}

func (s *Service) fillLog(h *container.HostConfig) {
	if h.LogConfig.Type == "" {
		h.LogConfig.Type = s.cfg.Log.Type
	}
	if h.LogConfig.Config == nil {
		h.LogConfig.Config = map[string]string{}
	}
	if h.LogConfig.Type == s.cfg.Log.Type && len(h.LogConfig.Config) == 0 {
		maps.Copy(h.LogConfig.Config, s.cfg.Log.Config)
	}
}

func (s *Service) fillSecurity(h *container.HostConfig) error {
	if h.Privileged {
		h.MaskedPaths, h.ReadonlyPaths = nil, nil
	} else {
		if h.MaskedPaths == nil {
			h.MaskedPaths = spec.DefaultMaskedPaths()
		}
		if h.ReadonlyPaths == nil {
			h.ReadonlyPaths = spec.DefaultReadonlyPaths()
		}
	}
	has := func(prefix string) bool {
		return slices.ContainsFunc(h.SecurityOpt, func(o string) bool { return strings.HasPrefix(o, prefix) })
	}
	if s.cfg.NoNewPrivs && !has("no-new-privileges") {
		h.SecurityOpt = append(h.SecurityOpt, "no-new-privileges")
	}
	if s.cfg.SeccompProfile != "" && s.cfg.SeccompProfile != "builtin" && !h.Privileged && !has("seccomp") {
		h.SecurityOpt = append(h.SecurityOpt, "seccomp="+s.cfg.SeccompProfile)
	}
	return nil
}

func (s *Service) fillRuntime(d *store.Definition) error {
	if d.Host.Runtime == "" {
		d.Host.Runtime = s.cfg.DefaultRuntime
	}
	rt, err := s.runtime(d.Host.Runtime)
	if err != nil {
		return err
	}
	d.Runtime = rt.Type
	return nil
}

// runtime returns what a runtime's name means: a configured one, or any shim by its own
// name.
func (s *Service) runtime(name string) (Runtime, error) {
	if rt, ok := s.cfg.Runtimes[name]; ok {
		return rt, nil
	}
	if strings.HasPrefix(name, "io.containerd.") && strings.Count(name, ".") >= 3 {
		return Runtime{Type: name}, nil
	}
	return Runtime{}, fmt.Errorf("unknown or invalid runtime name: %s: %w", name, errdefs.ErrInvalidArgument)
}

// resolveReferences turns the names of other containers and networks into what lasts:
// "container:NAME" into "container:ID", and checks that networks exist. A container that
// does not exist yet must by the start: clients take a 404 here for an image to be pulled.
func (s *Service) resolveReferences(d *store.Definition) error {
	h := d.Host
	if h.NetworkMode.IsContainer() {
		if c, err := s.Get(h.NetworkMode.ConnectedContainer()); err == nil {
			h.NetworkMode = container.NetworkMode("container:" + c.ID)
		}
	}
	if h.IpcMode.IsContainer() {
		if c, err := s.Get(h.IpcMode.Container()); err == nil {
			if mode := c.Definition().Host.IpcMode; !mode.IsShareable() {
				return invalid("cannot join IPC of container %s: it has the IPC mode %q, and would need \"shareable\"", c.ID, mode)
			}
			h.IpcMode = container.IpcMode("container:" + c.ID)
		}
	}
	if h.PidMode.IsContainer() {
		if c, err := s.Get(h.PidMode.Container()); err == nil {
			h.PidMode = container.PidMode("container:" + c.ID)
		}
	}
	return s.resolveEndpoints(d)
}

// resolveEndpoints keeps the wishes for endpoints by network name, the one of NetworkMode
// always among them.
func (s *Service) resolveEndpoints(d *store.Definition) error {
	mode := d.Host.NetworkMode
	in := d.Endpoints
	d.Endpoints = map[string]*network.EndpointSettings{}
	if mode.IsContainer() {
		return nil
	}
	for ref, ep := range in {
		if ep == nil {
			ep = &network.EndpointSettings{}
		}
		if ref == network.NetworkDefault {
			ref = network.NetworkBridge
		}
		name := ref
		if !mode.IsHost() && !mode.IsNone() {
			// One that is missing fails the start: clients take a 404 of create for an image.
			n, err := s.Networks.Network(ref)
			switch {
			case err == nil && ep.NetworkID == "":
				name, ep.NetworkID = n.Name, n.ID
			case err == nil:
				name = n.Name
			case !errdefs.IsNotFound(err):
				return err
			}
		}
		if string(mode) == ref || string(mode) == ep.NetworkID {
			name = modeName(mode, name)
		}
		d.Endpoints[name] = ep
	}
	if _, ok := d.Endpoints[string(mode)]; ok {
		return nil
	}
	name := string(mode)
	if mode.IsUserDefined() || mode.IsBridge() {
		n, err := s.Networks.Network(name)
		switch {
		case err == nil:
			name = n.Name
		case mode.IsBridge() || !errdefs.IsNotFound(err):
			return err
		}
	}
	if _, ok := d.Endpoints[name]; !ok {
		d.Endpoints[name] = &network.EndpointSettings{}
	}
	return nil
}

func modeName(mode container.NetworkMode, name string) string {
	if mode.IsHost() || mode.IsNone() {
		return string(mode)
	}
	return name
}

// dir is where a container keeps its files.
func (s *Service) dir(containerID string) string {
	return filepath.Join(s.cfg.DataRoot, "containers", containerID)
}
