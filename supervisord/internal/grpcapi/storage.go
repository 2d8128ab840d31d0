package grpcapi

import (
	"context"
	"fmt"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"strata/supervisord/internal/containers"
	"strata/supervisord/internal/content"
	"strata/supervisord/internal/diff"
	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/images"
	"strata/supervisord/internal/leases"
	"strata/supervisord/internal/metadata"
	"strata/supervisord/internal/snapshots"
)

// Storage is what the storage services call. Snapshotters are found by the name that the
// request carries.
type Storage struct {
	Namespaces   *metadata.Namespaces
	Content      content.Store
	Images       images.Store
	Containers   containers.Store
	Leases       leases.Manager
	Snapshotters map[string]snapshots.Snapshotter
	Diff         diff.Service
	// Collect runs a garbage collection for a synchronous delete.
	Collect func(ctx context.Context) (gc.Stats, error)
}

// RegisterStorage adds the services of content, images, snapshots, diff, leases,
// containers and namespaces to a server.
func RegisterStorage(s grpc.ServiceRegistrar, v Storage) {
	contentapi.RegisterContentServer(s, &contentServer{store: v.Content})
	imagesapi.RegisterImagesServer(s, &imageServer{store: v.Images, collect: v.Collect})
	snapshotsapi.RegisterSnapshotsServer(s, &snapshotServer{byName: v.Snapshotters})
	diffapi.RegisterDiffServer(s, &diffServer{service: v.Diff})
	leasesapi.RegisterLeasesServer(s, &leaseServer{manager: v.Leases})
	containersapi.RegisterContainersServer(s, &containerServer{store: v.Containers})
	namespacesapi.RegisterNamespacesServer(s, &namespaceServer{store: v.Namespaces})
}

// batch is how many records go into one message of a stream.
const batch = 100

// missing says that a request lacks its object.
func missing(what string) error {
	return fmt.Errorf("no %s given: %w", what, errdefs.ErrInvalidArgument)
}
