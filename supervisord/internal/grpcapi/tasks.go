package grpcapi

import (
	"context"
	"fmt"
	"strings"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/linux/mount"
	"strata/supervisord/internal/filters"
	"strata/supervisord/internal/shims"
	"strata/supervisord/internal/tasks"
)

// taskServer translates containerd.services.tasks.v1.Tasks.
type taskServer struct {
	tasksapi.UnimplementedTasksServer
	tasks *tasks.Service
}

// RegisterTasks adds the task service to a server.
func RegisterTasks(s *grpc.Server, service *tasks.Service) {
	tasksapi.RegisterTasksServer(s, &taskServer{tasks: service})
}

// Create implements Tasks.
func (s *taskServer) Create(ctx context.Context, r *tasksapi.CreateTaskRequest) (*tasksapi.CreateTaskResponse, error) {
	if r.Checkpoint != nil {
		return nil, fmt.Errorf("create task %q from a checkpoint: %w", r.ContainerID, errdefs.ErrNotImplemented)
	}
	if r.TaskApiAddress != "" {
		return nil, fmt.Errorf("create task %q on a given address: %w", r.ContainerID, errdefs.ErrNotImplemented)
	}
	pid, err := s.tasks.Create(ctx, tasks.Request{
		ID: r.ContainerID, Rootfs: mountsOfTask(r.Rootfs), RuntimePath: r.RuntimePath, Options: taskOptions(r.Options),
		IO: shims.IO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	if err != nil {
		return nil, err
	}
	return &tasksapi.CreateTaskResponse{ContainerID: r.ContainerID, Pid: uint32(pid)}, nil
}

func taskOptions(a *anypb.Any) *tasks.Options {
	if a == nil || a.TypeUrl == "" {
		return nil
	}
	return &tasks.Options{TypeURL: strings.TrimPrefix(a.TypeUrl, "type.googleapis.com/"), Value: a.Value}
}

func mountsOfTask(ms []*types.Mount) []mount.Mount {
	out := make([]mount.Mount, 0, len(ms))
	for _, m := range ms {
		out = append(out, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return out
}

// Start implements Tasks.
func (s *taskServer) Start(ctx context.Context, r *tasksapi.StartRequest) (*tasksapi.StartResponse, error) {
	pid, err := s.tasks.Start(ctx, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &tasksapi.StartResponse{Pid: uint32(pid)}, nil
}

// Delete implements Tasks.
func (s *taskServer) Delete(ctx context.Context, r *tasksapi.DeleteTaskRequest) (*tasksapi.DeleteResponse, error) {
	exit, err := s.tasks.Delete(ctx, r.ContainerID)
	if err != nil {
		return nil, err
	}
	return deleteResponse(r.ContainerID, exit), nil
}

// DeleteProcess implements Tasks.
func (s *taskServer) DeleteProcess(ctx context.Context, r *tasksapi.DeleteProcessRequest) (*tasksapi.DeleteResponse, error) {
	exit, err := s.tasks.DeleteProcess(ctx, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return deleteResponse(r.ExecID, exit), nil
}

func deleteResponse(id string, e shims.Exit) *tasksapi.DeleteResponse {
	return &tasksapi.DeleteResponse{ID: id, Pid: uint32(e.PID), ExitStatus: e.Status, ExitedAt: exitTime(e.At)}
}

// exitTime keeps the year 1 of Go's zero time, which stock clients expect of a process
// that has not exited.
func exitTime(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

// Get implements Tasks.
func (s *taskServer) Get(ctx context.Context, r *tasksapi.GetRequest) (*tasksapi.GetResponse, error) {
	t, err := s.tasks.Get(ctx, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &tasksapi.GetResponse{Process: process(t)}, nil
}

// List implements Tasks.
func (s *taskServer) List(ctx context.Context, _ *tasksapi.ListTasksRequest) (*tasksapi.ListTasksResponse, error) {
	all, err := s.tasks.List(ctx)
	if err != nil {
		return nil, err
	}
	resp := &tasksapi.ListTasksResponse{}
	for _, t := range all {
		resp.Tasks = append(resp.Tasks, process(t))
	}
	return resp, nil
}

func process(t tasks.Task) *task.Process {
	st := t.State
	p := &task.Process{
		ContainerID: t.ContainerID, ID: t.ContainerID, Pid: uint32(st.PID), Status: statusToWire(st.Status),
		Stdin: st.Stdin, Stdout: st.Stdout, Stderr: st.Stderr, Terminal: st.Terminal,
		ExitStatus: st.Exit.Status, ExitedAt: exitTime(st.Exit.At),
	}
	if st.ExecID != "" {
		p.ID = st.ExecID
	}
	return p
}

func statusToWire(s shims.Status) task.Status {
	switch s {
	case shims.StatusCreated:
		return task.Status_CREATED
	case shims.StatusRunning:
		return task.Status_RUNNING
	case shims.StatusPausing:
		return task.Status_PAUSING
	case shims.StatusPaused:
		return task.Status_PAUSED
	case shims.StatusStopped:
		return task.Status_STOPPED
	case shims.StatusUnknown:
	}
	return task.Status_UNKNOWN
}

// Kill implements Tasks.
func (s *taskServer) Kill(ctx context.Context, r *tasksapi.KillRequest) (*emptypb.Empty, error) {
	return done(s.tasks.Kill(ctx, r.ContainerID, r.ExecID, r.Signal, r.All))
}

// done is the answer of a call without a result.
func done(err error) (*emptypb.Empty, error) {
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Exec implements Tasks.
func (s *taskServer) Exec(ctx context.Context, r *tasksapi.ExecProcessRequest) (*emptypb.Empty, error) {
	return done(s.tasks.Exec(ctx, r.ContainerID, r.ExecID, r.Spec, shims.IO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}))
}

// ResizePty implements Tasks.
func (s *taskServer) ResizePty(ctx context.Context, r *tasksapi.ResizePtyRequest) (*emptypb.Empty, error) {
	return done(s.tasks.Resize(ctx, r.ContainerID, r.ExecID, r.Width, r.Height))
}

// CloseIO implements Tasks.
func (s *taskServer) CloseIO(ctx context.Context, r *tasksapi.CloseIORequest) (*emptypb.Empty, error) {
	if !r.Stdin {
		return &emptypb.Empty{}, nil
	}
	return done(s.tasks.CloseStdin(ctx, r.ContainerID, r.ExecID))
}

// Pause implements Tasks.
func (s *taskServer) Pause(ctx context.Context, r *tasksapi.PauseTaskRequest) (*emptypb.Empty, error) {
	return done(s.tasks.Pause(ctx, r.ContainerID))
}

// Resume implements Tasks.
func (s *taskServer) Resume(ctx context.Context, r *tasksapi.ResumeTaskRequest) (*emptypb.Empty, error) {
	return done(s.tasks.Resume(ctx, r.ContainerID))
}

// ListPids implements Tasks.
func (s *taskServer) ListPids(ctx context.Context, r *tasksapi.ListPidsRequest) (*tasksapi.ListPidsResponse, error) {
	pids, err := s.tasks.Pids(ctx, r.ContainerID)
	if err != nil {
		return nil, err
	}
	resp := &tasksapi.ListPidsResponse{}
	for _, p := range pids {
		resp.Processes = append(resp.Processes, &task.ProcessInfo{Pid: uint32(p.PID), Info: p.Info})
	}
	return resp, nil
}

// Update implements Tasks.
func (s *taskServer) Update(ctx context.Context, r *tasksapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	return done(s.tasks.Update(ctx, r.ContainerID, r.Resources, r.Annotations))
}

// Metrics implements Tasks. Filters know id and namespace.
func (s *taskServer) Metrics(ctx context.Context, r *tasksapi.MetricsRequest) (*tasksapi.MetricsResponse, error) {
	var match func(namespace, id string) bool
	if len(r.Filters) > 0 {
		f, err := filters.ParseAll(r.Filters...)
		if err != nil {
			return nil, err
		}
		match = func(namespace, id string) bool {
			return f.Match(filters.AdapterFunc(func(path []string) (string, bool) {
				switch strings.Join(path, ".") {
				case "id":
					return id, true
				case "namespace":
					return namespace, true
				}
				return "", false
			}))
		}
	}
	all, err := s.tasks.Metrics(ctx, match)
	if err != nil {
		return nil, err
	}
	resp := &tasksapi.MetricsResponse{}
	for _, m := range all {
		resp.Metrics = append(resp.Metrics, &types.Metric{ID: m.ID, Timestamp: timestamppb.New(m.At), Data: m.Data})
	}
	return resp, nil
}

// Wait implements Tasks.
func (s *taskServer) Wait(ctx context.Context, r *tasksapi.WaitRequest) (*tasksapi.WaitResponse, error) {
	exit, err := s.tasks.Wait(ctx, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &tasksapi.WaitResponse{ExitStatus: exit.Status, ExitedAt: exitTime(exit.At)}, nil
}

// Checkpoint implements Tasks.
func (s *taskServer) Checkpoint(_ context.Context, r *tasksapi.CheckpointTaskRequest) (*tasksapi.CheckpointTaskResponse, error) {
	return nil, fmt.Errorf("checkpoint task %q: %w", r.ContainerID, errdefs.ErrNotImplemented)
}
