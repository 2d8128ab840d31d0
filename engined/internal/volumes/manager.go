package volumes

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"strata/engined/internal/events"
)

// Volume is a named directory.
type Volume struct {
	Name       string
	Driver     string // "local"
	Mountpoint string
	Created    time.Time
	Labels     map[string]string
	Options    map[string]string
	Anonymous  bool
}

// CreateRequest asks for a volume. Without a Name one is made up, and the volume is
// anonymous.
type CreateRequest struct {
	Name    string
	Driver  string
	Options map[string]string
	Labels  map[string]string
}

// Manager owns the volumes. Its methods are safe for concurrent use.
type Manager struct{}

// New opens the records in db and the directories below dataRoot/volumes.
func New(db *bolt.DB, dataRoot string, pub events.Publisher) (*Manager, error) {
	return nil, fmt.Errorf("volumes: %w", errdefs.ErrNotImplemented)
}

// Create makes a volume, or returns the one of that name if it has the same driver and
// options (ErrConflict otherwise).
func (m *Manager) Create(ctx context.Context, r CreateRequest) (Volume, error) {
	return Volume{}, errdefs.ErrNotImplemented
}

// Get returns a volume, or ErrNotFound in dockerd's words.
func (m *Manager) Get(name string) (Volume, error) { return Volume{}, errdefs.ErrNotImplemented }

// List returns all volumes by name.
func (m *Manager) List() []Volume { return nil }

// Users returns the ids of the containers that refer to a volume.
func (m *Manager) Users(name string) []string { return nil }

// Remove deletes a volume that no container refers to. With force a missing one is no error.
func (m *Manager) Remove(ctx context.Context, name string, force bool) error {
	return errdefs.ErrNotImplemented
}

// Prune deletes the unused volumes that match and returns their names and freed bytes.
func (m *Manager) Prune(ctx context.Context, match func(Volume) bool) (names []string, reclaimed uint64, err error) {
	return nil, 0, errdefs.ErrNotImplemented
}

// Refer records that a container's definition uses a volume: called when the container is
// created, so that the volume cannot be removed under it. The volume is made if it is
// missing.
func (m *Manager) Refer(ctx context.Context, name, containerID string) (Volume, error) {
	return Volume{}, errdefs.ErrNotImplemented
}

// Acquire makes a volume ready for a start of a container, mounting it if its options say
// so, and returns its directory. fresh is true until something was copied into or written
// to it: then the image's content may be copied up.
func (m *Manager) Acquire(ctx context.Context, name, containerID string) (path string, fresh bool, err error) {
	return "", false, errdefs.ErrNotImplemented
}

// Release ends the use by a container that stopped; its references stay.
func (m *Manager) Release(ctx context.Context, containerID string) error {
	return errdefs.ErrNotImplemented
}

// Forget drops all references of a removed container and returns the anonymous volumes
// that nobody refers to any more.
func (m *Manager) Forget(ctx context.Context, containerID string) (orphans []string, err error) {
	return nil, errdefs.ErrNotImplemented
}
