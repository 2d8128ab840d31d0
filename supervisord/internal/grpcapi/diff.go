package grpcapi

import (
	"context"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"

	"strata/supervisord/internal/diff"
)

// diffServer translates containerd.services.diff.v1.Diff.
type diffServer struct {
	diffapi.UnimplementedDiffServer
	service diff.Service
}

// Apply implements Diff. SyncFs needs no answer: the snapshotter makes what it commits
// durable itself.
func (s *diffServer) Apply(ctx context.Context, r *diffapi.ApplyRequest) (*diffapi.ApplyResponse, error) {
	if r.Diff == nil {
		return nil, missing("diff")
	}
	applied, err := s.service.Apply(ctx, descriptorOf(r.Diff), mountsOf(r.Mounts))
	if err != nil {
		return nil, err
	}
	return &diffapi.ApplyResponse{Applied: wireDescriptor(applied)}, nil
}

// Diff implements Diff.
func (s *diffServer) Diff(ctx context.Context, r *diffapi.DiffRequest) (*diffapi.DiffResponse, error) {
	opts := diff.Options{MediaType: r.MediaType, Ref: r.Ref, Labels: r.Labels}
	if r.SourceDateEpoch != nil {
		opts.Epoch = r.SourceDateEpoch.AsTime()
	}
	desc, err := s.service.Diff(ctx, mountsOf(r.Left), mountsOf(r.Right), opts)
	if err != nil {
		return nil, err
	}
	return &diffapi.DiffResponse{Diff: wireDescriptor(desc)}, nil
}
