package supervisor

import (
	"context"
	"fmt"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	events "github.com/containerd/containerd/api/services/events/v1"
	"google.golang.org/protobuf/proto"

	"github.com/containerd/typeurl/v2"
)

// TaskEventKind says what happened to a process.
type TaskEventKind string

// The kinds of task events.
const (
	TaskEventStart  TaskEventKind = "start"
	TaskEventExit   TaskEventKind = "exit"
	TaskEventOOM    TaskEventKind = "oom"
	TaskEventPaused TaskEventKind = "paused"
	TaskEventResume TaskEventKind = "resumed"
	TaskEventCreate TaskEventKind = "create"
	TaskEventDelete TaskEventKind = "delete"
)

// TaskEvent is one fact about a task.
type TaskEvent struct {
	Kind        TaskEventKind
	ContainerID string
	ExecID      string // "" for the init process
	PID         int
	ExitCode    int
	At          time.Time
}

// WatchTasks calls onReady once the subscription stands, then onEvent for each task
// event of the namespace, in order, until ctx ends or the stream breaks (the returned
// error, or that of onReady). Events between two calls of WatchTasks are lost: onReady must compare the
// caller's records with Tasks.
func (c *Client) WatchTasks(ctx context.Context, onReady func() error, onEvent func(TaskEvent)) error {
	stream, err := events.NewEventsClient(c.conn).Subscribe(c.scope(ctx), &events.SubscribeRequest{
		Filters: []string{fmt.Sprintf(`namespace==%s,topic~="^/tasks/"`, c.namespace)},
	})
	if err != nil {
		return fmt.Errorf("subscribe to task events: %w", err)
	}
	// An RPC on the same connection is answered after the server has seen the
	// subscription's stream; containerd registers it when the handler begins.
	if _, err := c.Version(ctx); err != nil {
		return fmt.Errorf("subscribe to task events: %w", err)
	}
	if err := onReady(); err != nil {
		return err
	}
	for {
		env, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("read task events: %w", err)
		}
		v, err := typeurl.UnmarshalAny(env.Event)
		if err != nil {
			continue // an event of a newer supervisor
		}
		msg, ok := v.(proto.Message)
		if !ok {
			continue
		}
		if e, ok := taskEvent(msg, env.Timestamp.AsTime()); ok {
			onEvent(e)
		}
	}
}

func taskEvent(msg proto.Message, at time.Time) (TaskEvent, bool) {
	switch m := msg.(type) {
	case *apievents.TaskStart:
		return TaskEvent{Kind: TaskEventStart, ContainerID: m.ContainerID, PID: int(m.Pid), At: at}, true
	case *apievents.TaskExit:
		e := TaskEvent{Kind: TaskEventExit, ContainerID: m.ContainerID, ExecID: m.ID, PID: int(m.Pid), ExitCode: int(m.ExitStatus), At: m.ExitedAt.AsTime()}
		if m.ID == m.ContainerID {
			e.ExecID = ""
		}
		return e, true
	case *apievents.TaskOOM:
		return TaskEvent{Kind: TaskEventOOM, ContainerID: m.ContainerID, At: at}, true
	case *apievents.TaskPaused:
		return TaskEvent{Kind: TaskEventPaused, ContainerID: m.ContainerID, At: at}, true
	case *apievents.TaskResumed:
		return TaskEvent{Kind: TaskEventResume, ContainerID: m.ContainerID, At: at}, true
	case *apievents.TaskCreate:
		return TaskEvent{Kind: TaskEventCreate, ContainerID: m.ContainerID, PID: int(m.Pid), At: at}, true
	case *apievents.TaskDelete:
		if m.ID != "" && m.ID != m.ContainerID {
			return TaskEvent{}, false
		}
		return TaskEvent{Kind: TaskEventDelete, ContainerID: m.ContainerID, PID: int(m.Pid), ExitCode: int(m.ExitStatus), At: m.ExitedAt.AsTime()}, true
	}
	return TaskEvent{}, false
}
