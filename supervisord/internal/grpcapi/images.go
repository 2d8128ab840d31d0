package grpcapi

import (
	"context"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/images"
)

// imageServer translates containerd.services.images.v1.Images.
type imageServer struct {
	imagesapi.UnimplementedImagesServer
	store   images.Store
	collect func(ctx context.Context) (gc.Stats, error)
}

// Get implements Images.
func (s *imageServer) Get(ctx context.Context, r *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	image, err := s.store.Get(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	return &imagesapi.GetImageResponse{Image: wireImage(image)}, nil
}

// List implements Images.
func (s *imageServer) List(ctx context.Context, r *imagesapi.ListImagesRequest) (*imagesapi.ListImagesResponse, error) {
	list, err := s.store.List(ctx, r.Filters...)
	if err != nil {
		return nil, err
	}
	out := &imagesapi.ListImagesResponse{}
	for _, image := range list {
		out.Images = append(out.Images, wireImage(image))
	}
	return out, nil
}

// Create implements Images.
func (s *imageServer) Create(ctx context.Context, r *imagesapi.CreateImageRequest) (*imagesapi.CreateImageResponse, error) {
	if r.Image == nil {
		return nil, missing("image")
	}
	image, err := s.store.Create(ctx, imageOf(r.Image))
	if err != nil {
		return nil, err
	}
	return &imagesapi.CreateImageResponse{Image: wireImage(image)}, nil
}

// Update implements Images.
func (s *imageServer) Update(ctx context.Context, r *imagesapi.UpdateImageRequest) (*imagesapi.UpdateImageResponse, error) {
	if r.Image == nil {
		return nil, missing("image")
	}
	image, err := s.store.Update(ctx, imageOf(r.Image), r.GetUpdateMask().GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &imagesapi.UpdateImageResponse{Image: wireImage(image)}, nil
}

// Delete implements Images.
func (s *imageServer) Delete(ctx context.Context, r *imagesapi.DeleteImageRequest) (*emptypb.Empty, error) {
	var target *ocispec.Descriptor
	if r.Target != nil {
		d := descriptorOf(r.Target)
		target = &d
	}
	err := s.store.Delete(ctx, r.Name, target)
	if err == nil && r.Sync {
		_, err = s.collect(ctx)
	}
	return done(err)
}
