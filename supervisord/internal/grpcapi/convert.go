package grpcapi

import (
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/linux/mount"
	"strata/supervisord/internal/containers"
	"strata/supervisord/internal/content"
	"strata/supervisord/internal/images"
	"strata/supervisord/internal/leases"
	"strata/supervisord/internal/snapshots"
)

// stamp leaves out what is not known.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func descriptorOf(d *types.Descriptor) ocispec.Descriptor {
	if d == nil {
		return ocispec.Descriptor{}
	}
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(d.Digest), Size: d.Size, Annotations: d.Annotations}
}

func wireDescriptor(d ocispec.Descriptor) *types.Descriptor {
	return &types.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}

func wireMounts(ms []mount.Mount) []*types.Mount {
	out := make([]*types.Mount, 0, len(ms))
	for _, m := range ms {
		out = append(out, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return out
}

func mountsOf(ms []*types.Mount) []mount.Mount {
	out := make([]mount.Mount, 0, len(ms))
	for _, m := range ms {
		out = append(out, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return out
}

func wireContent(i content.Info) *contentapi.Info {
	return &contentapi.Info{
		Digest: i.Digest.String(), Size: i.Size, CreatedAt: stamp(i.CreatedAt), UpdatedAt: stamp(i.UpdatedAt), Labels: i.Labels,
	}
}

func wireStatus(st content.Status) *contentapi.Status {
	return &contentapi.Status{
		Ref: st.Ref, Offset: st.Offset, Total: st.Total, Expected: st.Expected.String(),
		StartedAt: stamp(st.StartedAt), UpdatedAt: stamp(st.UpdatedAt),
	}
}

func imageOf(i *imagesapi.Image) images.Image {
	return images.Image{
		Name: i.Name, Labels: i.Labels, Target: descriptorOf(i.Target),
		CreatedAt: i.CreatedAt.AsTime(), UpdatedAt: i.UpdatedAt.AsTime(),
	}
}

func wireImage(i images.Image) *imagesapi.Image {
	return &imagesapi.Image{
		Name: i.Name, Labels: i.Labels, Target: wireDescriptor(i.Target), CreatedAt: stamp(i.CreatedAt), UpdatedAt: stamp(i.UpdatedAt),
	}
}

func containerOf(c *containersapi.Container) containers.Container {
	return containers.Container{
		ID: c.ID, Labels: c.Labels, Image: c.Image,
		RuntimeName: c.GetRuntime().GetName(), RuntimeOptions: c.GetRuntime().GetOptions(), Spec: c.Spec,
		SnapshotKey: c.SnapshotKey, Snapshotter: c.Snapshotter, SandboxID: c.Sandbox, Extensions: c.Extensions,
	}
}

func wireContainer(c containers.Container) *containersapi.Container {
	return &containersapi.Container{
		ID: c.ID, Labels: c.Labels, Image: c.Image,
		Runtime: &containersapi.Container_Runtime{Name: c.RuntimeName, Options: c.RuntimeOptions}, Spec: c.Spec,
		SnapshotKey: c.SnapshotKey, Snapshotter: c.Snapshotter, Sandbox: c.SandboxID, Extensions: c.Extensions,
		CreatedAt: stamp(c.CreatedAt), UpdatedAt: stamp(c.UpdatedAt),
	}
}

func wireLease(l leases.Lease) *leasesapi.Lease {
	return &leasesapi.Lease{ID: l.ID, CreatedAt: stamp(l.CreatedAt), Labels: l.Labels}
}

func resourceOf(r *leasesapi.Resource) leases.Resource {
	return leases.Resource{ID: r.GetID(), Type: r.GetType()}
}

// snapshotKinds are the kinds of the domain on the wire.
var snapshotKinds = map[snapshots.Kind]snapshotsapi.Kind{
	snapshots.KindView:      snapshotsapi.Kind_VIEW,
	snapshots.KindActive:    snapshotsapi.Kind_ACTIVE,
	snapshots.KindCommitted: snapshotsapi.Kind_COMMITTED,
}

func wireSnapshot(i snapshots.Info) *snapshotsapi.Info {
	return &snapshotsapi.Info{
		Name: i.Name, Parent: i.Parent, Kind: snapshotKinds[i.Kind], Labels: i.Labels,
		CreatedAt: stamp(i.CreatedAt), UpdatedAt: stamp(i.UpdatedAt),
	}
}
