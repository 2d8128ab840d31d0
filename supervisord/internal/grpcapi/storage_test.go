package grpcapi_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"testing"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"strata/pkg/rpc"
	"strata/supervisord/internal/grpcapi"
	"strata/supervisord/internal/snapshots"
	"strata/supervisord/internal/storage"
)

// dial serves the storage services on a socket and returns a plain gRPC connection, as a
// foreign client has it, and a context with containerd's namespace header.
func dial(t *testing.T) (*grpc.ClientConn, context.Context) {
	t.Helper()
	s, err := storage.Open(t.Context(), t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	server := grpc.NewServer(rpc.ServerOptions()...)
	byName := map[string]snapshots.Snapshotter{}
	for name, sn := range s.Snapshotters {
		byName[name] = sn
	}
	grpcapi.RegisterStorage(server, grpcapi.Storage{
		Namespaces: s.Namespaces, Content: s.Content, Images: s.Images, Containers: s.Containers,
		Leases: s.Leases, Snapshotters: byName, Diff: s.Diff, Collect: s.GC.Collect,
	})
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return conn, metadata.AppendToOutgoingContext(t.Context(), "containerd-namespace", "test")
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantCode(t *testing.T, what string, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%s = %v, want code %s", what, err, code)
	}
}

// exchange sends messages on one Write stream and returns the last answer.
func exchange(t *testing.T, c contentapi.ContentClient, ctx context.Context, msgs ...*contentapi.WriteContentRequest) (last *contentapi.WriteContentResponse, err error) {
	t.Helper()
	stream := must(c.Write(ctx))(t)
	for _, m := range msgs {
		if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if last, err = stream.Recv(); err != nil {
			return last, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return last, err
	}
	return last, nil
}

const (
	stat   = contentapi.WriteAction_STAT
	write  = contentapi.WriteAction_WRITE
	commit = contentapi.WriteAction_COMMIT
)

func TestContentWriteIsContainerdsStateMachine(t *testing.T) {
	conn, ctx := dial(t)
	c := contentapi.NewContentClient(conn)
	data := bytes.Repeat([]byte("0123456789"), 300_000)
	dgst := digest.FromBytes(data).String()
	total := int64(len(data))

	_, err := exchange(t, c, t.Context(), &contentapi.WriteContentRequest{Ref: "r"})
	wantCode(t, "without a namespace", err, codes.FailedPrecondition)
	_, err = exchange(t, c, ctx, &contentapi.WriteContentRequest{Action: stat})
	wantCode(t, "without a ref", err, codes.InvalidArgument)
	_, err = exchange(t, c, ctx, &contentapi.WriteContentRequest{Ref: "r", Expected: "sha256:../x"})
	wantCode(t, "with a bad digest", err, codes.InvalidArgument)

	first := &contentapi.WriteContentRequest{Action: stat, Ref: "r", Total: total, Expected: dgst}
	r := must(exchange(t, c, ctx, first, &contentapi.WriteContentRequest{Action: write, Data: data[:1000]}))(t)
	if r.Offset != 1000 || r.Action != write {
		t.Errorf("first write: %v", r)
	}
	r = must(exchange(t, c, ctx, first))(t)
	if r.Offset != 1000 || r.Total != total || r.Digest != digest.FromBytes(data[:1000]).String() || r.StartedAt == nil {
		t.Errorf("STAT after a disconnect: %v", r)
	}
	_, err = exchange(t, c, ctx, first, &contentapi.WriteContentRequest{Action: write, Offset: 999, Data: data[999:]})
	wantCode(t, "write at another offset", err, codes.OutOfRange)
	r = must(exchange(t, c, ctx, first, &contentapi.WriteContentRequest{Action: write, Offset: 0, Data: data[:2000]}))(t)
	if r.Offset != 2000 {
		t.Errorf("write at zero starts again: %v", r)
	}
	holder := must(c.Write(ctx))(t)
	if err := holder.Send(first); err != nil {
		t.Fatal(err)
	}
	_ = must(holder.Recv())(t)
	_, err = exchange(t, c, ctx, first)
	wantCode(t, "second writer", err, codes.Unavailable)
	if err := holder.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Recv(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	r = must(exchange(t, c, ctx, first,
		&contentapi.WriteContentRequest{Action: write, Offset: 2000, Data: data[2000:1_000_000]},
		&contentapi.WriteContentRequest{Action: commit, Offset: 1_000_000, Data: data[1_000_000:], Total: total, Expected: dgst, Labels: map[string]string{"k": "v"}}))(t)
	if r.Offset != total || r.Digest != dgst || r.Action != commit {
		t.Errorf("COMMIT with data: %v", r)
	}
	_, err = exchange(t, c, ctx, first)
	wantCode(t, "write of what exists", err, codes.AlreadyExists)
	_, err = exchange(t, c, ctx, &contentapi.WriteContentRequest{Action: write, Ref: "short", Data: []byte("x")}, &contentapi.WriteContentRequest{Action: commit, Offset: 1, Total: 2})
	wantCode(t, "commit of another size", err, codes.FailedPrecondition)
	_, err = exchange(t, c, ctx, &contentapi.WriteContentRequest{Action: write, Ref: "wrong", Data: []byte("x")}, &contentapi.WriteContentRequest{Action: commit, Offset: 1, Expected: dgst})
	wantCode(t, "commit of another digest", err, codes.FailedPrecondition)
	if info := must(c.Info(ctx, &contentapi.InfoRequest{Digest: dgst}))(t); info.Info.Size != total || info.Info.Labels["k"] != "v" {
		t.Errorf("Info = %v", info)
	}
}

func TestContentReadSendsRanges(t *testing.T) {
	conn, ctx := dial(t)
	c := contentapi.NewContentClient(conn)
	data := bytes.Repeat([]byte("abc"), 1<<20)
	dgst := digest.FromBytes(data).String()
	_ = must(exchange(t, c, ctx, &contentapi.WriteContentRequest{Action: commit, Ref: "r", Data: data, Expected: dgst}))(t)
	for _, tt := range []struct {
		offset, size int64
		code         codes.Code
	}{
		{0, 0, codes.OK},
		{1, 5, codes.OK},
		{1 << 20, 0, codes.OK},
		{int64(len(data)), 0, codes.OK},
		{int64(len(data)), 1, codes.OutOfRange},
		{0, int64(len(data)) + 1, codes.OutOfRange},
		{-1, 1, codes.OutOfRange},
		{1, 1<<63 - 1, codes.OutOfRange},
	} {
		stream := must(c.Read(ctx, &contentapi.ReadContentRequest{Digest: dgst, Offset: tt.offset, Size: tt.size}))(t)
		var got []byte
		at := tt.offset
		var err error
		for {
			var r *contentapi.ReadContentResponse
			if r, err = stream.Recv(); err != nil {
				break
			}
			if r.Offset != at {
				t.Errorf("message at %d, want %d", r.Offset, at)
			}
			got = append(got, r.Data...)
			at += int64(len(r.Data))
		}
		if tt.code != codes.OK {
			wantCode(t, "Read", err, tt.code)
			continue
		}
		want := data[tt.offset:]
		if tt.size > 0 {
			want = want[:tt.size]
		}
		if !errors.Is(err, io.EOF) || !bytes.Equal(got, want) {
			t.Errorf("Read %d at %d gave %d bytes, %v; want %d", tt.size, tt.offset, len(got), err, len(want))
		}
	}
}

func TestStorageRecordsRoundTripOnTheWire(t *testing.T) {
	conn, ctx := dial(t)
	spec := &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte(`{}`)}
	containers := containersapi.NewContainersClient(conn)
	c := must(containers.Create(ctx, &containersapi.CreateContainerRequest{Container: &containersapi.Container{
		ID: "c", Image: "i", Runtime: &containersapi.Container_Runtime{Name: "r", Options: spec}, Spec: spec,
		Snapshotter: "overlayfs", SnapshotKey: "k", Sandbox: "s", Extensions: map[string]*anypb.Any{"e": spec}, Labels: map[string]string{"l": "v"},
	}}))(t).Container
	stream := must(containers.ListStream(ctx, &containersapi.ListContainersRequest{Filters: []string{"labels.l==v"}}))(t)
	got := must(stream.Recv())(t).Container
	if got.String() != c.String() || got.CreatedAt == nil || got.Sandbox != "s" || string(got.Runtime.Options.GetValue()) != "{}" {
		t.Errorf("ListStream = %v, want %v", got, c)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last container: %v", err)
	}
	_, err := containers.Update(ctx, &containersapi.UpdateContainerRequest{Container: &containersapi.Container{ID: "c"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"snapshotter"}}})
	wantCode(t, "Update of the snapshotter", err, codes.InvalidArgument)

	images := imagesapi.NewImagesClient(conn)
	target := &types.Descriptor{MediaType: "m", Digest: digest.FromString("x").String(), Size: 1, Annotations: map[string]string{"a": "b"}}
	_, err = images.Update(ctx, &imagesapi.UpdateImageRequest{Image: &imagesapi.Image{Name: "i", Target: target}})
	wantCode(t, "Update of an image that is not there", err, codes.NotFound)
	_ = must(images.Create(ctx, &imagesapi.CreateImageRequest{Image: &imagesapi.Image{Name: "i", Target: target, Labels: map[string]string{"l": "v"}}}))(t)
	_, err = images.Create(ctx, &imagesapi.CreateImageRequest{Image: &imagesapi.Image{Name: "i", Target: target}})
	wantCode(t, "second Create", err, codes.AlreadyExists)
	image := must(images.Update(ctx, &imagesapi.UpdateImageRequest{Image: &imagesapi.Image{Name: "i", Labels: map[string]string{"l": "w"}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels.l"}}}))(t).Image
	if image.Labels["l"] != "w" || image.Target.String() != target.String() {
		t.Errorf("Update = %v", image)
	}
	_, err = images.Delete(ctx, &imagesapi.DeleteImageRequest{Name: "i", Target: &types.Descriptor{Digest: digest.FromString("y").String()}})
	wantCode(t, "Delete of another target", err, codes.NotFound)
	_ = must(images.Delete(ctx, &imagesapi.DeleteImageRequest{Name: "i", Sync: true}))(t)

	leases := leasesapi.NewLeasesClient(conn)
	_ = must(leases.Create(ctx, &leasesapi.CreateRequest{ID: "lease"}))(t)
	snaps := snapshotsapi.NewSnapshotsClient(conn)
	leased := metadata.AppendToOutgoingContext(ctx, "containerd-lease", "lease")
	mounts := must(snaps.Prepare(leased, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "overlayfs", Key: "k"}))(t).Mounts
	if len(mounts) != 1 || mounts[0].Type != "bind" || !slices.Contains(mounts[0].Options, "rbind") {
		t.Errorf("Mounts of the first layer = %v", mounts)
	}
	resources := must(leases.ListResources(ctx, &leasesapi.ListResourcesRequest{ID: "lease"}))(t).Resources
	if len(resources) != 1 || resources[0].Type != "snapshots/overlayfs" || resources[0].ID != "k" {
		t.Errorf("resources = %v", resources)
	}
	_, err = snaps.Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: "zfs", Key: "k"})
	wantCode(t, "unknown snapshotter", err, codes.InvalidArgument)
	_, err = snaps.Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: "overlayfs", Key: "missing"})
	wantCode(t, "Stat of nothing", err, codes.NotFound)
	_, err = namespacesapi.NewNamespacesClient(conn).Delete(ctx, &namespacesapi.DeleteNamespaceRequest{Name: "test"})
	wantCode(t, "Delete of a namespace in use", err, codes.FailedPrecondition)
}
