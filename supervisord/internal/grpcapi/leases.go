package grpcapi

import (
	"context"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/supervisord/internal/leases"
)

// leaseServer translates containerd.services.leases.v1.Leases.
type leaseServer struct {
	leasesapi.UnimplementedLeasesServer
	manager leases.Manager
}

// Create implements Leases.
func (s *leaseServer) Create(ctx context.Context, r *leasesapi.CreateRequest) (*leasesapi.CreateResponse, error) {
	lease, err := s.manager.Create(ctx, r.ID, r.Labels)
	if err != nil {
		return nil, err
	}
	return &leasesapi.CreateResponse{Lease: wireLease(lease)}, nil
}

// Delete implements Leases.
func (s *leaseServer) Delete(ctx context.Context, r *leasesapi.DeleteRequest) (*emptypb.Empty, error) {
	return done(s.manager.Delete(ctx, r.ID, r.Sync))
}

// List implements Leases.
func (s *leaseServer) List(ctx context.Context, r *leasesapi.ListRequest) (*leasesapi.ListResponse, error) {
	list, err := s.manager.List(ctx, r.Filters...)
	if err != nil {
		return nil, err
	}
	out := &leasesapi.ListResponse{}
	for _, l := range list {
		out.Leases = append(out.Leases, wireLease(l))
	}
	return out, nil
}

// AddResource implements Leases.
func (s *leaseServer) AddResource(ctx context.Context, r *leasesapi.AddResourceRequest) (*emptypb.Empty, error) {
	return done(s.manager.AddResource(ctx, r.ID, resourceOf(r.Resource)))
}

// DeleteResource implements Leases.
func (s *leaseServer) DeleteResource(ctx context.Context, r *leasesapi.DeleteResourceRequest) (*emptypb.Empty, error) {
	return done(s.manager.DeleteResource(ctx, r.ID, resourceOf(r.Resource)))
}

// ListResources implements Leases.
func (s *leaseServer) ListResources(ctx context.Context, r *leasesapi.ListResourcesRequest) (*leasesapi.ListResourcesResponse, error) {
	list, err := s.manager.ListResources(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	out := &leasesapi.ListResourcesResponse{}
	for _, res := range list {
		out.Resources = append(out.Resources, &leasesapi.Resource{ID: res.ID, Type: res.Type})
	}
	return out, nil
}
