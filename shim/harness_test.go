package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	forward "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/pkg/shimio"
	_ "strata/shim" // its binary is under test: without this, results are cached across changes
)

// patience bounds every wait of the tests.
const patience = 20 * time.Second

var (
	shimBinary string // built by TestMain
	runtimeBin string // the OCI runtime; empty: none is installed
)

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "shim")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	shimBinary = filepath.Join(dir, "containerd-shim-strata-v2")
	build := exec.Command("go", "build", "-tags", "no_grpc", "-o", shimBinary, "strata/cmd/shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build the shim: %v\n%s", err, out))
	}
	for _, name := range []string{os.Getenv("STRATA_RUNTIME"), "runc", "crun"} {
		if path, err := exec.LookPath(name); err == nil && name != "" {
			runtimeBin = path
			break
		}
	}
	return m.Run()
}

// daemon stands for containerd: it runs shims and takes their events.
type daemon struct {
	t   *testing.T
	dir string

	mu     sync.Mutex
	server *ttrpc.Server
	events []*types.Envelope
	arrive chan struct{} // closed and made anew with each event
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if runtimeBin == "" {
		t.Skip("needs an OCI runtime: runc, crun or STRATA_RUNTIME")
	}
	dir, err := os.MkdirTemp("/run", "shimtest") // short: the path of a socket has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &daemon{t: t, dir: dir, arrive: make(chan struct{})}
	d.up()
	t.Cleanup(d.down)
	return d
}

func (d *daemon) address() string { return filepath.Join(d.dir, "d.sock") }

// up begins to take events, down ends it, as a daemon that dies does.
func (d *daemon) up() {
	d.t.Helper()
	path := d.address() + ".ttrpc"
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		d.t.Fatal(err)
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		d.t.Fatal(err)
	}
	forward.RegisterTTRPCEventsService(srv, d)
	d.mu.Lock()
	d.server = srv
	d.mu.Unlock()
	go func() { _ = srv.Serve(context.Background(), l) }()
}

func (d *daemon) down() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.server != nil {
		_ = d.server.Close()
		d.server = nil
	}
}

func (d *daemon) Forward(_ context.Context, r *forward.ForwardRequest) (*emptypb.Empty, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, r.GetEnvelope())
	close(d.arrive)
	d.arrive = make(chan struct{})
	return &emptypb.Empty{}, nil
}

// waitEvents returns all events of a container as soon as there are n.
func (d *daemon) waitEvents(containerID string, n int) []string {
	d.t.Helper()
	deadline := time.After(patience)
	for {
		d.mu.Lock()
		var got []string
		for _, e := range d.events {
			if s := describe(d.t, e); strings.Contains(s, containerID) {
				got = append(got, s)
			}
		}
		arrive := d.arrive
		d.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-arrive:
		case <-deadline:
			d.t.Fatalf("%d events of %s, want %d: %q", len(got), containerID, n, got)
		}
	}
}

// describe is an event in one line: "topic container exec status".
func describe(t *testing.T, e *types.Envelope) string {
	t.Helper()
	m, err := (&anypb.Any{TypeUrl: "x/" + e.GetEvent().GetTypeUrl(), Value: e.GetEvent().GetValue()}).UnmarshalNew()
	if err != nil {
		t.Fatalf("event %s: %v", e.GetTopic(), err)
	}
	var s strings.Builder
	s.WriteString(e.GetTopic())
	for _, name := range []string{"container_id", "id", "exec_id", "exit_status"} {
		if f := m.ProtoReflect().Descriptor().Fields().ByTextName(name); f != nil && m.ProtoReflect().Has(f) {
			s.WriteString(fmt.Sprintf(" %v", m.ProtoReflect().Get(f)))
		}
	}
	return s.String()
}

// shimProc is a running shim and a client of it.
type shimProc struct {
	d      *daemon
	client *ttrpc.Client
	socket string
	pid    int
}

// bundle is a container on disk.
type bundle struct {
	id, dir string
}

// process is the runtime-spec process of a shell script.
func processSpec(terminal bool, script string) map[string]any {
	return map[string]any{
		"terminal": terminal, "cwd": "/", "args": []string{"/bin/sh", "-c", script},
		"user": map[string]any{"uid": 0, "gid": 0}, "env": []string{"PATH=/bin", "TERM=dumb"},
		"capabilities": map[string]any{"bounding": []string{"CAP_KILL"}, "effective": []string{"CAP_KILL"}, "permitted": []string{"CAP_KILL"}},
	}
}

// newBundle makes a container that runs a shell script.
func (d *daemon) newBundle(id, script string, change ...func(spec map[string]any)) bundle {
	d.t.Helper()
	b := bundle{id: id, dir: filepath.Join(d.dir, id)}
	bin := filepath.Join(b.dir, "rootfs", "bin")
	for _, dir := range []string{bin, filepath.Join(b.dir, "rootfs", "proc"), filepath.Join(b.dir, "rootfs", "dev"), filepath.Join(b.dir, "rootfs", "tmp")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			d.t.Fatal(err)
		}
	}
	installBusybox(d.t, bin)
	spec := map[string]any{
		"ociVersion": "1.0.2", "hostname": id,
		"root":    map[string]any{"path": "rootfs"},
		"process": processSpec(false, script),
		"mounts": []any{
			map[string]any{"destination": "/proc", "type": "proc", "source": "proc"},
			map[string]any{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
			map[string]any{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		"linux": map[string]any{
			"cgroupsPath": "/strata-shim-test-" + filepath.Base(d.dir) + "/" + id,
			"namespaces":  []any{map[string]any{"type": "pid"}, map[string]any{"type": "mount"}, map[string]any{"type": "ipc"}, map[string]any{"type": "uts"}},
		},
	}
	for _, c := range change {
		c(spec)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "config.json"), data, 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { d.wipe(b) })
	return b
}

func withTerminal(spec map[string]any) { spec["process"].(map[string]any)["terminal"] = true }

func installBusybox(t *testing.T, bin string) {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox (package busybox-static)")
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "sleep", "echo", "true", "head", "tr", "seq", "stty", "kill", "dd", "ps"} {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// wipe removes what a failed test may have left of a container.
func (d *daemon) wipe(b bundle) {
	cmd := exec.Command(runtimeBin, "--root", filepath.Join(d.dir, "state", "test"), "delete", "--force", b.id)
	_ = cmd.Run()
	_ = syscall.Unmount(filepath.Join(b.dir, "rootfs"), syscall.MNT_DETACH)
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/strata-shim-test-" + filepath.Base(d.dir))
	for _, dir := range append(dirs, "/sys/fs/cgroup/strata-shim-test-"+filepath.Base(d.dir)) {
		_ = os.Remove(dir)
	}
}

// command is the shim's command line as a daemon runs it.
func (d *daemon) command(b bundle, stdin []byte, action string) *exec.Cmd {
	cmd := exec.Command(shimBinary, "-namespace", "test", "-address", d.address(), "-publish-binary", "/bin/false", "-id", b.id, "-bundle", b.dir, action)
	cmd.Dir = b.dir
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "TTRPC_ADDRESS="+d.address()+".ttrpc")
	return cmd
}

func (d *daemon) params(b bundle) []byte {
	d.t.Helper()
	dir := filepath.Join(d.dir, "s")
	data, err := proto.Marshal(&bootstrap.BootstrapParams{
		InstanceID: b.id, Namespace: "test", ContainerdGrpcAddress: d.address(),
		ContainerdTtrpcAddress: d.address() + ".ttrpc", SocketDir: &dir,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return data
}

// start starts the shim of a container.
func (d *daemon) start(b bundle) *shimProc {
	d.t.Helper()
	out, err := d.command(b, d.params(b), "start").CombinedOutput()
	if err != nil {
		d.t.Fatalf("start: %v: %s", err, out)
	}
	var result bootstrap.BootstrapResult
	if err := proto.Unmarshal(out, &result); err != nil || result.GetVersion() != 3 || result.GetProtocol() != "ttrpc" {
		d.t.Fatalf("start said %q: %v", out, err)
	}
	return d.connect(strings.TrimPrefix(result.GetAddress(), "unix://"))
}

func (d *daemon) connect(socket string) *shimProc {
	d.t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		d.t.Fatal(err)
	}
	s := &shimProc{d: d, client: ttrpc.NewClient(conn), socket: socket}
	var resp task.ConnectResponse
	if err := s.call("Connect", &task.ConnectRequest{}, &resp); err != nil {
		d.t.Fatal(err)
	}
	s.pid = int(resp.GetShimPid())
	d.t.Cleanup(func() {
		_ = s.client.Close()
		_ = syscall.Kill(s.pid, syscall.SIGKILL)
	})
	return s
}

// call calls a method of the task service, by turns under its two names.
func (s *shimProc) call(method string, req, resp proto.Message) error {
	s.d.t.Helper()
	service := "containerd.task.v2.Task"
	if len(method)%2 == 0 {
		service = "containerd.task.v3.Task"
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return errgrpc.ToNative(s.client.Call(ctx, service, method, req, resp))
}

// must calls a method that has to succeed.
func (s *shimProc) must(method string, req, resp proto.Message) {
	s.d.t.Helper()
	err := s.call(method, req, resp)
	if method == "Shutdown" && err != nil && strings.HasSuffix(err.Error(), ttrpc.ErrClosed.Error()) {
		return // the shim may be gone before its answer is
	}
	if err != nil {
		s.d.t.Fatalf("%s: %v", method, err)
	}
}

func (s *shimProc) createRequest(b bundle, stdout string) *task.CreateTaskRequest {
	s.d.t.Helper()
	o, err := proto.Marshal(&options.Options{BinaryName: runtimeBin, Root: filepath.Join(s.d.dir, "state")})
	if err != nil {
		s.d.t.Fatal(err)
	}
	return &task.CreateTaskRequest{
		ID: b.id, Bundle: b.dir, Stdout: stdout,
		Options: &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: o},
	}
}

func (s *shimProc) create(b bundle, stdout string) {
	s.d.t.Helper()
	s.must("Create", s.createRequest(b, stdout), &task.CreateTaskResponse{})
}

func (s *shimProc) run(b bundle, stdout string) {
	s.d.t.Helper()
	s.create(b, stdout)
	s.must("Start", &task.StartRequest{ID: b.id}, &task.StartResponse{})
}

func (s *shimProc) addExec(b bundle, execID, script, stdout string) {
	s.d.t.Helper()
	spec, err := json.Marshal(processSpec(false, script))
	if err != nil {
		s.d.t.Fatal(err)
	}
	s.must("Exec", &task.ExecProcessRequest{
		ID: b.id, ExecID: execID, Stdout: stdout,
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: spec},
	}, &emptypb.Empty{})
}

func (s *shimProc) wait(b bundle, execID string) uint32 {
	s.d.t.Helper()
	var resp task.WaitResponse
	s.must("Wait", &task.WaitRequest{ID: b.id, ExecID: execID}, &resp)
	if resp.GetExitedAt() == nil {
		s.d.t.Error("exit without a time")
	}
	return resp.GetExitStatus()
}

func (s *shimProc) kill(b bundle) {
	s.d.t.Helper()
	s.must("Kill", &task.KillRequest{ID: b.id, Signal: uint32(syscall.SIGKILL)}, &emptypb.Empty{})
}

func (s *shimProc) deleteTask(b bundle) *task.DeleteResponse {
	s.d.t.Helper()
	var resp task.DeleteResponse
	s.must("Delete", &task.DeleteRequest{ID: b.id}, &resp)
	return &resp
}

// finish deletes an ended task, shuts the shim down and checks that it goes.
func (s *shimProc) finish(b bundle) {
	s.d.t.Helper()
	s.deleteTask(b)
	s.must("Shutdown", &task.ShutdownRequest{ID: b.id}, &emptypb.Empty{})
	s.gone()
}

// gone waits until the shim's process has ended.
func (s *shimProc) gone() {
	s.d.t.Helper()
	waitFor(s.d.t, "the end of the shim", func() bool {
		// Its parent has ended, so it belongs to a reaper or is a zombie for a moment.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
	if _, err := os.Stat(s.socket); err == nil {
		s.d.t.Errorf("socket %s is left", s.socket)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// uri returns a strata:// URI for a container with log and socket in its bundle.
func (b bundle) uri(change ...func(*shimio.URI)) shimio.URI {
	u := shimio.URI{Socket: filepath.Join(b.dir, "attach.sock"), LogPath: filepath.Join(b.dir, "c-json.log")}
	for _, c := range change {
		c(&u)
	}
	return u
}

// attach connects to an attach socket.
func attach(t *testing.T, socket string, hello shimio.Hello) (*net.UnixConn, shimio.Reply) {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err := shimio.WriteFrame(conn, hello); err != nil {
		t.Fatal(err)
	}
	var reply shimio.Reply
	if err := shimio.ReadFrame(conn, &reply); err != nil || reply.Error != "" {
		t.Fatalf("reply %+v, %v", reply, err)
	}
	return conn, reply
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
