package facts

import (
	"context"

	"github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/ctxlog"
	eventbus "strata/supervisord/internal/events"
)

// Publish hands a fact to p, which may be nil. It happened already: a failure is logged.
func Publish(ctx context.Context, p eventbus.Publisher, f Fact) {
	if p == nil {
		return
	}
	if err := p.Publish(ctx, f.topic, f.message); err != nil {
		ctxlog.From(ctx).Warn("event not published", ctxlog.Topic, f.topic, ctxlog.Error, err)
	}
}

// Fact is an event in containerd's words.
type Fact struct {
	topic   string
	message proto.Message
}

// NamespaceCreated is /namespaces/create.
func NamespaceCreated(name string, labels map[string]string) Fact {
	return Fact{"/namespaces/create", &events.NamespaceCreate{Name: name, Labels: labels}}
}

// NamespaceUpdated is /namespaces/update.
func NamespaceUpdated(name string, labels map[string]string) Fact {
	return Fact{"/namespaces/update", &events.NamespaceUpdate{Name: name, Labels: labels}}
}

// NamespaceDeleted is /namespaces/delete.
func NamespaceDeleted(name string) Fact {
	return Fact{"/namespaces/delete", &events.NamespaceDelete{Name: name}}
}

// ImageCreated is /images/create.
func ImageCreated(name string, labels map[string]string) Fact {
	return Fact{"/images/create", &events.ImageCreate{Name: name, Labels: labels}}
}

// ImageUpdated is /images/update.
func ImageUpdated(name string, labels map[string]string) Fact {
	return Fact{"/images/update", &events.ImageUpdate{Name: name, Labels: labels}}
}

// ImageDeleted is /images/delete.
func ImageDeleted(name string) Fact {
	return Fact{"/images/delete", &events.ImageDelete{Name: name}}
}

// ContentCreated is /content/create.
func ContentCreated(digest string, size int64) Fact {
	return Fact{"/content/create", &events.ContentCreate{Digest: digest, Size: size}}
}

// ContentDeleted is /content/delete.
func ContentDeleted(digest string) Fact {
	return Fact{"/content/delete", &events.ContentDelete{Digest: digest}}
}

// SnapshotPrepared is /snapshot/prepare.
func SnapshotPrepared(snapshotter, key, parent string) Fact {
	return Fact{"/snapshot/prepare", &events.SnapshotPrepare{Snapshotter: snapshotter, Key: key, Parent: parent}}
}

// SnapshotCommitted is /snapshot/commit.
func SnapshotCommitted(snapshotter, key, name string) Fact {
	return Fact{"/snapshot/commit", &events.SnapshotCommit{Snapshotter: snapshotter, Key: key, Name: name}}
}

// SnapshotRemoved is /snapshot/remove.
func SnapshotRemoved(snapshotter, key string) Fact {
	return Fact{"/snapshot/remove", &events.SnapshotRemove{Snapshotter: snapshotter, Key: key}}
}

// ContainerDeleted is /containers/delete.
func ContainerDeleted(id string) Fact {
	return Fact{"/containers/delete", &events.ContainerDelete{ID: id}}
}

// ContainerCreated is /containers/create.
func ContainerCreated(id, image, runtime string, options *anypb.Any) Fact {
	return Fact{"/containers/create", &events.ContainerCreate{
		ID: id, Image: image, Runtime: &events.ContainerCreate_Runtime{Name: runtime, Options: options},
	}}
}

// ContainerUpdated is /containers/update.
func ContainerUpdated(id, image, snapshotKey string, labels map[string]string) Fact {
	return Fact{"/containers/update", &events.ContainerUpdate{ID: id, Image: image, SnapshotKey: snapshotKey, Labels: labels}}
}
