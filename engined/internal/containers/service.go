package containers

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/opencontainers/runtime-spec/specs-go"

	"strata/engined/internal/events"
	"strata/engined/internal/images"
	"strata/engined/internal/networks"
	"strata/engined/internal/spec"
	"strata/engined/internal/store"
	"strata/engined/internal/supervisor"
	"strata/engined/internal/volumes"
	"strata/pkg/linux/mount"
)

// Tasks is the supervisor's side of running containers. *supervisor.Client is the real
// one.
type Tasks interface {
	CreateTask(ctx context.Context, r supervisor.TaskRequest) (pid int, err error)
	StartTask(ctx context.Context, containerID, execID string) (pid int, err error)
	KillTask(ctx context.Context, containerID, execID string, signal int, all bool) error
	DeleteTask(ctx context.Context, containerID string) (supervisor.ExitStatus, error)
	ResizeTask(ctx context.Context, containerID, execID string, width, height int) error
	CloseStdin(ctx context.Context, containerID, execID string) error
	PauseTask(ctx context.Context, containerID string) error
	ResumeTask(ctx context.Context, containerID string) error
	TaskPIDs(ctx context.Context, containerID string) ([]int, error)
	GetTask(ctx context.Context, containerID string) (supervisor.Task, error)
	Tasks(ctx context.Context) (map[string]supervisor.Task, error)
	UpdateTask(ctx context.Context, containerID string, res *specs.LinuxResources) error
}

// Records is the supervisor's side of container records and their writable layers.
type Records interface {
	CreateContainer(ctx context.Context, r supervisor.Container) error
	UpdateSpec(ctx context.Context, containerID string, spec *specs.Spec, labels map[string]string) error
	UpdateLabels(ctx context.Context, containerID string, labels map[string]string) error
	DeleteContainer(ctx context.Context, containerID string) error
	Containers(ctx context.Context, filters ...string) ([]supervisor.Container, error)
	PrepareRootfs(ctx context.Context, snapshotter, containerID, chain string) ([]mount.Mount, error)
	RootfsMounts(ctx context.Context, snapshotter, containerID string) ([]mount.Mount, error)
	RootfsUsage(ctx context.Context, snapshotter, containerID string) (int64, error)
	ChainUsage(ctx context.Context, snapshotter, chain string) (int64, error)
	RemoveRootfs(ctx context.Context, snapshotter, containerID string) error
	Rootfses(ctx context.Context, snapshotter string) ([]string, error)
}

// Images finds images and unpacks them.
type Images interface {
	// ForContainer returns the image that ref means on platform ("" for the host's),
	// unpacked. ErrNotFound with dockerd's words if there is none.
	ForContainer(ctx context.Context, ref, platform string) (images.Image, error)
}

// Networks gives containers their network.
type Networks interface {
	Join(ctx context.Context, r networks.Request) (networks.Sandbox, error)
	Leave(ctx context.Context, containerID string) error
	Sandbox(containerID string) (networks.Sandbox, bool)
	ContainerIDs() []string
	Connect(ctx context.Context, containerID string, r networks.EndpointRequest) (networks.Endpoint, error)
	Disconnect(ctx context.Context, containerID, network string) (bool, error)
	Rename(ctx context.Context, containerID, name string) error
	UpdatePorts(ctx context.Context, containerID string, remove, add []networks.PortMapping) (networks.Sandbox, error)
	Network(ref string) (networks.Network, error)
	Explain(containerID string) []networks.Object
}

// Volumes keeps named directories.
type Volumes interface {
	Create(ctx context.Context, r volumes.CreateRequest) (volumes.Volume, error)
	Get(name string) (volumes.Volume, error)
	Refer(ctx context.Context, name, containerID string) (volumes.Volume, error)
	Acquire(ctx context.Context, name, containerID string) (path string, fresh bool, err error)
	Release(ctx context.Context, containerID string) error
	Forget(ctx context.Context, containerID string) (orphans []string, err error)
	Remove(ctx context.Context, name string, force bool) error
	Retain(exists func(containerID string) bool) (orphans []string, err error)
	// Ghosts returns, by volume, the containers that count as users and do not exist.
	Ghosts(exists func(containerID string) bool) map[string][]string
}

// Deps are the rooms that the service calls.
type Deps struct {
	Store    *store.Store
	Tasks    Tasks
	Records  Records
	Images   Images
	Networks Networks
	Volumes  Volumes
	Events   events.Publisher
}

// Config is the engine's configuration as far as containers see it.
type Config struct {
	DataRoot string // DATA/containers/ID keeps a container's files
	ExecRoot string
	// ShimPath is our shim's binary, the logger under foreign shims.
	ShimPath       string
	InitPath       string // of a static init; "" for none
	Init           bool   // the daemon's default of HostConfig.Init
	DefaultRuntime string // a key of Runtimes
	Runtimes       map[string]Runtime
	Snapshotter    string
	Log            container.LogConfig // the daemon's default
	Cgroup         spec.Cgroup
	ShmSize        int64 // bytes
	Ulimits        map[string]*container.Ulimit
	IpcMode        container.IpcMode
	CgroupnsMode   container.CgroupnsMode
	StopTimeout    time.Duration // at shutdown, without live restore
	LiveRestore    bool
	NoNewPrivs     bool
	SeccompProfile string // "", "unconfined", "builtin" or a profile as JSON
}

// Runtime is how a runtime's name is run.
type Runtime struct {
	Type    string // "io.containerd.strata.v2"
	Options supervisor.RuntimeOptions
}

// HealthMonitor probes running containers. It is told of starts and ends and must not
// block.
type HealthMonitor interface {
	Started(c *Container)
	Stopped(c *Container)
}

// Service is the engine's containers. Its methods are safe for concurrent use.
type Service struct {
	Deps
	cfg Config
	// Health is set before Run, once; nil probes nothing.
	Health HealthMonitor

	mu       sync.RWMutex
	byID     map[string]*Container
	names    map[string]string // name → ID; also of containers that are being created
	restarts bool              // the supervisor restarts containers itself

	users userCache
	work  sync.WaitGroup  // event handlers and timers
	base  context.Context //nolint:containedctx // the context of work that no request waits for
}

// New returns the service with the containers of the store. It starts nothing.
func New(ctx context.Context, d Deps, cfg Config) (*Service, error) {
	s := &Service{Deps: d, cfg: cfg, byID: map[string]*Container{}, names: map[string]string{}, base: ctx}
	l, err := d.Store.Load()
	if err != nil && len(l.Definitions) == 0 {
		return nil, fmt.Errorf("load containers: %w", err)
	}
	for id, def := range l.Definitions {
		c := newContainer(def, stateOf(l.States[id]))
		s.byID[id] = c
		s.names[def.Name] = id
	}
	return s, nil
}

// Get returns the container that ref means: a full id, a name with or without the leading
// slash, or an unambiguous prefix of an id, in this order. ErrNotFound with dockerd's
// words; ErrInvalidArgument for an ambiguous prefix.
func (s *Service) Get(ref string) (*Container, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c, ok := s.byID[ref]; ok {
		return c, nil
	}
	if id, ok := s.names[strings.TrimPrefix(ref, "/")]; ok {
		if c, ok := s.byID[id]; ok {
			return c, nil
		}
	}
	var found *Container
	if ref != "" && len(ref) < 64 {
		for id, c := range s.byID {
			if !strings.HasPrefix(id, ref) {
				continue
			}
			if found != nil {
				return nil, fmt.Errorf("multiple IDs found with provided prefix: %s: %w", ref, errdefs.ErrInvalidArgument)
			}
			found = c
		}
	}
	if found == nil {
		return nil, fmt.Errorf("No such container: %s: %w", ref, errdefs.ErrNotFound) //nolint:staticcheck // dockerd's words
	}
	return found, nil
}

// All returns every container, in no order.
func (s *Service) All() []*Container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*Container, 0, len(s.byID))
	for _, c := range s.byID {
		out = append(out, c)
	}
	return out
}

// reserve takes name for id. The error is a *store.NameTaken.
func (s *Service) reserve(name, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, ok := s.names[name]; ok && have != id {
		return &store.NameTaken{Name: name, ID: have}
	}
	s.names[name] = id
	return nil
}

func (s *Service) unreserve(name, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names[name] == id {
		delete(s.names, name)
	}
}

func (s *Service) insert(c *Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[c.ID] = c
}

func (s *Service) drop(c *Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, c.ID)
	if name := c.Definition().Name; s.names[name] == c.ID {
		delete(s.names, name)
	}
}

// publish sends an event of a container with its usual attributes and more, as pairs.
func (s *Service) publish(c *Container, action string, more ...string) {
	s.Events.Publish(ContainerEvent(c.Definition(), action, more...))
}

// ContainerEvent returns an event about a container: its labels, image and name, and more
// attributes as pairs.
func ContainerEvent(d *store.Definition, action string, more ...string) events.Event {
	attrs := map[string]string{}
	maps.Copy(attrs, d.Config.Labels)
	attrs["image"], attrs["name"] = d.Config.Image, d.Name
	for i := 0; i+1 < len(more); i += 2 {
		attrs[more[i]] = more[i+1]
	}
	return events.Event{Type: "container", Action: action, ActorID: d.ID, Attributes: attrs}
}
