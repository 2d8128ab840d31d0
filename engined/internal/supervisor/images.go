package supervisor

import (
	"context"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// Image is a name for content.
type Image struct {
	Name      string // "docker.io/library/busybox:latest"
	Labels    map[string]string
	Target    ocispec.Descriptor
	CreatedAt time.Time
	UpdatedAt time.Time
}

func (c *Client) images() imagesapi.ImagesClient { return imagesapi.NewImagesClient(c.conn) }

func imageFromWire(i *imagesapi.Image) Image {
	return Image{
		Name: i.GetName(), Labels: i.GetLabels(), Target: descriptorFromWire(i.GetTarget()),
		CreatedAt: i.GetCreatedAt().AsTime(), UpdatedAt: i.GetUpdatedAt().AsTime(),
	}
}

func (i Image) wire() *imagesapi.Image {
	return &imagesapi.Image{Name: i.Name, Labels: i.Labels, Target: descriptorToWire(i.Target)}
}

func descriptorFromWire(d *types.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.GetMediaType(), Digest: digest.Digest(d.GetDigest()), Size: d.GetSize(), Annotations: d.GetAnnotations()}
}

func descriptorToWire(d ocispec.Descriptor) *types.Descriptor {
	return &types.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}

// GetImage returns the image called name. ErrNotFound if there is none.
func (c *Client) GetImage(ctx context.Context, name string) (Image, error) {
	resp, err := c.images().Get(c.scope(ctx), &imagesapi.GetImageRequest{Name: name})
	if err != nil {
		return Image{}, err
	}
	return imageFromWire(resp.GetImage()), nil
}

// Images returns the images that match one of the filters; none matches all.
func (c *Client) Images(ctx context.Context, filters ...string) ([]Image, error) {
	resp, err := c.images().List(c.scope(ctx), &imagesapi.ListImagesRequest{Filters: filters})
	if err != nil {
		return nil, err
	}
	out := make([]Image, len(resp.GetImages()))
	for i, img := range resp.GetImages() {
		out[i] = imageFromWire(img)
	}
	return out, nil
}

// CreateImage makes a name. ErrAlreadyExists if it is taken.
func (c *Client) CreateImage(ctx context.Context, img Image) error {
	_, err := c.images().Create(c.scope(ctx), &imagesapi.CreateImageRequest{Image: img.wire()})
	return err
}

// RetargetImage points a name that exists elsewhere. ErrNotFound if it does not exist.
func (c *Client) RetargetImage(ctx context.Context, img Image) error {
	_, err := c.images().Update(c.scope(ctx), &imagesapi.UpdateImageRequest{Image: img.wire(), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"target"}}})
	return err
}

// DeleteImage removes a name. With sync it waits until the supervisor has freed what
// nothing refers to any more.
func (c *Client) DeleteImage(ctx context.Context, name string, sync bool) error {
	_, err := c.images().Delete(c.scope(ctx), &imagesapi.DeleteImageRequest{Name: name, Sync: sync})
	return err
}
