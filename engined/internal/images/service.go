package images

import (
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/events"
	"strata/engined/internal/supervisor"
	"strata/pkg/registry"
)

// Config is what the engine's operator decides about images.
type Config struct {
	// Snapshotter of the supervisor to unpack to; "" means "overlayfs".
	Snapshotter string
	// Mirrors of docker.io, as URLs; tried before it.
	Mirrors []string
	// Insecure are registries ("host", "host:port") and networks in CIDR notation that
	// may speak plain HTTP or show any certificate.
	Insecure []string
	// HostDir is the operator's directory of HOST/hosts.toml files, shared with the
	// supervisor; "" means /etc/strata/certs.d. What it says about a host wins over
	// Mirrors and Insecure.
	HostDir string
	// StateDir is where files for the supervisor go, on tmpfs; required with Mirrors or
	// Insecure.
	StateDir string
	// UserAgent of the engine's own requests to registries.
	UserAgent string
}

// Use is a container that needs an image.
type Use struct {
	ContainerID string
	Running     bool
	ImageID     digest.Digest
	ImageRef    string // as the user gave it
}

// Hooks are what Service asks of others. Each may be nil.
type Hooks struct {
	// Users lists all containers.
	Users func(ctx context.Context) []Use
	// Embedded returns the archive of an image that comes with the engine. It is loaded
	// when somebody asks for the reference (full: "docker.io/strata/hello:latest") and
	// there is none.
	Embedded func(reference string) (io.ReadCloser, bool)
}

// Service answers for images. It is safe for concurrent use, owns no goroutine, and
// forgets nothing that matters when it is restarted.
type Service struct {
	cfg      Config
	sup      *supervisor.Client
	events   events.Publisher
	hooks    Hooks
	registry *registry.Client
	platform ocispec.Platform

	mu     sync.Mutex
	parsed map[string]Image         // by target digest and platform: immutable
	sizes  map[digest.Digest]int64  // of snapshots, by chain id: immutable
	hint   map[digest.Digest]string // a name that an id had when last seen
}

// cacheSize bounds each cache; a full one is emptied.
const cacheSize = 4096

// New returns a Service.
func New(cfg Config, sup *supervisor.Client, publisher events.Publisher, hooks Hooks) *Service {
	if cfg.Snapshotter == "" {
		cfg.Snapshotter = "overlayfs"
	}
	if cfg.HostDir == "" {
		cfg.HostDir = "/etc/strata/certs.d"
	}
	if hooks.Users == nil {
		hooks.Users = func(context.Context) []Use { return nil }
	}
	if hooks.Embedded == nil {
		hooks.Embedded = func(string) (io.ReadCloser, bool) { return nil, false }
	}
	return &Service{
		cfg: cfg, sup: sup, events: publisher, hooks: hooks,
		registry: registry.New(registry.Config{HostDir: cfg.HostDir, UserAgent: cfg.UserAgent}),
		platform: platforms.DefaultSpec(),
		parsed:   map[string]Image{}, sizes: map[digest.Digest]int64{}, hint: map[digest.Digest]string{},
	}
}

// Snapshotter returns the name of the snapshotter that images are unpacked to.
func (s *Service) Snapshotter() string { return s.cfg.Snapshotter }

// Auth is what a client sends along for a registry.
type Auth struct {
	Username, Password string
	IdentityToken      string
	RegistryToken      string // a bearer token
}

func (a Auth) credential() registry.Credential {
	if a.RegistryToken != "" {
		return registry.Credential{Header: "Bearer " + a.RegistryToken}
	}
	return registry.Credential{Username: a.Username, Password: a.Password, RefreshToken: a.IdentityToken}
}

// AuthFunc answers a registry that asks who is there; nil is anonymous. challenges are the
// values of its WWW-Authenticate.
type AuthFunc func(ctx context.Context, challenges []string) (Auth, error)

// Func answers every question with a.
func (a Auth) Func() AuthFunc {
	if a == (Auth{}) {
		return nil
	}
	return func(context.Context, []string) (Auth, error) { return a, nil }
}

func (f AuthFunc) supervisor() supervisor.AuthFunc {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, challenges []string) (supervisor.RegistryAuth, error) {
		a, err := f(ctx, challenges)
		return a.supervisor(), err
	}
}

func (a Auth) supervisor() supervisor.RegistryAuth {
	c := a.credential()
	return supervisor.RegistryAuth{Username: c.Username, Password: c.Password, IdentityToken: c.RefreshToken, Header: c.Header}
}

// publish tells of an image.
func (s *Service) publish(action, id, name string) {
	if s.events == nil {
		return
	}
	s.events.Publish(events.Event{Type: "image", Action: action, ActorID: id, Attributes: map[string]string{"name": name}})
}

// Progress is a line of docker's progress streams. ID is a layer's or a tag; Total is
// zero where there is no bar; Aux goes to machines.
type Progress struct {
	Status         string
	ID             string
	Stream         string
	Current, Total int64
	Detail         bool // there is a (perhaps empty) bar
	Aux            any
}

// Output takes progress, one line at a time.
type Output func(Progress)

// options returns how the engine itself reaches the registry host.
func (s *Service) options(host string, auth AuthFunc) (registry.Options, error) {
	dir, err := s.hostDir(host)
	if err != nil {
		return registry.Options{}, err
	}
	return registry.Options{HostDir: dir, Header: http.Header{}, Credentials: func(ctx context.Context, asks string, challenges []string) (registry.Credential, error) {
		if auth == nil || asks != registry.ServerName(host) {
			return registry.Credential{}, nil // nobody, or a mirror
		}
		a, err := auth(ctx, challenges)
		return a.credential(), err
	}}, nil
}
