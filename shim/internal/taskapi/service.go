package taskapi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/pkg/console"
	"strata/pkg/ctxlog"
	"strata/pkg/rpc/ttrpcmeta"
	"strata/shim/internal/process"
)

// version is what Connect says; containerd wants the service's version.
const version = "3"

// Service serves the tasks of a shim.
type Service struct {
	Tasks *process.Tasks
	// Connected is called when a daemon has found the shim (again).
	Connected func()
	// Busy is called when a process was started: soon there is nothing to do for long.
	Busy func()
	// Shutdown is called when the daemon has no use for the shim any more. It does not
	// block.
	Shutdown func()
}

// Register adds the services to a server.
func (s *Service) Register(srv *ttrpc.Server) {
	methods := map[string]ttrpc.Method{
		"State":      method(s.state),
		"Create":     method(s.create),
		"Start":      method(s.start),
		"Delete":     method(s.delete),
		"Pids":       method(s.pids),
		"Pause":      method(s.pause),
		"Resume":     method(s.resume),
		"Checkpoint": method(s.checkpoint),
		"Kill":       method(s.kill),
		"Exec":       method(s.exec),
		"ResizePty":  method(s.resizePty),
		"CloseIO":    method(s.closeIO),
		"Update":     method(s.update),
		"Wait":       method(s.wait),
		"Stats":      method(s.stats),
		"Connect":    method(s.connect),
		"Shutdown":   method(s.shutdown),
	}
	for _, name := range []string{"containerd.task.v2.Task", "containerd.task.v3.Task"} {
		srv.RegisterService(name, &ttrpc.ServiceDesc{Methods: methods})
	}
	srv.RegisterService("strata.shim.v1.Shim", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{"Explain": method(s.explain)}})
}

// message is a pointer to a generated message type.
type message[T any] interface {
	*T
	proto.Message
}

// method makes a ttrpc method of a handler: it decodes the request, maps the error and
// keeps a panic from taking the shim, and so the containers' exit statuses, down.
func method[Req any, P message[Req], Resp proto.Message](handler func(context.Context, P) (Resp, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (resp any, err error) {
		defer func() {
			if p := recover(); p != nil {
				ctxlog.From(ctx).Error("handler panicked", ctxlog.Error, p, "stack", string(debug.Stack()))
				resp, err = nil, errgrpc.ToGRPC(fmt.Errorf("internal error: %v: %w", p, errdefs.ErrInternal))
			}
		}()
		req := P(new(Req))
		if err := unmarshal(req); err != nil {
			return nil, errgrpc.ToGRPC(fmt.Errorf("decode request: %w: %w", err, errdefs.ErrInvalidArgument))
		}
		out, err := handler(ttrpcmeta.Incoming(ctx), req)
		if err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
		return out, nil
	}
}

func (s *Service) create(ctx context.Context, r *task.CreateTaskRequest) (*task.CreateTaskResponse, error) {
	opts, err := decodeOptions(r.GetOptions())
	if err != nil {
		return nil, err
	}
	bundle := r.GetBundle()
	if !filepath.IsAbs(bundle) {
		return nil, fmt.Errorf("bundle %q must be absolute: %w", bundle, errdefs.ErrInvalidArgument)
	}
	pid, err := s.Tasks.Create(ctx, process.CreateArgs{
		ContainerID: r.GetID(), Bundle: bundle, Rootfs: mountsFromWire(r.GetRootfs()), Checkpoint: r.GetCheckpoint(),
		Stdio:   process.Stdio{Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: r.GetTerminal()},
		Options: opts,
	})
	return &task.CreateTaskResponse{Pid: uint32(pid)}, err
}

func (s *Service) start(_ context.Context, r *task.StartRequest) (*task.StartResponse, error) {
	defer s.Busy()
	pid, err := s.Tasks.Start(r.GetID(), r.GetExecID())
	return &task.StartResponse{Pid: uint32(pid)}, err
}

func (s *Service) state(_ context.Context, r *task.StateRequest) (*task.StateResponse, error) {
	snap, err := s.Tasks.State(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	return stateToWire(snap), nil
}

func (s *Service) wait(ctx context.Context, r *task.WaitRequest) (*task.WaitResponse, error) {
	exit, err := s.Tasks.Wait(ctx, r.GetID(), r.GetExecID())
	return &task.WaitResponse{ExitStatus: exit.Code, ExitedAt: timeToWire(exit.At)}, err
}

func (s *Service) kill(ctx context.Context, r *task.KillRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.Tasks.Kill(ctx, r.GetID(), r.GetExecID(), syscall.Signal(r.GetSignal()), r.GetAll())
}

func (s *Service) delete(ctx context.Context, r *task.DeleteRequest) (*task.DeleteResponse, error) {
	snap, err := s.Tasks.Delete(ctx, r.GetID(), r.GetExecID())
	return &task.DeleteResponse{Pid: uint32(snap.PID), ExitStatus: snap.Exit.Code, ExitedAt: timeToWire(snap.Exit.At)}, err
}

func (s *Service) exec(_ context.Context, r *task.ExecProcessRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.Tasks.AddExec(process.ExecArgs{
		ContainerID: r.GetID(), ExecID: r.GetExecID(), Process: r.GetSpec().GetValue(),
		Stdio: process.Stdio{Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: r.GetTerminal()},
	})
}

func (s *Service) resizePty(_ context.Context, r *task.ResizePtyRequest) (*emptypb.Empty, error) {
	size := console.Size{Width: uint16(r.GetWidth()), Height: uint16(r.GetHeight())}
	return &emptypb.Empty{}, s.Tasks.Resize(r.GetID(), r.GetExecID(), size)
}

func (s *Service) closeIO(_ context.Context, r *task.CloseIORequest) (*emptypb.Empty, error) {
	if !r.GetStdin() {
		return &emptypb.Empty{}, nil
	}
	return &emptypb.Empty{}, s.Tasks.CloseStdin(r.GetID(), r.GetExecID())
}

func (s *Service) pause(ctx context.Context, r *task.PauseRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.Tasks.Pause(ctx, r.GetID())
}

func (s *Service) resume(ctx context.Context, r *task.ResumeRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.Tasks.Resume(ctx, r.GetID())
}

func (s *Service) update(ctx context.Context, r *task.UpdateTaskRequest) (*emptypb.Empty, error) {
	if name := typeName(r.GetResources()); name != linuxResources {
		return nil, fmt.Errorf("resources of type %q, want %s: %w", r.GetResources().GetTypeUrl(), linuxResources, errdefs.ErrInvalidArgument)
	}
	return &emptypb.Empty{}, s.Tasks.Update(ctx, r.GetID(), r.GetResources().GetValue())
}

func (s *Service) checkpoint(ctx context.Context, r *task.CheckpointTaskRequest) (*emptypb.Empty, error) {
	args, err := decodeCheckpoint(r)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, s.Tasks.Checkpoint(ctx, r.GetID(), args)
}

func (s *Service) pids(_ context.Context, r *task.PidsRequest) (*task.PidsResponse, error) {
	members, err := s.Tasks.Members(r.GetID())
	if err != nil {
		return nil, err
	}
	return membersToWire(members)
}

func (s *Service) stats(_ context.Context, r *task.StatsRequest) (*task.StatsResponse, error) {
	stats, err := s.Tasks.Stats(r.GetID())
	if err != nil {
		return nil, err
	}
	return statsToWire(stats)
}

func (s *Service) connect(_ context.Context, r *task.ConnectRequest) (*task.ConnectResponse, error) {
	s.Connected()
	resp := &task.ConnectResponse{ShimPid: uint32(os.Getpid()), Version: version}
	// A daemon connects before it creates, and to a pod's shim for any of its tasks.
	if snap, err := s.Tasks.State(r.GetID(), ""); err == nil {
		resp.TaskPid = uint32(snap.PID)
	}
	return resp, nil
}

func (s *Service) shutdown(_ context.Context, r *task.ShutdownRequest) (*emptypb.Empty, error) {
	if s.Tasks.Len() > 0 && !r.GetNow() {
		return &emptypb.Empty{}, nil
	}
	s.Shutdown()
	return &emptypb.Empty{}, nil
}
