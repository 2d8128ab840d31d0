package supervisor

import (
	"context"
	"errors"
	"io"
	"time"

	snapshots "github.com/containerd/containerd/api/services/snapshots/v1"

	"strata/pkg/linux/mount"
)

// A container's rootfs is the active snapshot whose key is the container's id, above the
// image's chain.

// rootfsRoot is the label of containerd's collector that keeps a snapshot which no record
// refers to yet.
//
// Source: containerd docs/garbage-collection.md.
const rootfsRoot = "containerd.io/gc.root"

// rootfsLabel marks the snapshots that an engine made for its containers.
const rootfsLabel = "strata.engine.rootfs"

func (c *Client) snapshotter() snapshots.SnapshotsClient {
	return snapshots.NewSnapshotsClient(c.conn)
}

// PrepareRootfs makes the writable layer of a container above chain ("" for an empty one)
// and returns how to mount it. ErrAlreadyExists if there is one.
func (c *Client) PrepareRootfs(ctx context.Context, snapshotter, containerID, chain string) ([]mount.Mount, error) {
	resp, err := c.snapshotter().Prepare(c.scope(ctx), &snapshots.PrepareSnapshotRequest{
		Snapshotter: snapshotter, Key: containerID, Parent: chain,
		Labels: map[string]string{rootfsLabel: "true", rootfsRoot: time.Now().UTC().Format(time.RFC3339)},
	})
	if err != nil {
		return nil, err
	}
	return mountsFromWire(resp.Mounts), nil
}

// RootfsMounts returns how to mount the rootfs of a container.
func (c *Client) RootfsMounts(ctx context.Context, snapshotter, containerID string) ([]mount.Mount, error) {
	resp, err := c.snapshotter().Mounts(c.scope(ctx), &snapshots.MountsRequest{Snapshotter: snapshotter, Key: containerID})
	if err != nil {
		return nil, err
	}
	return mountsFromWire(resp.Mounts), nil
}

// RootfsUsage returns the bytes that a container's own layer takes.
func (c *Client) RootfsUsage(ctx context.Context, snapshotter, containerID string) (int64, error) {
	resp, err := c.snapshotter().Usage(c.scope(ctx), &snapshots.UsageRequest{Snapshotter: snapshotter, Key: containerID})
	if err != nil {
		return 0, err
	}
	return resp.Size, nil
}

// ChainUsage returns the bytes of the committed snapshot chain and all below it.
func (c *Client) ChainUsage(ctx context.Context, snapshotter, chain string) (int64, error) {
	var total int64
	for key := chain; key != ""; {
		u, err := c.snapshotter().Usage(c.scope(ctx), &snapshots.UsageRequest{Snapshotter: snapshotter, Key: key})
		if err != nil {
			return total, err
		}
		total += u.Size
		st, err := c.snapshotter().Stat(c.scope(ctx), &snapshots.StatSnapshotRequest{Snapshotter: snapshotter, Key: key})
		if err != nil {
			return total, err
		}
		key = st.Info.Parent
	}
	return total, nil
}

// RemoveRootfs removes the writable layer of a container. ErrNotFound if there is none.
func (c *Client) RemoveRootfs(ctx context.Context, snapshotter, containerID string) error {
	_, err := c.snapshotter().Remove(c.scope(ctx), &snapshots.RemoveSnapshotRequest{Snapshotter: snapshotter, Key: containerID})
	return err
}

// Rootfses returns the ids of the containers that have a writable layer.
func (c *Client) Rootfses(ctx context.Context, snapshotter string) ([]string, error) {
	stream, err := c.snapshotter().List(c.scope(ctx), &snapshots.ListSnapshotsRequest{Snapshotter: snapshotter, Filters: []string{`labels."` + rootfsLabel + `"==true`}})
	if err != nil {
		return nil, err
	}
	var out []string
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		for _, info := range resp.Info {
			out = append(out, info.Name)
		}
	}
}
