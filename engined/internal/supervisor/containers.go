package supervisor

import (
	"context"
	"encoding/json"
	"fmt"

	containers "github.com/containerd/containerd/api/services/containers/v1"
	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	version "github.com/containerd/containerd/api/services/version/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// Container is the supervisor's record of a container.
type Container struct {
	ID          string
	Image       string
	Labels      map[string]string
	Runtime     string // "io.containerd.strata.v2"
	Options     RuntimeOptions
	Spec        *specs.Spec
	Snapshotter string
	SnapshotKey string
}

func (c *Client) containers() containers.ContainersClient {
	return containers.NewContainersClient(c.conn)
}

func (r Container) wire() (*containers.Container, error) {
	w := &containers.Container{ID: r.ID, Image: r.Image, Labels: r.Labels, Snapshotter: r.Snapshotter, SnapshotKey: r.SnapshotKey}
	opts, err := r.Options.any()
	if err != nil {
		return nil, err
	}
	if r.Runtime != "" {
		w.Runtime = &containers.Container_Runtime{Name: r.Runtime, Options: opts}
	}
	if r.Spec != nil {
		if w.Spec, err = jsonAny(typeSpec, r.Spec); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// CreateContainer stores a record. ErrAlreadyExists if the id is taken.
func (c *Client) CreateContainer(ctx context.Context, r Container) error {
	w, err := r.wire()
	if err != nil {
		return err
	}
	_, err = c.containers().Create(c.scope(ctx), &containers.CreateContainerRequest{Container: w})
	return err
}

// UpdateSpec replaces the spec and the labels of a record.
func (c *Client) UpdateSpec(ctx context.Context, containerID string, spec *specs.Spec, labels map[string]string) error {
	return c.update(ctx, Container{ID: containerID, Spec: spec, Labels: labels}, "spec", "labels")
}

// UpdateLabels replaces the labels of a record.
func (c *Client) UpdateLabels(ctx context.Context, containerID string, labels map[string]string) error {
	return c.update(ctx, Container{ID: containerID, Labels: labels}, "labels")
}

func (c *Client) update(ctx context.Context, r Container, fields ...string) error {
	w, err := r.wire()
	if err != nil {
		return err
	}
	_, err = c.containers().Update(c.scope(ctx), &containers.UpdateContainerRequest{Container: w, UpdateMask: &fieldmaskpb.FieldMask{Paths: fields}})
	return err
}

// DeleteContainer removes a record. ErrNotFound if there is none.
func (c *Client) DeleteContainer(ctx context.Context, containerID string) error {
	_, err := c.containers().Delete(c.scope(ctx), &containers.DeleteContainerRequest{ID: containerID})
	return err
}

// Containers returns the records that match one of the filters (containerd's filter
// language), without their specs.
func (c *Client) Containers(ctx context.Context, filters ...string) ([]Container, error) {
	resp, err := c.containers().List(c.scope(ctx), &containers.ListContainersRequest{Filters: filters})
	if err != nil {
		return nil, err
	}
	out := make([]Container, 0, len(resp.Containers))
	for _, w := range resp.Containers {
		out = append(out, Container{ID: w.ID, Image: w.Image, Labels: w.Labels, Runtime: w.GetRuntime().GetName(), Snapshotter: w.Snapshotter, SnapshotKey: w.SnapshotKey})
	}
	return out, nil
}

// GetContainer returns a record with its spec.
func (c *Client) GetContainer(ctx context.Context, containerID string) (Container, error) {
	resp, err := c.containers().Get(c.scope(ctx), &containers.GetContainerRequest{ID: containerID})
	if err != nil {
		return Container{}, err
	}
	w := resp.Container
	r := Container{ID: w.ID, Image: w.Image, Labels: w.Labels, Runtime: w.GetRuntime().GetName(), Snapshotter: w.Snapshotter, SnapshotKey: w.SnapshotKey}
	if w.Spec != nil {
		r.Spec = &specs.Spec{}
		if err := json.Unmarshal(w.Spec.Value, r.Spec); err != nil {
			return r, fmt.Errorf("decode spec of container %q: %w", containerID, err)
		}
	}
	return r, nil
}

// Address returns the socket that the client talks to.
func (c *Client) Address() string { return c.address }

// Namespace returns the namespace of the client.
func (c *Client) Namespace() string { return c.namespace }

// Version is what the supervisor says of itself.
type Version struct {
	Version  string
	Revision string
}

// Version asks the supervisor who it is; an error of class ErrUnavailable means that it
// is not there.
func (c *Client) Version(ctx context.Context) (Version, error) {
	resp, err := version.NewVersionClient(c.conn).Version(c.scope(ctx), &emptypb.Empty{})
	if err != nil {
		return Version{}, err
	}
	return Version{resp.Version, resp.Revision}, nil
}

// UUID returns the supervisor's own id, which stays the same across its restarts.
func (c *Client) UUID(ctx context.Context) (string, error) {
	resp, err := introspection.NewIntrospectionClient(c.conn).Server(c.scope(ctx), &emptypb.Empty{})
	if err != nil {
		return "", err
	}
	return resp.UUID, nil
}
