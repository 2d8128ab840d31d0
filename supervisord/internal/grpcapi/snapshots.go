package grpcapi

import (
	"context"
	"fmt"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/supervisord/internal/snapshots"
)

// snapshotServer translates containerd.services.snapshots.v1.Snapshots.
type snapshotServer struct {
	snapshotsapi.UnimplementedSnapshotsServer
	byName map[string]snapshots.Snapshotter
}

func (s *snapshotServer) of(name string) (snapshots.Snapshotter, error) {
	if name == "" {
		return nil, missing("snapshotter")
	}
	sn, ok := s.byName[name]
	if !ok {
		return nil, fmt.Errorf("snapshotter not loaded: %s: %w", name, errdefs.ErrInvalidArgument)
	}
	return sn, nil
}

// Prepare implements Snapshots.
func (s *snapshotServer) Prepare(ctx context.Context, r *snapshotsapi.PrepareSnapshotRequest) (*snapshotsapi.PrepareSnapshotResponse, error) {
	sn, err := s.of(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	mounts, err := sn.Prepare(ctx, r.Key, r.Parent, r.Labels)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.PrepareSnapshotResponse{Mounts: wireMounts(mounts)}, nil
}

// View implements Snapshots.
func (s *snapshotServer) View(ctx context.Context, r *snapshotsapi.ViewSnapshotRequest) (*snapshotsapi.ViewSnapshotResponse, error) {
	sn, err := s.of(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	mounts, err := sn.View(ctx, r.Key, r.Parent, r.Labels)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.ViewSnapshotResponse{Mounts: wireMounts(mounts)}, nil
}

// Mounts implements Snapshots.
func (s *snapshotServer) Mounts(ctx context.Context, r *snapshotsapi.MountsRequest) (*snapshotsapi.MountsResponse, error) {
	sn, err := s.of(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	mounts, err := sn.Mounts(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.MountsResponse{Mounts: wireMounts(mounts)}, nil
}

// Commit implements Snapshots.
func (s *snapshotServer) Commit(ctx context.Context, r *snapshotsapi.CommitSnapshotRequest) (*emptypb.Empty, error) {
	sn, err := s.of(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	if r.Parent == "" {
		return done(sn.Commit(ctx, r.Name, r.Key, r.Labels))
	}
	re, ok := sn.(snapshots.Rebaser)
	if !ok {
		return nil, fmt.Errorf("snapshotter %s puts nothing onto a parent: %w", r.Snapshotter, errdefs.ErrNotImplemented)
	}
	return done(re.CommitOnto(ctx, r.Name, r.Key, r.Parent, r.Labels))
}

// Remove implements Snapshots.
func (s *snapshotServer) Remove(ctx context.Context, r *snapshotsapi.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	sn, err := s.of(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	return done(sn.Remove(ctx, r.Key))
}

// Stat implements Snapshots.
func (s *snapshotServer) Stat(ctx context.Context, r *snapshotsapi.StatSnapshotRequest) (*snapshotsapi.StatSnapshotResponse, error) {
	sn, err := s.of(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	info, err := sn.Stat(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.StatSnapshotResponse{Info: wireSnapshot(info)}, nil
}

// Update implements Snapshots.
func (s *snapshotServer) Update(ctx context.Context, r *snapshotsapi.UpdateSnapshotRequest) (*snapshotsapi.UpdateSnapshotResponse, error) {
	sn, err := s.of(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	if r.Info == nil {
		return nil, missing("info")
	}
	info, err := sn.Update(ctx, snapshots.Info{Name: r.Info.Name, Labels: r.Info.Labels}, r.GetUpdateMask().GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.UpdateSnapshotResponse{Info: wireSnapshot(info)}, nil
}

// List implements Snapshots.
func (s *snapshotServer) List(r *snapshotsapi.ListSnapshotsRequest, stream snapshotsapi.Snapshots_ListServer) error {
	sn, err := s.of(r.Snapshotter)
	if err != nil {
		return err
	}
	var infos []*snapshotsapi.Info
	flush := func() error {
		if len(infos) == 0 {
			return nil
		}
		err := stream.Send(&snapshotsapi.ListSnapshotsResponse{Info: infos})
		infos = nil
		return err
	}
	err = sn.Walk(stream.Context(), func(info snapshots.Info) error {
		if infos = append(infos, wireSnapshot(info)); len(infos) < batch {
			return nil
		}
		return flush()
	}, r.Filters...)
	if err != nil {
		return err
	}
	return flush()
}

// Usage implements Snapshots.
func (s *snapshotServer) Usage(ctx context.Context, r *snapshotsapi.UsageRequest) (*snapshotsapi.UsageResponse, error) {
	sn, err := s.of(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	u, err := sn.Usage(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.UsageResponse{Size: u.Size, Inodes: u.Inodes}, nil
}

// Cleanup implements Snapshots.
func (s *snapshotServer) Cleanup(ctx context.Context, r *snapshotsapi.CleanupRequest) (*emptypb.Empty, error) {
	sn, err := s.of(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	return done(sn.Cleanup(ctx))
}
