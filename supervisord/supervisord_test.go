package supervisord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/pkg/linux/mount"
	"strata/pkg/namespaces"
	"strata/pkg/restartpolicy"
	"strata/pkg/rpc"
	supervisorv1 "strata/proto/strata/supervisor/v1"
)

// daemon is a whole supervisor in this process.
type daemon struct {
	cfg  Config
	conn *grpc.ClientConn
	stop func()
}

func newDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "sup") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(mount.UnmountRecursive(dir), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func start(t *testing.T, dir string) *daemon {
	t.Helper()
	ready := make(chan struct{})
	d := &daemon{cfg: Config{Address: filepath.Join(dir, "s.sock"), Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Version: "test", Ready: func() { close(ready) }}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, d.cfg) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("Run = %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("not ready within 10 s")
	}
	var err error
	if d.conn, err = rpc.Dial(d.cfg.Address); err != nil {
		t.Fatal(err)
	}
	stopped := false
	d.stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = d.conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	}
	t.Cleanup(d.stop)
	return d
}

func TestDaemonSaysWhoItIsAndStaysWhoItWas(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	uuid := func(d *daemon) string {
		resp, err := introspectionapi.NewIntrospectionClient(d.conn).Server(t.Context(), &emptypb.Empty{})
		if err != nil {
			t.Fatal(err)
		}
		return resp.UUID
	}
	first := uuid(d)
	if h, err := healthapi.NewHealthClient(d.conn).Check(t.Context(), &healthapi.HealthCheckRequest{}); err != nil || h.Status != healthapi.HealthCheckResponse_SERVING {
		t.Errorf("health = %v, %v", h, err)
	}
	plugins, err := introspectionapi.NewIntrospectionClient(d.conn).Plugins(t.Context(), &introspectionapi.PluginsRequest{Filters: []string{"type==io.containerd.snapshotter.v1,id==overlayfs"}})
	if err != nil || len(plugins.Plugins) != 1 || plugins.Plugins[0].Exports["root"] == "" {
		t.Errorf("Plugins = %v, %v; want overlayfs with its root", plugins, err)
	}
	if _, err := tasksapi.NewTasksClient(d.conn).List(t.Context(), &tasksapi.ListTasksRequest{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("List without a namespace = %v, want class ErrFailedPrecondition", err)
	}
	d.stop()
	if second := uuid(start(t, dir)); second != first || len(first) != 36 {
		t.Errorf("uuid = %q, then %q", first, second)
	}
}

func TestSecondDaemonIsToldWhoIsInTheWay(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	for name, change := range map[string]func(*Config){
		"same root":    func(c *Config) { c.State, c.Address = filepath.Join(dir, "state2"), filepath.Join(dir, "s2.sock") },
		"same state":   func(c *Config) { c.Root, c.Address = filepath.Join(dir, "root2"), filepath.Join(dir, "s2.sock") },
		"same address": func(c *Config) { c.Root, c.State = filepath.Join(dir, "root3"), filepath.Join(dir, "state3") },
	} {
		cfg := d.cfg
		cfg.Ready = func() { t.Errorf("%s: the second daemon got ready", name) }
		change(&cfg)
		if err := Run(t.Context(), cfg); !errors.Is(err, errdefs.ErrUnavailable) {
			t.Errorf("%s: Run = %v, want class ErrUnavailable", name, err)
		}
	}
}

// addContainer stores a container that runs script in a busybox rootfs; its snapshot is
// an empty one, which the bind mount of the request hides.
func addContainer(ctx context.Context, t *testing.T, d *daemon, script string, labels map[string]string) *tasksapi.CreateTaskRequest {
	t.Helper()
	const id = "again"
	dir := filepath.Dir(d.cfg.Root)
	for _, bin := range []string{"containerd-shim-runc-v2", "runc", "busybox"} {
		if _, err := exec.LookPath(bin); err != nil {
			t.Skipf("needs %s in PATH (Debian: containerd, runc, busybox-static)", bin)
		}
	}
	rootfs := filepath.Join(dir, "fs")
	if err := os.MkdirAll(filepath.Join(rootfs, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	busybox, _ := exec.LookPath("busybox")
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "bin", "sh"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(specs.Spec{
		Version: "1.0.2", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"/bin/sh", "-c", script}, Cwd: "/"},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{
			CgroupsPath: fmt.Sprintf("/strata-test-%d-%s", os.Getpid(), id),
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snapshotsapi.NewSnapshotsClient(d.conn).Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "overlayfs", Key: id}); err != nil {
		t.Fatal(err)
	}
	_, err = containersapi.NewContainersClient(d.conn).Create(ctx, &containersapi.CreateContainerRequest{Container: &containersapi.Container{
		ID: id, Labels: labels, Runtime: &containersapi.Container_Runtime{Name: "io.containerd.runc.v2"}, Snapshotter: "overlayfs", SnapshotKey: id,
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: spec},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return &tasksapi.CreateTaskRequest{ContainerID: id, Rootfs: []*types.Mount{{Type: "bind", Source: rootfs, Options: []string{"rbind", "rw"}}}}
}

func TestContainerRestartsAndIsExplained(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	ctx, cancel := context.WithTimeout(namespaces.With(t.Context(), "test"), 30*time.Second)
	defer cancel()
	events, err := eventsapi.NewEventsClient(d.conn).Subscribe(ctx, &eventsapi.SubscribeRequest{Filters: []string{"topic~=|^/tasks/|"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil {
		t.Fatal(err)
	}
	req := addContainer(ctx, t, d, "exit 3", map[string]string{restartpolicy.LabelPolicy: "on-failure:1", restartpolicy.LabelStatus: "running"})
	client := tasksapi.NewTasksClient(d.conn)
	if _, err := client.Create(ctx, req); err != nil {
		t.Fatal(err)
	}
	e, err := supervisorv1.NewSupervisorClient(d.conn).Explain(ctx, &supervisorv1.ExplainRequest{Id: "again"})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, o := range e.Explanation.Objects {
		kinds[o.Kind] = true
	}
	for _, kind := range []string{"record", "snapshot", "directory", "socket", "process", "mount"} {
		if !kinds[kind] {
			t.Errorf("Explain names no %s: %v", kind, e.Explanation.Objects)
		}
	}
	if len(e.Explanation.Steps) < 4 {
		t.Errorf("Explain has only %v", e.Explanation.Steps)
	}
	if _, err := client.Start(ctx, &tasksapi.StartRequest{ContainerID: "again"}); err != nil {
		t.Fatal(err)
	}
	want := "create start exit delete create start exit"
	var got []string
	for range strings.FieldsSeq(want) {
		ev, err := events.Recv()
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		got = append(got, strings.TrimPrefix(ev.Topic, "/tasks/"))
	}
	if s := strings.Join(got, " "); s != want {
		t.Errorf("events = %s, want %s", s, want)
	}
	c, err := containersapi.NewContainersClient(d.conn).Get(ctx, &containersapi.GetContainerRequest{ID: "again"})
	if err != nil || c.Container.Labels[restartpolicy.LabelCount] != "1" {
		t.Errorf("record = %v, %v; want one restart counted", c, err)
	}
	if _, err := client.Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: "again"}); err != nil {
		t.Fatal(err)
	}
	doctor, err := supervisorv1.NewSupervisorClient(d.conn).Doctor(ctx, &supervisorv1.DoctorRequest{})
	if err != nil || len(doctor.Findings) != 0 {
		t.Errorf("Doctor = %v, %v; want nothing", doctor, err)
	}
	if _, err := snapshotsapi.NewSnapshotsClient(d.conn).Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: "overlayfs", Key: "again"}); err != nil {
		t.Fatal(err)
	}
	doctor, err = supervisorv1.NewSupervisorClient(d.conn).Doctor(ctx, &supervisorv1.DoctorRequest{})
	if err != nil || len(doctor.Findings) != 1 || doctor.Findings[0].Code != "missing-snapshot" {
		t.Errorf("Doctor = %v, %v; want the missing snapshot", doctor, err)
	}
}
