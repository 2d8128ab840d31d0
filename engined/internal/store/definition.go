package store

import (
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Definition is what a user asked for, completed by what the engine chose. It is
// immutable once stored: a change stores another one.
type Definition struct {
	ID        string
	Name      string // without the leading slash
	Created   time.Time
	Config    *container.Config
	Host      *container.HostConfig
	Endpoints map[string]*network.EndpointSettings // the wishes, by network name
	Image     Image
	Mounts    []Mount
	Runtime   string // "io.containerd.strata.v2"
}

// Image is the image of a container as it was when the container was created.
type Image struct {
	ID       digest.Digest
	Manifest ocispec.Descriptor
	ChainID  digest.Digest
	Platform ocispec.Platform
	// Snapshotter has the container's writable layer, under the container's id.
	Snapshotter string
}

// Mount is one mount of a container.
type Mount struct {
	Type        string // bind, volume, tmpfs, image
	Name        string // of a volume, or the reference of an image
	Driver      string // of a volume
	Source      string // on the host
	Destination string // in the container; clean and absolute
	Mode        string // the user's words
	RW          bool
	Propagation string
	// NoCopy keeps the image's content out of a fresh volume.
	NoCopy  bool
	Subpath string
	// NonRecursive leaves submounts of a bind out; ReadOnlyNonRecursive leaves them writable.
	NonRecursive         bool
	ReadOnlyNonRecursive bool
	Anonymous            bool     // a volume that the engine named
	Options              []string // of a tmpfs
	// FromMounts tells HostConfig.Mounts from Binds: a bind of the former must exist.
	FromMounts bool
}

// State is what became of a container. What can be learnt from the supervisor is stored
// without waiting for the disk; an exit status is.
type State struct {
	Status     string
	PID        int
	ExitCode   int
	Error      string
	OOMKilled  bool
	StartedAt  time.Time
	FinishedAt time.Time
	Restarts   int
	// Stopped means that a user wanted it stopped; HasStarted that it ever ran.
	Stopped    bool
	HasStarted bool
}

// Tombstone is what the removal of a container still owes.
type Tombstone struct {
	Volumes     bool // remove its anonymous volumes
	Snapshotter string
}
