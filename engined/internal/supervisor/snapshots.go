package supervisor

import (
	"context"
	"errors"
	"io"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"

	"strata/pkg/linux/mount"
)

// Snapshot describes a snapshot.
type Snapshot struct {
	Name      string // key, or name of a committed one
	Parent    string
	Committed bool
	Labels    map[string]string
}

func snapshotFromWire(i *snapshotsapi.Info) Snapshot {
	return Snapshot{Name: i.GetName(), Parent: i.GetParent(), Committed: i.GetKind() == snapshotsapi.Kind_COMMITTED, Labels: i.GetLabels()}
}

// StatSnapshot returns a snapshot. ErrNotFound if there is none.
func (c *Client) StatSnapshot(ctx context.Context, snapshotter, key string) (Snapshot, error) {
	resp, err := c.snapshotter().Stat(c.scope(ctx), &snapshotsapi.StatSnapshotRequest{Snapshotter: snapshotter, Key: key})
	if err != nil {
		return Snapshot{}, err
	}
	return snapshotFromWire(resp.GetInfo()), nil
}

// Snapshots returns all snapshots that match one of the filters; none matches all.
func (c *Client) Snapshots(ctx context.Context, snapshotter string, filters ...string) ([]Snapshot, error) {
	stream, err := c.snapshotter().List(c.scope(ctx), &snapshotsapi.ListSnapshotsRequest{Snapshotter: snapshotter, Filters: filters})
	if err != nil {
		return nil, err
	}
	var out []Snapshot
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		for _, i := range resp.GetInfo() {
			out = append(out, snapshotFromWire(i))
		}
	}
}

// PrepareSnapshot makes the active snapshot key above parent ("" for an empty one) and
// returns how to mount it. ErrAlreadyExists for a key in use, ErrNotFound for the parent.
func (c *Client) PrepareSnapshot(ctx context.Context, snapshotter, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	resp, err := c.snapshotter().Prepare(c.scope(ctx), &snapshotsapi.PrepareSnapshotRequest{Snapshotter: snapshotter, Key: key, Parent: parent, Labels: labels})
	if err != nil {
		return nil, err
	}
	return mountsFromWire(resp.GetMounts()), nil
}

// ViewSnapshot makes a read-only snapshot key of parent and returns how to mount it.
func (c *Client) ViewSnapshot(ctx context.Context, snapshotter, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	resp, err := c.snapshotter().View(c.scope(ctx), &snapshotsapi.ViewSnapshotRequest{Snapshotter: snapshotter, Key: key, Parent: parent, Labels: labels})
	if err != nil {
		return nil, err
	}
	return mountsFromWire(resp.GetMounts()), nil
}

// SnapshotMounts returns how to mount an active snapshot or a view.
func (c *Client) SnapshotMounts(ctx context.Context, snapshotter, key string) ([]mount.Mount, error) {
	return c.RootfsMounts(ctx, snapshotter, key)
}

// CommitSnapshot turns active key into committed name.
func (c *Client) CommitSnapshot(ctx context.Context, snapshotter, name, key string, labels map[string]string) error {
	_, err := c.snapshotter().Commit(c.scope(ctx), &snapshotsapi.CommitSnapshotRequest{Snapshotter: snapshotter, Name: name, Key: key, Labels: labels})
	return err
}

// Commit says which active snapshot becomes committed Name.
type Commit struct {
	Snapshotter string
	Name, Key   string
	Parent      string // onto which one that was made upon nothing is put; "" leaves it where it is
	Labels      map[string]string
}

// CommitSnapshotOnto is CommitSnapshot with a parent. A supervisor that cannot says so by
// ErrNotImplemented; one that has not heard of it (containerd before 2.2) commits the
// snapshot upon nothing.
func (c *Client) CommitSnapshotOnto(ctx context.Context, r Commit) error {
	_, err := c.snapshotter().Commit(c.scope(ctx), &snapshotsapi.CommitSnapshotRequest{
		Snapshotter: r.Snapshotter, Name: r.Name, Key: r.Key, Parent: r.Parent, Labels: r.Labels,
	})
	return err
}

// RemoveSnapshot removes a snapshot. ErrNotFound if there is none, ErrFailedPrecondition
// if it has children.
func (c *Client) RemoveSnapshot(ctx context.Context, snapshotter, key string) error {
	return c.RemoveRootfs(ctx, snapshotter, key)
}

// SnapshotUsage returns the bytes that a snapshot takes by itself.
func (c *Client) SnapshotUsage(ctx context.Context, snapshotter, key string) (int64, error) {
	return c.RootfsUsage(ctx, snapshotter, key)
}
