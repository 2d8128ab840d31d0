package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/linux/mount"
)

// The type URLs of runtime-spec messages, which travel as JSON.
//
// Source: containerd client/client.go.
const (
	typeSpec      = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
	typeProcess   = "types.containerd.io/opencontainers/runtime-spec/1/Process"
	typeResources = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
)

// TaskStatus is what the supervisor says about a process.
type TaskStatus string

// The statuses of a task.
const (
	TaskUnknown TaskStatus = "unknown"
	TaskCreated TaskStatus = "created"
	TaskRunning TaskStatus = "running"
	TaskPaused  TaskStatus = "paused"
	TaskStopped TaskStatus = "stopped"
)

// Task is a container's running instance, or one of its execs.
type Task struct {
	ContainerID string
	ExecID      string // "" for the init process
	PID         int
	Status      TaskStatus
	ExitCode    int
	ExitedAt    time.Time
	Stdout      string // the stdio URI
}

// ExitStatus is how a process ended.
type ExitStatus struct {
	PID  int
	Code int // 128+n after signal n
	At   time.Time
}

// RuntimeOptions tell a shim how to drive its OCI runtime. The zero value leaves the
// choice to the shim.
type RuntimeOptions struct {
	BinaryName    string
	SystemdCgroup bool
}

func (o RuntimeOptions) any() (*anypb.Any, error) {
	if o == (RuntimeOptions{}) {
		return nil, nil
	}
	msg := &runcoptions.Options{BinaryName: o.BinaryName, SystemdCgroup: o.SystemdCgroup}
	data, err := proto.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("encode runtime options: %w", err)
	}
	return &anypb.Any{TypeUrl: string(msg.ProtoReflect().Descriptor().FullName()), Value: data}, nil
}

// TaskRequest is the wish for a task of an existing container.
type TaskRequest struct {
	ContainerID string
	Rootfs      []mount.Mount
	Stdin       string // only for foreign shims
	Stdout      string // a shimio URI
	Terminal    bool
	Options     RuntimeOptions
}

func (c *Client) tasks() tasks.TasksClient { return tasks.NewTasksClient(c.conn) }

// CreateTask makes the init process of a container, which waits to be started, and
// returns its pid. ErrAlreadyExists if there is a task.
func (c *Client) CreateTask(ctx context.Context, r TaskRequest) (int, error) {
	opts, err := r.Options.any()
	if err != nil {
		return 0, err
	}
	resp, err := c.tasks().Create(c.scope(ctx), &tasks.CreateTaskRequest{
		ContainerID: r.ContainerID, Rootfs: mountsToWire(r.Rootfs), Stdin: r.Stdin, Stdout: r.Stdout, Terminal: r.Terminal, Options: opts,
	})
	if err != nil {
		return 0, err
	}
	return int(resp.Pid), nil
}

// StartTask lets the init process (execID "") or an exec run and returns its pid.
func (c *Client) StartTask(ctx context.Context, containerID, execID string) (int, error) {
	resp, err := c.tasks().Start(c.scope(ctx), &tasks.StartRequest{ContainerID: containerID, ExecID: execID})
	if err != nil {
		return 0, err
	}
	return int(resp.Pid), nil
}

// KillTask sends a signal to the init process, to an exec, or with all to every process
// of the task. ErrNotFound if the process is gone.
func (c *Client) KillTask(ctx context.Context, containerID, execID string, signal int, all bool) error {
	_, err := c.tasks().Kill(c.scope(ctx), &tasks.KillRequest{ContainerID: containerID, ExecID: execID, Signal: uint32(signal), All: all})
	return err
}

// DeleteTask frees a stopped task and acknowledges its exit. ErrNotFound if there is
// none.
func (c *Client) DeleteTask(ctx context.Context, containerID string) (ExitStatus, error) {
	resp, err := c.tasks().Delete(c.scope(ctx), &tasks.DeleteTaskRequest{ContainerID: containerID})
	if err != nil {
		return ExitStatus{}, err
	}
	return exitOf(resp), nil
}

// DeleteExec frees a stopped exec.
func (c *Client) DeleteExec(ctx context.Context, containerID, execID string) (ExitStatus, error) {
	resp, err := c.tasks().DeleteProcess(c.scope(ctx), &tasks.DeleteProcessRequest{ContainerID: containerID, ExecID: execID})
	if err != nil {
		return ExitStatus{}, err
	}
	return exitOf(resp), nil
}

func exitOf(r *tasks.DeleteResponse) ExitStatus {
	return ExitStatus{PID: int(r.Pid), Code: int(r.ExitStatus), At: r.ExitedAt.AsTime()}
}

// ExecRequest is the wish for one more process in a task.
type ExecRequest struct {
	ContainerID string
	ExecID      string
	Process     *specs.Process
	Stdin       string // only for foreign shims
	Stdout      string // a shimio URI
	Terminal    bool
}

// Exec adds a process, which StartTask starts.
func (c *Client) Exec(ctx context.Context, r ExecRequest) error {
	spec, err := jsonAny(typeProcess, r.Process)
	if err != nil {
		return err
	}
	_, err = c.tasks().Exec(c.scope(ctx), &tasks.ExecProcessRequest{
		ContainerID: r.ContainerID, ExecID: r.ExecID, Spec: spec, Stdin: r.Stdin, Stdout: r.Stdout, Terminal: r.Terminal,
	})
	return err
}

// CloseStdin has the shim let go of a process's stdin: it ends when its other writers have
// too.
func (c *Client) CloseStdin(ctx context.Context, containerID, execID string) error {
	_, err := c.tasks().CloseIO(c.scope(ctx), &tasks.CloseIORequest{ContainerID: containerID, ExecID: execID, Stdin: true})
	return err
}

// ResizeTask sets the window of a process's terminal, in characters.
func (c *Client) ResizeTask(ctx context.Context, containerID, execID string, width, height int) error {
	_, err := c.tasks().ResizePty(c.scope(ctx), &tasks.ResizePtyRequest{ContainerID: containerID, ExecID: execID, Width: uint32(width), Height: uint32(height)})
	return err
}

// PauseTask freezes every process of the task.
func (c *Client) PauseTask(ctx context.Context, containerID string) error {
	_, err := c.tasks().Pause(c.scope(ctx), &tasks.PauseTaskRequest{ContainerID: containerID})
	return err
}

// ResumeTask thaws a paused task.
func (c *Client) ResumeTask(ctx context.Context, containerID string) error {
	_, err := c.tasks().Resume(c.scope(ctx), &tasks.ResumeTaskRequest{ContainerID: containerID})
	return err
}

// UpdateTask changes the limits of a task; what is nil in res stays.
func (c *Client) UpdateTask(ctx context.Context, containerID string, res *specs.LinuxResources) error {
	r, err := jsonAny(typeResources, res)
	if err != nil {
		return err
	}
	_, err = c.tasks().Update(c.scope(ctx), &tasks.UpdateTaskRequest{ContainerID: containerID, Resources: r})
	return err
}

// TaskPIDs returns the host pids of every process of the task.
func (c *Client) TaskPIDs(ctx context.Context, containerID string) ([]int, error) {
	resp, err := c.tasks().ListPids(c.scope(ctx), &tasks.ListPidsRequest{ContainerID: containerID})
	if err != nil {
		return nil, err
	}
	pids := make([]int, 0, len(resp.Processes))
	for _, p := range resp.Processes {
		pids = append(pids, int(p.Pid))
	}
	return pids, nil
}

// GetTask returns the init process of a container. ErrNotFound if there is no task.
func (c *Client) GetTask(ctx context.Context, containerID string) (Task, error) {
	resp, err := c.tasks().Get(c.scope(ctx), &tasks.GetRequest{ContainerID: containerID})
	if err != nil {
		return Task{}, err
	}
	t := taskFromWire(resp.Process)
	t.ContainerID = containerID
	return t, nil
}

// Tasks returns every task of the namespace by container id.
func (c *Client) Tasks(ctx context.Context) (map[string]Task, error) {
	resp, err := c.tasks().List(c.scope(ctx), &tasks.ListTasksRequest{})
	if err != nil {
		return nil, err
	}
	out := make(map[string]Task, len(resp.Tasks))
	for _, p := range resp.Tasks {
		t := taskFromWire(p)
		if t.ContainerID == "" {
			t.ContainerID = p.ID // containerd 1.6 puts the container's id there
		}
		out[t.ContainerID] = t
	}
	return out, nil
}

func taskFromWire(p *task.Process) Task {
	t := Task{ContainerID: p.ContainerID, PID: int(p.Pid), ExitCode: int(p.ExitStatus), Stdout: p.Stdout}
	if p.ExitedAt != nil {
		t.ExitedAt = p.ExitedAt.AsTime()
	}
	switch p.Status {
	case task.Status_CREATED:
		t.Status = TaskCreated
	case task.Status_RUNNING:
		t.Status = TaskRunning
	case task.Status_PAUSED, task.Status_PAUSING:
		t.Status = TaskPaused
	case task.Status_STOPPED:
		t.Status = TaskStopped
	default:
		t.Status = TaskUnknown
	}
	return t
}

func jsonAny(typeURL string, v any) (*anypb.Any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", typeURL, err)
	}
	return &anypb.Any{TypeUrl: typeURL, Value: data}, nil
}

func mountsToWire(ms []mount.Mount) []*types.Mount {
	out := make([]*types.Mount, 0, len(ms))
	for _, m := range ms {
		out = append(out, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return out
}

func mountsFromWire(ms []*types.Mount) []mount.Mount {
	out := make([]mount.Mount, 0, len(ms))
	for _, m := range ms {
		out = append(out, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return out
}
