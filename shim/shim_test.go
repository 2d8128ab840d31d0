package shim_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	wiretask "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/pkg/shimio"
	shimv1 "strata/proto/strata/shim/v1"
)

func TestStartAnswersInTheCallersProtocol(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("boot", "true")
	for _, tc := range []struct {
		name, env string
		stdin     []byte
		read      func(out []byte) (address string, err error)
	}{
		{"containerd 1.6: nothing in, the plain address out", "", nil, func(out []byte) (string, error) { return string(out), nil }},
		{"containerd 1.7 to 2.2: JSON of version 2", "MAX_SHIM_VERSION=2", nil, func(out []byte) (string, error) {
			var r struct {
				Version           int
				Address, Protocol string
			}
			err := json.Unmarshal(out, &r)
			if r.Version != 2 || r.Protocol != "ttrpc" {
				err = fmt.Errorf("version %d, protocol %q", r.Version, r.Protocol)
			}
			return r.Address, err
		}},
		{"containerd 2.3: protobuf of version 3", "MAX_SHIM_VERSION=2", d.params(b), func(out []byte) (string, error) {
			var r bootstrap.BootstrapResult
			err := proto.Unmarshal(out, &r)
			if r.GetVersion() != 3 {
				err = fmt.Errorf("version %d", r.GetVersion())
			}
			return r.GetAddress(), err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := d.command(b, tc.stdin, "start")
			cmd.Env = append(cmd.Env, tc.env)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("start: %v: %s", err, out)
			}
			address, err := tc.read(out)
			if err != nil {
				t.Fatalf("start said %q: %v", out, err)
			}
			socket, ok := strings.CutPrefix(address, "unix://")
			if !ok {
				t.Fatalf("address %q has no scheme unix://", address)
			}
			if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("socket: %v, %v; want mode 0600", info.Mode(), err)
			}
			if info, err := os.Stat(filepath.Dir(socket)); err != nil || info.Mode().Perm()&0o066 != 0 {
				t.Errorf("socket directory: %v, %v; want no access for others but search", info.Mode(), err)
			}
			if saved, err := os.ReadFile(filepath.Join(b.dir, "address")); tc.env == "" && (err != nil || string(saved) != address) {
				t.Errorf("file address = %q, %v; want %q", saved, err, address)
			}
			s := d.connect(socket)
			s.must("Shutdown", &task.ShutdownRequest{ID: b.id}, &emptypb.Empty{})
			s.gone()
		})
	}
}

func TestExitIsKeptUntilDelete(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("kept", "exit 7")
	s := d.start(b)
	s.run(b, "")
	for range 2 {
		if got := s.wait(b, ""); got != 7 {
			t.Errorf("Wait = %d, want 7", got)
		}
	}
	var state task.StateResponse
	s.must("State", &task.StateRequest{ID: b.id}, &state)
	if state.GetStatus() != wiretask.Status_STOPPED || state.GetExitStatus() != 7 || state.GetPid() == 0 {
		t.Errorf("State = %v", &state)
	}
	if err := s.call("Kill", &task.KillRequest{ID: b.id, Signal: 15}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Kill of an ended task = %v, want class ErrNotFound", err)
	}
	s.must("Shutdown", &task.ShutdownRequest{ID: b.id}, &emptypb.Empty{}) // a shim with tasks stays
	if resp := s.deleteTask(b); resp.GetExitStatus() != 7 || resp.GetExitedAt() == nil {
		t.Errorf("Delete = %v", resp)
	}
	if err := s.call("State", &task.StateRequest{ID: b.id}, &state); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("State after Delete = %v, want class ErrNotFound", err)
	}
	want := []string{"/tasks/create kept", "/tasks/start kept", "/tasks/exit kept kept 7", "/tasks/delete kept 7"}
	if got := d.waitEvents(b.id, 4); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("events = %q, want %q", got, want)
	}
	s.must("Shutdown", &task.ShutdownRequest{ID: b.id}, &emptypb.Empty{})
	s.gone()
}

func TestRequestsInTheWrongStatusAreRefused(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("wrong", "sleep 100")
	s := d.start(b)
	if err := s.call("Start", &task.StartRequest{ID: b.id}, &task.StartResponse{}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Start without Create = %v, want class ErrNotFound", err)
	}
	s.create(b, "")
	if err := s.call("Create", s.createRequest(b, ""), &task.CreateTaskResponse{}); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("second Create = %v, want class ErrAlreadyExists", err)
	}
	if err := s.call("Pause", &task.PauseRequest{ID: b.id}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("Pause of a created task = %v, want class ErrFailedPrecondition", err)
	}
	s.must("Start", &task.StartRequest{ID: b.id}, &task.StartResponse{})
	for method, req := range map[string]proto.Message{
		"Start": &task.StartRequest{ID: b.id}, "Delete": &task.DeleteRequest{ID: b.id}, "Resume": &task.ResumeRequest{ID: b.id},
		"ResizePty": &task.ResizePtyRequest{ID: b.id, Width: 1, Height: 1},
	} {
		if err := s.call(method, req, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("%s of a running task = %v, want class ErrFailedPrecondition", method, err)
		}
	}
	if err := s.call("Kill", &task.KillRequest{ID: b.id, Signal: 99}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("Kill with signal 99 = %v, want class ErrInvalidArgument", err)
	}
	bad := &task.ExecProcessRequest{ID: b.id, ExecID: "../../evil"}
	if err := s.call("Exec", bad, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("Exec with id %q = %v, want class ErrInvalidArgument", bad.GetExecID(), err)
	}
	s.kill(b)
	s.wait(b, "")
	s.finish(b)
}

func TestCreatedTaskCanBeDeleted(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("unborn", "true")
	s := d.start(b)
	s.create(b, "")
	if resp := s.deleteTask(b); resp.GetExitStatus() != 137 {
		t.Errorf("Delete = %v, want status 137", resp)
	}
	s.must("Shutdown", &task.ShutdownRequest{ID: b.id}, &emptypb.Empty{})
	s.gone()
}

func TestFailedCreateSaysWhyAndLeavesNothing(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("broken", "true", func(spec map[string]any) {
		spec["process"].(map[string]any)["args"] = []string{"/no/such/program"}
	})
	s := d.start(b)
	err := s.call("Create", s.createRequest(b, ""), &task.CreateTaskResponse{})
	if err == nil {
		err = s.call("Start", &task.StartRequest{ID: b.id}, &task.StartResponse{})
	}
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("Create = %v, want the runtime's words", err)
	}
}

func TestExecsAreReportedBeforeTheEndOfTheTask(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("execs", "sleep 100")
	s := d.start(b)
	s.run(b, "")
	s.addExec(b, "quick", "exit 3", "")
	s.must("Start", &task.StartRequest{ID: b.id, ExecID: "quick"}, &task.StartResponse{})
	if got := s.wait(b, "quick"); got != 3 {
		t.Errorf("exit of exec = %d, want 3", got)
	}
	s.addExec(b, "long", "sleep 100", "")
	s.must("Start", &task.StartRequest{ID: b.id, ExecID: "long"}, &task.StartResponse{})
	var pids task.PidsResponse
	s.must("Pids", &task.PidsRequest{ID: b.id}, &pids)
	if len(pids.GetProcesses()) < 2 {
		t.Errorf("Pids = %v, want the init process and an exec at least", &pids)
	}
	s.kill(b)
	if got := s.wait(b, ""); got != 137 {
		t.Errorf("exit of task = %d, want 137", got)
	}
	var del task.DeleteResponse
	s.must("Delete", &task.DeleteRequest{ID: b.id, ExecID: "quick"}, &del)
	if del.GetExitStatus() != 3 {
		t.Errorf("Delete of exec = %v", &del)
	}
	s.finish(b)
	want := []string{
		"/tasks/create execs", "/tasks/start execs",
		"/tasks/exec-added execs quick", "/tasks/exec-started execs quick", "/tasks/exit execs quick 3",
		"/tasks/exec-added execs long", "/tasks/exec-started execs long", "/tasks/exit execs long 137",
		"/tasks/exit execs execs 137", "/tasks/delete execs 137",
	}
	if got := d.waitEvents(b.id, len(want)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("events = %q, want %q", got, want)
	}
}

func TestProcessesWithoutTheirOwnPIDNamespaceDieWithTheTask(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("hostpid", "sleep 1000 & echo started; exit 4", func(spec map[string]any) {
		linux := spec["linux"].(map[string]any)
		linux["namespaces"] = []any{map[string]any{"type": "mount"}, map[string]any{"type": "ipc"}, map[string]any{"type": "uts"}}
	})
	s := d.start(b)
	s.run(b, b.uri().String())
	if got := s.wait(b, ""); got != 4 {
		t.Errorf("exit = %d, want 4", got)
	}
	waitFor(t, "the end of the rest", func() bool { // SIGKILL was sent before the exit was known
		var pids task.PidsResponse
		s.must("Pids", &task.PidsRequest{ID: b.id}, &pids)
		return len(pids.GetProcesses()) == 0
	})
	s.finish(b)
}

func TestPauseAndResume(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("frozen", "sleep 100")
	s := d.start(b)
	s.run(b, "")
	s.must("Pause", &task.PauseRequest{ID: b.id}, &emptypb.Empty{})
	var state task.StateResponse
	s.must("State", &task.StateRequest{ID: b.id}, &state)
	if state.GetStatus() != wiretask.Status_PAUSED {
		t.Errorf("status = %v, want PAUSED", state.GetStatus())
	}
	s.kill(b) // a frozen task dies all the same
	if got := s.wait(b, ""); got != 137 {
		t.Errorf("exit = %d, want 137", got)
	}
	s.finish(b)
}

func TestEventsWaitForADeadDaemon(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("orphan", "sleep 100")
	s := d.start(b)
	s.run(b, "")
	d.waitEvents(b.id, 2)
	d.down()
	s.kill(b)
	if got := s.wait(b, ""); got != 137 {
		t.Errorf("exit = %d, want 137", got)
	}
	d.up()
	s.finish(b) // returns when the shim has sent everything
	// The daemon may have died between an event and its acknowledgement; then that one
	// comes again, next to the first.
	got := slices.Compact(d.waitEvents(b.id, 4))
	want := []string{"/tasks/create orphan", "/tasks/start orphan", "/tasks/exit orphan orphan 137", "/tasks/delete orphan 137"}
	if !slices.Equal(got, want) {
		t.Errorf("events = %q, want %q", got, want)
	}
}

func TestAPodSharesOneShim(t *testing.T) {
	d := newDaemon(t)
	annotate := func(spec map[string]any) {
		spec["annotations"] = map[string]string{"io.kubernetes.cri.sandbox-id": "pod"}
	}
	first, second := d.newBundle("podone", "sleep 100", annotate), d.newBundle("podtwo", "exit 5", annotate)
	s := d.start(first)
	s.run(first, "")
	s2 := d.start(second)
	if s.pid != s2.pid || s.socket != s2.socket {
		t.Fatalf("shims %d and %d, want one", s.pid, s2.pid)
	}
	s2.run(second, "")
	if got := s2.wait(second, ""); got != 5 {
		t.Errorf("exit = %d, want 5", got)
	}
	s2.deleteTask(second)
	s2.must("Shutdown", &task.ShutdownRequest{ID: second.id}, &emptypb.Empty{})
	var state task.StateResponse
	s.must("State", &task.StateRequest{ID: first.id}, &state) // still served
	s.kill(first)
	s.wait(first, "")
	s.finish(first)
}

func TestDeleteVerbCleansUpAfterADeadShim(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("victim", "sleep 100")
	s := d.start(b)
	s.run(b, "")
	var state task.StateResponse
	s.must("State", &task.StateRequest{ID: b.id}, &state)
	if err := syscall.Kill(s.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	out, err := d.command(b, nil, "delete").Output()
	if err != nil {
		t.Fatalf("delete: %v", err)
	}
	var resp task.DeleteResponse
	if err := proto.Unmarshal(out, &resp); err != nil || resp.GetExitStatus() != 137 || resp.GetPid() != state.GetPid() {
		t.Errorf("delete said %v, %v", &resp, err)
	}
	waitFor(t, "the container's end", func() bool { return syscall.Kill(int(state.GetPid()), 0) != nil })
	if _, err := d.command(b, nil, "delete").Output(); err != nil {
		t.Errorf("delete again: %v", err)
	}
	// The dead shim's socket is in the way of a new one.
	s = d.start(b)
	s.run(b, "")
	s.kill(b)
	s.wait(b, "")
	s.finish(b)
}

func TestExplainNamesWhatATaskConsistsOf(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("explained", "sleep 100")
	s := d.start(b)
	s.run(b, b.uri().String())
	resp, err := shimv1.NewShimClient(s.client).Explain(t.Context(), &shimv1.ExplainRequest{Id: b.id})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, o := range resp.GetExplanation().GetObjects() {
		kinds[o.GetKind()]++
	}
	for kind, least := range map[string]int{"process": 2, "namespace": 6, "cgroup": 1, "socket": 1, "file": 3} {
		if kinds[kind] < least {
			t.Errorf("%d objects of kind %s, want %d at least: %v", kinds[kind], kind, least, resp)
		}
	}
	var steps []string
	for _, st := range resp.GetExplanation().GetSteps() {
		if st.GetLayer() == "shim" && st.GetDuration().AsDuration() > 0 {
			steps = append(steps, st.GetName())
		}
	}
	if fmt.Sprint(steps) != "[runtime create runtime start]" {
		t.Errorf("steps = %q", steps)
	}
	s.kill(b)
	s.wait(b, "")
	s.finish(b)
}

func TestStatsMeasureTheTask(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("measured", "sleep 100")
	s := d.start(b)
	s.run(b, "")
	var resp task.StatsResponse
	s.must("Stats", &task.StatsRequest{ID: b.id}, &resp)
	if name := resp.GetStats().GetTypeUrl(); name != "io.containerd.cgroups.v1.Metrics" && name != "io.containerd.cgroups.v2.Metrics" {
		t.Errorf("type of stats = %q", name)
	}
	if len(resp.GetStats().GetValue()) < 20 {
		t.Errorf("stats = %v", &resp)
	}
	s.kill(b)
	s.wait(b, "")
	s.finish(b)
}

func TestUpdateChangesLimits(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("limited", "sleep 100")
	s := d.start(b)
	s.run(b, "")
	s.must("Update", &task.UpdateTaskRequest{ID: b.id, Resources: &anypb.Any{
		TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: []byte(`{"pids":{"limit":33}}`),
	}}, &emptypb.Empty{})
	files, err := filepath.Glob("/sys/fs/cgroup/*/strata-shim-test-" + filepath.Base(d.dir) + "/" + b.id + "/pids.max")
	if err != nil {
		t.Fatal(err)
	}
	if more, _ := filepath.Glob("/sys/fs/cgroup/strata-shim-test-" + filepath.Base(d.dir) + "/" + b.id + "/pids.max"); len(more) > 0 {
		files = more
	}
	if len(files) != 1 {
		t.Fatalf("files of the pids limit: %v, want one", files)
	}
	if data, err := os.ReadFile(files[0]); err != nil || string(data) != "33\n" {
		t.Errorf("pids.max = %q, %v, want 33", data, err)
	}
	err = s.call("Update", &task.UpdateTaskRequest{ID: b.id, Resources: &anypb.Any{TypeUrl: "some/thing", Value: []byte("{}")}}, &emptypb.Empty{})
	if !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("Update with nonsense = %v, want class ErrInvalidArgument", err)
	}
	s.kill(b)
	s.wait(b, "")
	s.finish(b)
}

func TestCheckpointThatFailsLeavesTheTaskAlone(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("kept", "sleep 100")
	s := d.start(b)
	s.run(b, "")
	// Not even a runtime that can has a directory to write to.
	err := s.call("Checkpoint", &task.CheckpointTaskRequest{ID: b.id, Path: "/proc/nowhere"}, &emptypb.Empty{})
	if err == nil {
		t.Error("Checkpoint into nowhere worked")
	}
	var state task.StateResponse
	s.must("State", &task.StateRequest{ID: b.id}, &state)
	if state.GetStatus() != wiretask.Status_RUNNING {
		t.Errorf("status afterwards = %v, want RUNNING", state.GetStatus())
	}
	s.kill(b)
	s.wait(b, "")
	s.finish(b)
}

func TestExecsLeaveNoDescriptorsAndFiles(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("tidy", "sleep 100")
	s := d.start(b)
	s.run(b, "")
	count := func() (fds, files int) {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid))
		if err != nil {
			t.Fatal(err)
		}
		bundle, _ := os.ReadDir(b.dir)
		return len(list), len(bundle)
	}
	turn := func(n int) {
		id := fmt.Sprintf("e%d", n)
		u := shimio.URI{Socket: filepath.Join(b.dir, "e.sock"), Stdin: shimio.StdinOnce}
		s.addExec(b, id, "echo hi", u.String())
		conn, _ := attach(t, u.Socket, shimio.Hello{Stdin: true, Stdout: true})
		s.must("Start", &task.StartRequest{ID: b.id, ExecID: id}, &task.StartResponse{})
		_ = readAll(t, conn)
		s.wait(b, id)
		s.must("Delete", &task.DeleteRequest{ID: b.id, ExecID: id}, &task.DeleteResponse{})
	}
	turn(0)
	var fds, files int
	fds, files = count()
	for n := range 20 {
		turn(n + 1)
	}
	waitFor(t, "descriptors to be closed", func() bool {
		nowFDs, nowFiles := count()
		return nowFDs <= fds && nowFiles <= files
	})
	s.kill(b)
	s.wait(b, "")
	s.finish(b)
}
