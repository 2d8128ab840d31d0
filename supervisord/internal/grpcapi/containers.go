package grpcapi

import (
	"context"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/supervisord/internal/containers"
)

// containerServer translates containerd.services.containers.v1.Containers.
type containerServer struct {
	containersapi.UnimplementedContainersServer
	store containers.Store
}

// Get implements Containers.
func (s *containerServer) Get(ctx context.Context, r *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	c, err := s.store.Get(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &containersapi.GetContainerResponse{Container: wireContainer(c)}, nil
}

// List implements Containers.
func (s *containerServer) List(ctx context.Context, r *containersapi.ListContainersRequest) (*containersapi.ListContainersResponse, error) {
	list, err := s.store.List(ctx, r.Filters...)
	if err != nil {
		return nil, err
	}
	out := &containersapi.ListContainersResponse{}
	for _, c := range list {
		out.Containers = append(out.Containers, wireContainer(c))
	}
	return out, nil
}

// ListStream implements Containers: one message each, because a spec may be large.
func (s *containerServer) ListStream(r *containersapi.ListContainersRequest, stream containersapi.Containers_ListStreamServer) error {
	list, err := s.store.List(stream.Context(), r.Filters...)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := stream.Send(&containersapi.ListContainerMessage{Container: wireContainer(c)}); err != nil {
			return err
		}
	}
	return nil
}

// Create implements Containers.
func (s *containerServer) Create(ctx context.Context, r *containersapi.CreateContainerRequest) (*containersapi.CreateContainerResponse, error) {
	if r.Container == nil {
		return nil, missing("container")
	}
	c, err := s.store.Create(ctx, containerOf(r.Container))
	if err != nil {
		return nil, err
	}
	return &containersapi.CreateContainerResponse{Container: wireContainer(c)}, nil
}

// Update implements Containers.
func (s *containerServer) Update(ctx context.Context, r *containersapi.UpdateContainerRequest) (*containersapi.UpdateContainerResponse, error) {
	if r.Container == nil {
		return nil, missing("container")
	}
	c, err := s.store.Update(ctx, containerOf(r.Container), r.GetUpdateMask().GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &containersapi.UpdateContainerResponse{Container: wireContainer(c)}, nil
}

// Delete implements Containers.
func (s *containerServer) Delete(ctx context.Context, r *containersapi.DeleteContainerRequest) (*emptypb.Empty, error) {
	return done(s.store.Delete(ctx, r.ID))
}
