package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/identifiers"
	"strata/pkg/manifest"
)

// CommitRequest says how to make an image of a container.
type CommitRequest struct {
	// SnapshotKey of the container's writable layer; the caller has paused what runs.
	SnapshotKey string
	// BaseRef finds the image that the container was made from: its id. An image that is
	// gone leaves only its layers' content to be missed (ErrNotFound).
	BaseRef string
	// Config is the new image's "config" object: the container's Config merged by the
	// caller. Changes are Dockerfile instructions on top.
	Config    json.RawMessage
	Changes   []string
	Name      string // full reference; "" for none
	Author    string
	Comment   string
	CreatedBy string // the container's command
}

// Commit makes an image of the changes of a container above its image. The rest of the
// container is not touched.
func (s *Service) Commit(ctx context.Context, r CommitRequest) (Image, error) {
	raw, err := ApplyChanges(r.Config, r.Changes)
	if err != nil {
		return Image{}, err
	}
	base, err := s.Resolve(ctx, r.BaseRef, nil)
	if err != nil {
		return Image{}, fmt.Errorf("image of the container: %w", err)
	}
	ctx, done, err := s.sup.WithLease(ctx)
	if err != nil {
		return Image{}, err
	}
	defer done()
	layer, diffID, err := s.diff(ctx, r.SnapshotKey, base.ChainID.String())
	if err != nil {
		return Image{}, err
	}
	now := time.Now().UTC()
	config := base.Config
	config.Config = ocispec.ImageConfig{}
	config.Created, config.Author = &now, r.Author
	config.RootFS.Type = "layers"
	config.RootFS.DiffIDs = append(slices.Clone(base.Config.RootFS.DiffIDs), diffID)
	config.History = append(slices.Clone(base.Config.History), ocispec.History{Created: &now, CreatedBy: r.CreatedBy, Author: r.Author, Comment: r.Comment})
	img, err := s.Assemble(ctx, NewImage{
		Config: config, Runtime: raw, Name: r.Name, Parent: base.ID,
		Layers: append(slices.Clone(base.Layers), layer),
	})
	if err != nil {
		return Image{}, err
	}
	return img, s.EnsureUnpacked(ctx, img)
}

// diff makes a layer of what snapshot key has changed above parent.
func (s *Service) diff(ctx context.Context, key, parent string) (ocispec.Descriptor, digest.Digest, error) {
	var none ocispec.Descriptor
	upper, err := s.sup.SnapshotMounts(ctx, s.cfg.Snapshotter, key)
	if err != nil {
		return none, "", fmt.Errorf("layer of container %s: %w", key, err)
	}
	view := "commit-" + identifiers.Short(identifiers.New())
	lower, err := s.sup.ViewSnapshot(ctx, s.cfg.Snapshotter, view, parent, nil)
	if err != nil {
		return none, "", fmt.Errorf("view of the image: %w", err)
	}
	layer, err := s.sup.Diff(ctx, lower, upper, ocispec.MediaTypeImageLayerGzip)
	if err = errors.Join(err, s.removeSnapshot(ctx, view)); err != nil {
		return none, "", err
	}
	info, err := s.sup.ContentInfo(ctx, layer.Digest)
	if err != nil {
		return none, "", err
	}
	diffID, err := digest.Parse(info.Labels[manifest.LabelUncompressed])
	if err != nil {
		return none, "", fmt.Errorf("layer %s has no diff id: %w: %w", layer.Digest, err, errdefs.ErrUnknown)
	}
	return layer, diffID, nil
}
