package shims

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/linux/mount"
	"strata/pkg/namespaces"
	"strata/pkg/rpc/ttrpcmeta"
	explainv1 "strata/proto/strata/explain/v1"
	shimv1 "strata/proto/strata/shim/v1"
)

// The task service has two names for one set of messages.
const (
	serviceV2 = "containerd.task.v2.Task"
	serviceV3 = "containerd.task.v3.Task"
)

const shutdownTimeout = 3 * time.Second

// Status is what a shim says about a process.
type Status uint8

// The statuses of a process.
const (
	StatusUnknown Status = iota
	StatusCreated
	StatusRunning
	StatusPausing
	StatusPaused
	StatusStopped
)

// Exit is how a process ended.
type Exit struct {
	PID    int
	Status uint32 // 128+n after signal n
	At     time.Time
}

// State describes one process of a task.
type State struct {
	ExecID                string
	PID                   int
	Status                Status
	Stdin, Stdout, Stderr string
	Terminal              bool
	Exit                  Exit // of a stopped one
}

// IO says where the streams of a process go.
type IO struct {
	Stdin    string `json:"stdin,omitempty"`
	Stdout   string `json:"stdout,omitempty"`
	Stderr   string `json:"stderr,omitempty"`
	Terminal bool   `json:"terminal,omitempty"`
}

// Shim is a connection to the shim of one task. Its methods are safe for concurrent use
// and return errors of errdefs classes; ErrUnavailable means that the connection is lost.
type Shim struct {
	Bundle  *Bundle
	Options *anypb.Any // what the shim was launched with

	client  *ttrpc.Client
	address string
	binary  string
	version atomic.Int32
	closed  chan struct{}
	log     *shimLog
	users   *users
	once    sync.Once
}

// users counts our connections by address: the tasks of a pod share one shim.
type users struct {
	mu sync.Mutex
	n  map[string]int
}

func (u *users) add(address string, delta int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.n[address] += delta; u.n[address] <= 0 {
		delete(u.n, address)
	}
}

func (u *users) count(address string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.n[address]
}

// dial connects to the address in boot.
func (l *Launcher) dial(ctx context.Context, b *Bundle, boot bootstrap) (*Shim, error) {
	path := strings.TrimPrefix(boot.Address, "unix://")
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to shim: %w: %w", err, errdefs.ErrUnavailable)
	}
	s := &Shim{Bundle: b, address: path, closed: make(chan struct{}), users: &l.users}
	l.users.add(path, 1)
	s.version.Store(int32(boot.Version))
	s.client = ttrpc.NewClient(conn, ttrpc.WithOnClose(func() { close(s.closed) }))
	return s, nil
}

// Closed is closed when the connection is lost, by the shim's end or by Close.
func (s *Shim) Closed() <-chan struct{} { return s.closed }

// Address returns the path of the shim's socket.
func (s *Shim) Address() string { return s.address }

// Binary returns the path of the shim's binary.
func (s *Shim) Binary() string { return s.binary }

// Version returns the version of the task service in use, 2 or 3.
func (s *Shim) Version() int { return int(s.version.Load()) }

// Close ends the connection; the shim runs on.
func (s *Shim) Close() {
	s.once.Do(func() {
		_ = s.client.Close()
		s.users.add(s.address, -1)
		if s.log != nil {
			_ = s.log.Close()
		}
	})
}

// call calls a method of the task service. A shim that claims version 3 and does not
// know it is spoken to as version 2 from then on.
func (s *Shim) call(ctx context.Context, method string, req, resp proto.Message) error {
	service := serviceV2
	if s.version.Load() >= 3 {
		service = serviceV3
	}
	err := s.invoke(ctx, service, method, req, resp)
	if service == serviceV3 && errors.Is(err, errdefs.ErrNotImplemented) && (method == "Connect" || method == "Create") {
		s.version.Store(2)
		return s.invoke(ctx, serviceV2, method, req, resp)
	}
	return err
}

func (s *Shim) invoke(ctx context.Context, service, method string, req, resp proto.Message) error {
	ctx = ttrpcmeta.Outgoing(namespaces.With(ctx, s.Bundle.Namespace))
	err := s.client.Call(ctx, service, method, req, resp)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ttrpc.ErrClosed):
		return fmt.Errorf("shim of task %q has gone: %w", s.Bundle.ID, errdefs.ErrUnavailable)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	default:
		return errgrpc.ToNative(err)
	}
}

// Connect asks for the pids of the shim and of its task; the latter is zero before
// Create.
func (s *Shim) Connect(ctx context.Context) (shimPID int, err error) {
	var resp taskapi.ConnectResponse
	if err := s.call(ctx, "Connect", &taskapi.ConnectRequest{ID: s.Bundle.ID}, &resp); err != nil {
		return 0, err
	}
	return int(resp.ShimPid), nil
}

// Create makes the init process, which waits for Start, and returns its pid.
func (s *Shim) Create(ctx context.Context, rootfs []mount.Mount, io IO) (int, error) {
	var resp taskapi.CreateTaskResponse
	err := s.call(ctx, "Create", &taskapi.CreateTaskRequest{
		ID: s.Bundle.ID, Bundle: s.Bundle.Path, Rootfs: mountsToWire(rootfs), Options: s.Options,
		Terminal: io.Terminal, Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr,
	}, &resp)
	return int(resp.Pid), err
}

// Start starts the init process, or the exec with that id, and returns its pid.
func (s *Shim) Start(ctx context.Context, execID string) (int, error) {
	var resp taskapi.StartResponse
	err := s.call(ctx, "Start", &taskapi.StartRequest{ID: s.Bundle.ID, ExecID: execID}, &resp)
	return int(resp.Pid), err
}

// Delete frees a stopped process and returns how it ended.
func (s *Shim) Delete(ctx context.Context, execID string) (Exit, error) {
	var resp taskapi.DeleteResponse
	if err := s.call(ctx, "Delete", &taskapi.DeleteRequest{ID: s.Bundle.ID, ExecID: execID}, &resp); err != nil {
		return Exit{}, err
	}
	return Exit{PID: int(resp.Pid), Status: resp.ExitStatus, At: wireTime(resp.ExitedAt)}, nil
}

// Shutdown asks the shim to end, which it does if it has no other task, and waits up to
// three seconds for the end of the connection. Then it closes.
func (s *Shim) Shutdown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	err := s.call(ctx, "Shutdown", &taskapi.ShutdownRequest{ID: s.Bundle.ID}, &emptypb.Empty{})
	if err == nil && s.users.count(s.address) == 1 {
		// The socket must be gone before a shim of the same name is started.
		select {
		case <-s.closed:
		case <-ctx.Done():
		}
	}
	s.Close()
}

// State describes the init process or an exec.
func (s *Shim) State(ctx context.Context, execID string) (State, error) {
	var r taskapi.StateResponse
	if err := s.call(ctx, "State", &taskapi.StateRequest{ID: s.Bundle.ID, ExecID: execID}, &r); err != nil {
		return State{}, err
	}
	return State{
		ExecID: r.ExecID, PID: int(r.Pid), Status: statusFromWire(r.Status), Terminal: r.Terminal,
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr,
		Exit: Exit{PID: int(r.Pid), Status: r.ExitStatus, At: wireTime(r.ExitedAt)},
	}, nil
}

// Wait waits for the end of a process.
func (s *Shim) Wait(ctx context.Context, execID string) (Exit, error) {
	var r taskapi.WaitResponse
	if err := s.call(ctx, "Wait", &taskapi.WaitRequest{ID: s.Bundle.ID, ExecID: execID}, &r); err != nil {
		return Exit{}, err
	}
	return Exit{Status: r.ExitStatus, At: wireTime(r.ExitedAt)}, nil
}

// Kill sends a signal to a process, or to all of the task.
func (s *Shim) Kill(ctx context.Context, execID string, signal uint32, all bool) error {
	return s.call(ctx, "Kill", &taskapi.KillRequest{ID: s.Bundle.ID, ExecID: execID, Signal: signal, All: all}, &emptypb.Empty{})
}

// Exec adds a process described by spec, which Start starts.
func (s *Shim) Exec(ctx context.Context, execID string, spec *anypb.Any, io IO) error {
	return s.call(ctx, "Exec", &taskapi.ExecProcessRequest{
		ID: s.Bundle.ID, ExecID: execID, Spec: spec, Terminal: io.Terminal, Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr,
	}, &emptypb.Empty{})
}

// Process is a pid of a task; Info is what the shim knows of it, opaque.
type Process struct {
	PID  int
	Info *anypb.Any
}

// Pids returns the processes of the task.
func (s *Shim) Pids(ctx context.Context) ([]Process, error) {
	var r taskapi.PidsResponse
	if err := s.call(ctx, "Pids", &taskapi.PidsRequest{ID: s.Bundle.ID}, &r); err != nil {
		return nil, err
	}
	out := make([]Process, 0, len(r.Processes))
	for _, p := range r.Processes {
		out = append(out, Process{PID: int(p.Pid), Info: p.Info})
	}
	return out, nil
}

// Pause freezes the task.
func (s *Shim) Pause(ctx context.Context) error {
	return s.call(ctx, "Pause", &taskapi.PauseRequest{ID: s.Bundle.ID}, &emptypb.Empty{})
}

// Resume thaws the task.
func (s *Shim) Resume(ctx context.Context) error {
	return s.call(ctx, "Resume", &taskapi.ResumeRequest{ID: s.Bundle.ID}, &emptypb.Empty{})
}

// Update changes the limits of the task.
func (s *Shim) Update(ctx context.Context, resources *anypb.Any, annotations map[string]string) error {
	return s.call(ctx, "Update", &taskapi.UpdateTaskRequest{ID: s.Bundle.ID, Resources: resources, Annotations: annotations}, &emptypb.Empty{})
}

// Checkpoint writes an image of the task to path.
func (s *Shim) Checkpoint(ctx context.Context, path string, opts *anypb.Any) error {
	return s.call(ctx, "Checkpoint", &taskapi.CheckpointTaskRequest{ID: s.Bundle.ID, Path: path, Options: opts}, &emptypb.Empty{})
}

// Resize sets the size of a process's terminal, in characters.
func (s *Shim) Resize(ctx context.Context, execID string, width, height uint32) error {
	return s.call(ctx, "ResizePty", &taskapi.ResizePtyRequest{ID: s.Bundle.ID, ExecID: execID, Width: width, Height: height}, &emptypb.Empty{})
}

// CloseStdin closes the shim's end of a process's stdin.
func (s *Shim) CloseStdin(ctx context.Context, execID string) error {
	return s.call(ctx, "CloseIO", &taskapi.CloseIORequest{ID: s.Bundle.ID, ExecID: execID, Stdin: true}, &emptypb.Empty{})
}

// Stats returns the counters of the task as the shim measured them.
func (s *Shim) Stats(ctx context.Context) (*anypb.Any, error) {
	var r taskapi.StatsResponse
	if err := s.call(ctx, "Stats", &taskapi.StatsRequest{ID: s.Bundle.ID}, &r); err != nil {
		return nil, err
	}
	return r.Stats, nil
}

// Explain asks our own shim for what it made. ErrNotImplemented from any other.
func (s *Shim) Explain(ctx context.Context) (*explainv1.Explanation, error) {
	var r shimv1.ExplainResponse
	if err := s.invoke(ctx, "strata.shim.v1.Shim", "Explain", &shimv1.ExplainRequest{Id: s.Bundle.ID}, &r); err != nil {
		return nil, err
	}
	return r.Explanation, nil
}

func wireTime(t *timestamppb.Timestamp) time.Time {
	if t == nil || (t.Seconds == 0 && t.Nanos == 0) {
		return time.Time{}
	}
	if at := t.AsTime(); at.Year() > 1 { // Go's zero time travels as the year 1
		return at
	}
	return time.Time{}
}

func statusFromWire(s task.Status) Status {
	switch s {
	case task.Status_CREATED:
		return StatusCreated
	case task.Status_RUNNING:
		return StatusRunning
	case task.Status_PAUSING:
		return StatusPausing
	case task.Status_PAUSED:
		return StatusPaused
	case task.Status_STOPPED:
		return StatusStopped
	default:
		return StatusUnknown
	}
}

func mountsToWire(ms []mount.Mount) []*types.Mount {
	out := make([]*types.Mount, 0, len(ms))
	for _, m := range ms {
		out = append(out, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return out
}
