package supervisor

import (
	"context"
	"fmt"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/services/tasks/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/linux/mount"
)

// LayerOptions say how DiffLayer writes a layer.
type LayerOptions struct {
	MediaType string
	Labels    map[string]string // of the blob
	Epoch     time.Time         // the latest time in the layer; zero for any
}

// DiffLayer is Diff with options.
func (c *Client) DiffLayer(ctx context.Context, lower, upper []mount.Mount, o LayerOptions) (ocispec.Descriptor, error) {
	r := &diffapi.DiffRequest{Left: mountsToWire(lower), Right: mountsToWire(upper), MediaType: o.MediaType, Labels: o.Labels}
	if !o.Epoch.IsZero() {
		r.SourceDateEpoch = timestamppb.New(o.Epoch)
	}
	resp, err := diffapi.NewDiffClient(c.conn).Diff(c.scope(ctx), r)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("make layer: %w", err)
	}
	return descriptorFromWire(resp.GetDiff()), nil
}

// WaitTask waits until the init process of a container has ended.
func (c *Client) WaitTask(ctx context.Context, containerID string) (ExitStatus, error) {
	resp, err := c.tasks().Wait(c.scope(ctx), &tasks.WaitRequest{ContainerID: containerID})
	if err != nil {
		return ExitStatus{}, err
	}
	return ExitStatus{Code: int(resp.ExitStatus), At: resp.ExitedAt.AsTime()}, nil
}

// UnlabelSnapshot removes labels of a snapshot, which the collector may take then.
func (c *Client) UnlabelSnapshot(ctx context.Context, snapshotter, key string, labels ...string) error {
	mask := &fieldmaskpb.FieldMask{}
	empty := map[string]string{}
	for _, l := range labels {
		mask.Paths = append(mask.Paths, "labels."+l)
		empty[l] = ""
	}
	_, err := c.snapshotter().Update(c.scope(ctx), &snapshotsapi.UpdateSnapshotRequest{
		Snapshotter: snapshotter, Info: &snapshotsapi.Info{Name: key, Labels: empty}, UpdateMask: mask,
	})
	return err
}
