package tasks_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/linux/mount"
	"strata/pkg/namespaces"
	"strata/supervisord/internal/containers"
	"strata/supervisord/internal/events"
	"strata/supervisord/internal/grpcapi"
	"strata/supervisord/internal/shims"
	"strata/supervisord/internal/tasks"
)

const ns = "strata-test"

// runtime is the stock one; STRATA_TEST_RUNTIME may hold the path of another shim, which
// must pass too.
func runtime() string {
	if path := os.Getenv("STRATA_TEST_RUNTIME"); path != "" {
		return path
	}
	return "io.containerd.runc.v2"
}

// driveRunc makes any shim drive runc, which has another default in ours.
func driveRunc() *anypb.Any {
	value, _ := proto.Marshal(&runcoptions.Options{BinaryName: "runc"}) // a constant
	return &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: value}
}

// records is a container store in memory.
type records struct {
	mu sync.Mutex
	m  map[string]containers.Container
}

func (r *records) Get(_ context.Context, id string) (containers.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.m[id]
	if !ok {
		return c, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// rig is a task service with the stock shim below it and a real event socket.
type rig struct {
	t        *testing.T
	dir      string
	broker   *events.Broker
	service  *tasks.Service
	launcher *shims.Launcher
	records  *records
	rootfs   string
	ctx      context.Context
	stop     func()
	exits    chan tasks.Exited
}

func (r *rig) Exited(e tasks.Exited) { r.exits <- e }

func requireStock(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, bin := range []string{"containerd-shim-runc-v2", "runc", "busybox"} {
		if _, err := exec.LookPath(bin); err != nil {
			t.Skipf("needs %s in PATH (Debian: containerd, runc, busybox-static)", bin)
		}
	}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	requireStock(t)
	dir, err := os.MkdirTemp("", "strt") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, records: &records{m: map[string]containers.Container{}}, rootfs: filepath.Join(dir, "fs")}
	t.Cleanup(func() {
		r.stop()
		if err := mount.UnmountRecursive(dir); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	bin := filepath.Join(r.rootfs, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	busybox, _ := exec.LookPath("busybox")
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep", "true"} {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	return r
}

// start starts the service; after stop it is a new daemon on the old state.
func (r *rig) start() {
	r.t.Helper()
	address := filepath.Join(r.dir, "a.sock")
	r.broker = &events.Broker{}
	r.exits = make(chan tasks.Exited, 100)
	r.launcher = shims.New(shims.Config{State: filepath.Join(r.dir, "state"), Root: filepath.Join(r.dir, "root"), Address: address, Executable: os.Args[0], Version: "test"})
	r.service = tasks.New(tasks.Config{Launcher: r.launcher, Containers: r.records, Events: r.broker})
	r.service.Observe(r)
	server, err := ttrpc.NewServer()
	if err != nil {
		r.t.Fatal(err)
	}
	grpcapi.RegisterTTRPCEvents(server, r.service)
	_ = os.Remove(address + ".ttrpc")
	l, err := net.Listen("unix", address+".ttrpc")
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(namespaces.With(context.Background(), ns))
	r.ctx = ctx
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(ctx, l) })
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			_ = server.Close()
			cancel()
			r.service.Close()
			wg.Wait()
		})
	}
	if err := r.service.Load(ctx); err != nil {
		r.t.Fatal(err)
	}
}

// add stores a container that runs args in the busybox rootfs.
func (r *rig) add(id string, args ...string) tasks.Request {
	r.t.Helper()
	spec := specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{
			CgroupsPath: fmt.Sprintf("/strata-test-%d-%s", os.Getpid(), id),
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}},
		},
	}
	data, err := json.Marshal(spec)
	if err != nil {
		r.t.Fatal(err)
	}
	r.records.mu.Lock()
	r.records.m[id] = containers.Container{
		ID: id, RuntimeName: runtime(), RuntimeOptions: driveRunc(),
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: data},
	}
	r.records.mu.Unlock()
	return tasks.Request{ID: id, Rootfs: []mount.Mount{{Type: "bind", Source: r.rootfs, Options: []string{"rbind", "rw"}}}}
}

func (r *rig) run(id string, args ...string) int {
	r.t.Helper()
	if _, err := r.service.Create(r.ctx, r.add(id, args...)); err != nil {
		r.t.Fatal(err)
	}
	pid, err := r.service.Start(r.ctx, id, "")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { r.end(id) })
	return pid
}

// end kills and deletes whatever is left of a task.
func (r *rig) end(id string) {
	ctx, cancel := context.WithTimeout(namespaces.With(context.Background(), ns), 10*time.Second)
	defer cancel()
	if _, err := r.service.Get(ctx, id, ""); err != nil {
		return
	}
	_ = r.service.Kill(ctx, id, "", 9, true)
	_, _ = r.service.Wait(ctx, id, "")
	if _, err := r.service.Delete(ctx, id); err != nil {
		r.t.Errorf("end of %q: %v", id, err)
	}
}

func (r *rig) within(d time.Duration, what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("%s: not within %v", what, d)
		}
	}
}

// next returns the topics of the next n events.
func next(t *testing.T, s *events.Subscription, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var out []string
	for range n {
		e, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("after %v: %v", out, err)
		}
		out = append(out, strings.TrimPrefix(e.Topic, "/tasks/"))
	}
	return out
}

func TestTaskLivesAndTellsItsLife(t *testing.T) {
	r := newRig(t)
	sub, _ := r.broker.Subscribe()
	defer sub.Close()
	pid := r.run("life", "sleep", "600")
	got, err := r.service.Get(r.ctx, "life", "")
	if err != nil || got.State.Status != shims.StatusRunning || got.State.PID != pid {
		t.Errorf("Get = %+v, %v; want running, pid %d", got, err, pid)
	}
	if _, err := r.service.Create(r.ctx, r.add("life", "true")); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("second Create = %v, want class ErrAlreadyExists", err)
	}
	if _, err := r.service.Delete(r.ctx, "life"); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("Delete of a running task = %v, want class ErrFailedPrecondition", err)
	}
	process, err := json.Marshal(specs.Process{Args: []string{"sh", "-c", "exit 7"}, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.service.Exec(r.ctx, "life", "e1", &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: process}, shims.IO{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.service.Start(r.ctx, "life", "e1"); err != nil {
		t.Fatal(err)
	}
	if exit, err := r.service.Wait(r.ctx, "life", "e1"); err != nil || exit.Status != 7 {
		t.Errorf("Wait for exec = %+v, %v; want status 7", exit, err)
	}
	if exit, err := r.service.DeleteProcess(r.ctx, "life", "e1"); err != nil || exit.Status != 7 {
		t.Errorf("DeleteProcess = %+v, %v; want status 7", exit, err)
	}
	if err := r.service.Kill(r.ctx, "life", "", 9, false); err != nil {
		t.Fatal(err)
	}
	if exit, err := r.service.Wait(r.ctx, "life", ""); err != nil || exit.Status != 137 {
		t.Errorf("Wait = %+v, %v; want status 137", exit, err)
	}
	if exit, err := r.service.Delete(r.ctx, "life"); err != nil || exit.Status != 137 {
		t.Errorf("Delete = %+v, %v; want status 137", exit, err)
	}
	want := "[create start exec-added exec-started exit exit delete]"
	if got := fmt.Sprint(next(t, sub, 7)); got != want {
		t.Errorf("events = %v, want %v", got, want)
	}
	if _, err := r.service.Get(r.ctx, "life", ""); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Get after Delete = %v, want class ErrNotFound", err)
	}
	// The same id again, at once: it waits for the old shim to be gone.
	r.run("life", "sleep", "600")
}

func TestDeadShimIsToldAsExit137AndLeavesNothing(t *testing.T) {
	r := newRig(t)
	sub, _ := r.broker.Subscribe("topic==/tasks/exit", "topic==/tasks/delete")
	defer sub.Close()
	pid := r.run("dead", "sleep", "600")
	waited := make(chan shims.Exit, 1)
	go func() {
		exit, _ := r.service.Wait(r.ctx, "dead", "")
		waited <- exit
	}()
	socket := r.socket("dead")
	if err := syscall.Kill(r.shimPID("dead"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(next(t, sub, 2)); got != "[exit delete]" {
		t.Errorf("events = %v, want exit and delete", got)
	}
	if exit := <-waited; exit.Status != 137 {
		t.Errorf("Wait = %+v, want status 137", exit)
	}
	if e := <-r.exits; e.ID != "dead" || !e.Gone || e.Exit.Status != 137 {
		t.Errorf("observer heard %+v", e)
	}
	r.within(5*time.Second, "the container's process is killed", func() bool { return syscall.Kill(pid, 0) != nil })
	r.within(5*time.Second, "the bundle is removed", func() bool { b, _ := r.launcher.Bundles(); return len(b) == 0 })
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket of the dead shim: %v", err)
	}
	r.run("dead", "sleep", "600") // the id is free again
}

func (r *rig) socket(id string) string {
	r.t.Helper()
	e, err := r.service.Explain(r.ctx, id)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, o := range e.Objects {
		if o.Kind == "socket" {
			return o.ID
		}
	}
	r.t.Fatalf("no socket in %+v", e.Objects)
	return ""
}

func (r *rig) shimPID(id string) int {
	r.t.Helper()
	e, err := r.service.Explain(r.ctx, id)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, o := range e.Objects {
		if o.Kind == "process" && strings.HasPrefix(o.Detail, "shim") {
			var pid int
			if _, err := fmt.Sscan(o.ID, &pid); err == nil {
				return pid
			}
		}
	}
	r.t.Fatalf("no shim in %+v", e.Objects)
	return 0
}

func TestTasksSurviveTheDaemon(t *testing.T) {
	r := newRig(t)
	r.run("runs", "sleep", "600")
	r.run("ends", "sh", "-c", "sleep 0.3; exit 3")
	r.run("dies", "sleep", "600")
	shim := r.shimPID("dies")
	r.stop()
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // "ends" ends while nobody is there to hear it
	r.start()
	if got, err := r.service.Get(r.ctx, "runs", ""); err != nil || got.State.Status != shims.StatusRunning {
		t.Errorf("Get(runs) = %+v, %v; want running", got, err)
	}
	if got, err := r.service.Get(r.ctx, "ends", ""); err != nil || got.State.Status != shims.StatusStopped || got.State.Exit.Status != 3 {
		t.Errorf("Get(ends) = %+v, %v; want stopped with 3", got, err)
	}
	if _, err := r.service.Get(r.ctx, "dies", ""); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Get(dies) = %v, want class ErrNotFound", err)
	}
	heard := map[string]uint32{}
	for range 2 {
		select {
		case e := <-r.exits:
			heard[e.ID] = e.Exit.Status
		case <-time.After(5 * time.Second):
			t.Fatalf("observer heard only %v", heard)
		}
	}
	if heard["ends"] != 3 || heard["dies"] != 137 {
		t.Errorf("observer heard %v", heard)
	}
}

func TestHungShimHoldsUpNobody(t *testing.T) {
	r := newRig(t)
	r.run("hangs", "sleep", "600")
	r.run("fine", "sleep", "600")
	shim := r.shimPID("hangs")
	if err := syscall.Kill(shim, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(shim, syscall.SIGCONT) })
	r.stop()
	began := time.Now()
	r.start()
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("start took %v with a hung shim", d)
	}
	list, err := r.service.List(r.ctx)
	if err != nil || len(list) != 2 {
		t.Fatalf("List = %+v, %v; want two", list, err)
	}
	for _, task := range list {
		want := shims.StatusRunning
		if task.ContainerID == "hangs" {
			want = shims.StatusUnknown
		}
		if task.State.Status != want {
			t.Errorf("status of %q = %v, want %v", task.ContainerID, task.State.Status, want)
		}
	}
	if err := syscall.Kill(shim, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.within(15*time.Second, "the shim is found again", func() bool {
		got, err := r.service.Get(r.ctx, "hangs", "")
		return err == nil && got.State.Status == shims.StatusRunning
	})
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	r := newRig(t)
	req := r.add("broken", "/no/such/program")
	if _, err := r.service.Create(r.ctx, req); err == nil {
		t.Fatal("Create of a container without its program succeeded")
	}
	if _, err := r.service.Get(r.ctx, "broken", ""); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Get = %v, want class ErrNotFound", err)
	}
	if b, _ := r.launcher.Bundles(); len(b) != 0 {
		t.Errorf("bundle %q stayed", b[0].Path)
	}
	findings, err := r.service.Doctor(r.ctx, false)
	if err != nil || len(findings) != 0 {
		t.Errorf("Doctor = %+v, %v; want nothing", findings, err)
	}
}

func TestDoctorFindsAndMends(t *testing.T) {
	r := newRig(t)
	b, err := r.launcher.NewBundle(ns, "leaked", []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	for _, repair := range []bool{false, true} {
		findings, err := r.service.Doctor(r.ctx, repair)
		if err != nil || len(findings) != 1 || findings[0].Code != "leaked-bundle" || findings[0].Repaired != repair {
			t.Errorf("Doctor(repair %v) = %+v, %v", repair, findings, err)
		}
	}
	if _, err := os.Stat(b.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("bundle after repair: %v", err)
	}
}

func TestWatchersShareReadings(t *testing.T) {
	r := newRig(t)
	r.run("busy", "sleep", "600")
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			n := 0
			err := r.service.WatchStats(r.ctx, ns, []string{"busy"}, 100*time.Millisecond, func(m tasks.Metric) error {
				if n++; m.ID != "busy" || m.Data == nil {
					t.Errorf("reading %+v", m)
				}
				if n == 3 {
					return errStop
				}
				return nil
			})
			if !errors.Is(err, errStop) {
				t.Errorf("WatchStats = %v", err)
			}
		})
	}
	wg.Wait()
}

var errStop = errors.New("enough")
