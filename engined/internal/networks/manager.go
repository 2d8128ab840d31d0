package networks

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// Manager is the engine's networking. Its methods are safe for concurrent use.
type Manager struct{}

// New opens the definitions in db, learns the sandboxes below cfg.ExecRoot again, makes
// bridges and firewall as they should be, and undoes what a crash left half done.
func New(ctx context.Context, db *bolt.DB, cfg Config) (*Manager, error) {
	return nil, fmt.Errorf("networks: %w", errdefs.ErrNotImplemented)
}

// Run does the background work until ctx is done: it puts our firewall table back,
// deletes what was left behind, keeps the names of peers true.
func (m *Manager) Run(ctx context.Context) error { return errdefs.ErrNotImplemented }

// Join gives a container its network: netns, interfaces, addresses, ports, files. It is
// idempotent: with a sandbox there already, that one is returned.
func (m *Manager) Join(ctx context.Context, r Request) (Sandbox, error) {
	return Sandbox{}, errdefs.ErrNotImplemented
}

// Leave takes everything of a container away. It is no error if there is nothing.
func (m *Manager) Leave(ctx context.Context, containerID string) error {
	return errdefs.ErrNotImplemented
}

// Sandbox returns what a container got. It takes no lock.
func (m *Manager) Sandbox(containerID string) (Sandbox, bool) { return Sandbox{}, false }

// ContainerIDs returns the containers that have a sandbox. After a restart the engine
// calls Leave for those that do not run any more.
func (m *Manager) ContainerIDs() []string { return nil }

// Connect puts a container on one more network. With a sandbox the interface is plugged
// in at once; without one the wish is only checked, and the returned Endpoint holds just
// the network's id and name: store the EndpointRequest and hand it to the next Join.
func (m *Manager) Connect(ctx context.Context, containerID string, r EndpointRequest) (Endpoint, error) {
	return Endpoint{}, errdefs.ErrNotImplemented
}

// Disconnect takes a container off a network. attached is false if it has no endpoint
// there: then only the stored EndpointRequest is to be forgotten, if there is one.
func (m *Manager) Disconnect(ctx context.Context, containerID, network string) (attached bool, err error) {
	return false, errdefs.ErrNotImplemented
}

// Rename makes the names of peers follow a container's new name.
func (m *Manager) Rename(ctx context.Context, containerID, name string) error {
	return errdefs.ErrNotImplemented
}

// Create makes a network. The warning is for the user, and usually empty.
func (m *Manager) Create(ctx context.Context, r CreateRequest) (n Network, warning string, err error) {
	return Network{}, "", errdefs.ErrNotImplemented
}

// Network finds a network by id, name or unambiguous prefix of an id, in this order.
func (m *Manager) Network(ref string) (Network, error) { return Network{}, errdefs.ErrNotImplemented }

// Networks returns all networks, the newest last.
func (m *Manager) Networks() []Network { return nil }

// Attached returns the endpoints on a network, by container id.
func (m *Manager) Attached(networkID string) []Attachment { return nil }

// Remove deletes a network that has no endpoints.
func (m *Manager) Remove(ctx context.Context, ref string) error { return errdefs.ErrNotImplemented }

// Prune removes the networks without endpoints that match, and returns their names.
func (m *Manager) Prune(ctx context.Context, match func(Network) bool) ([]string, error) {
	return nil, errdefs.ErrNotImplemented
}

// Explain lists the objects that make up a container's network.
func (m *Manager) Explain(containerID string) []Object { return nil }

// Leaks lists objects that belong to no container or network.
func (m *Manager) Leaks(ctx context.Context) ([]Object, error) { return nil, errdefs.ErrNotImplemented }

// Object is one thing in the kernel or on disk.
type Object struct {
	Kind   string // netns, veth, bridge, address, firewall, port, file
	ID     string
	Detail string
}
