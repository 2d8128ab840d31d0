package taskapi

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	forward "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/ctxlog"
	"strata/pkg/namespaces"
	"strata/pkg/rpc/ttrpcmeta"
	"strata/shim/internal/process"
)

// Limits of the publisher.
const (
	// maxQueue bounds the events kept while the daemon is away. Exits and what precedes
	// them are bounded by the processes that were running when it went; only strikes
	// of the OOM killer are not, and those fall out first.
	maxQueue     = 4096
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 2 * time.Second
	sendTimeout  = 5 * time.Second
	// refusals is how often the daemon may answer an event with an error before it is
	// given up: it is there and does not want it.
	refusals = 5
)

// Publisher sends events to the daemon, in order, each until the daemon has
// acknowledged it. While the daemon is away events wait; [Publisher.Wake] tells that it
// may be back. An acknowledgement that is lost with the connection leads to a second
// delivery. Make it with [NewPublisher]; it sends while Run runs.
type Publisher struct {
	address   string // of the daemon's ttrpc socket
	namespace string
	wake      chan struct{} // buffered 1: one pending wake stands for all

	mu    sync.Mutex
	queue []process.Event
}

// NewPublisher returns a publisher to the ttrpc socket address, with or without
// "unix://".
func NewPublisher(address, namespace string) *Publisher {
	return &Publisher{address: strings.TrimPrefix(address, "unix://"), namespace: namespace, wake: make(chan struct{}, 1)}
}

// Publish queues an event. It does not block.
func (p *Publisher) Publish(e process.Event) {
	p.mu.Lock()
	if len(p.queue) >= maxQueue {
		p.dropLocked()
	}
	p.queue = append(p.queue, e)
	p.mu.Unlock()
	p.Wake()
}

// dropLocked makes room: the oldest OOM event goes, or else the oldest event that tells
// no exit. The first stays: it may be under way.
//
// Preconditions: mu is held; the queue holds two at least.
func (p *Publisher) dropLocked() {
	victim := 1
	for i, e := range p.queue[1:] {
		i++
		if e.Kind == process.TaskOOM {
			victim = i
			break
		}
		if p.queue[victim].Kind == process.TaskExited && e.Kind != process.TaskExited {
			victim = i
		}
	}
	p.queue = append(p.queue[:victim], p.queue[victim+1:]...)
}

// Wake has the publisher try again at once.
func (p *Publisher) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Publisher) head() (process.Event, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		p.queue = nil
		return process.Event{}, false
	}
	return p.queue[0], true
}

// sent takes the first event off the queue.
func (p *Publisher) sent() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue[0] = process.Event{}
	p.queue = p.queue[1:]
}

// Run sends events until ctx is done; then it tries to send the rest for drain. An event that
// is under way at that moment is waited for: given up, it would be sent again, and seen twice.
func (p *Publisher) Run(ctx context.Context, drain time.Duration) {
	conn := &connection{address: p.address}
	defer conn.close()
	calls, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drain, cancel) })()
	p.send(ctx, calls, conn)
	p.sendAll(calls, calls, conn)
}

// send waits for events and sends them until ctx is done; calls is for what is under way.
func (p *Publisher) send(ctx, calls context.Context, conn *connection) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			p.sendAll(ctx, calls, conn)
		}
	}
}

// sendAll empties the queue, or returns when ctx is done.
func (p *Publisher) sendAll(ctx, calls context.Context, conn *connection) {
	backoff, refused := firstBackoff, 0
	for {
		e, ok := p.head()
		if !ok || ctx.Err() != nil {
			return
		}
		err := p.forward(calls, conn, e)
		if err == nil {
			p.sent()
			backoff, refused = firstBackoff, 0
			continue
		}
		if !isGone(err) {
			if refused++; refused >= refusals {
				ctxlog.From(ctx).Warn("event given up: the daemon refuses it", ctxlog.ContainerID, e.ContainerID, ctxlog.Topic, topic(e.Kind), ctxlog.Error, err)
				p.sent()
				refused = 0
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// isGone reports whether the daemon is away, as opposed to there and refusing: only a
// status comes from a daemon, everything else from the way to it.
func isGone(err error) bool {
	st, ok := status.FromError(err)
	return !ok || st.Code() == codes.Unavailable || st.Code() == codes.DeadlineExceeded || st.Code() == codes.Canceled
}

func (p *Publisher) forward(ctx context.Context, conn *connection, e process.Event) error {
	payload, err := toAny(eventToWire(e))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ttrpcmeta.Outgoing(namespaces.With(ctx, p.namespace)), sendTimeout)
	defer cancel()
	return conn.forward(ctx, &forward.ForwardRequest{Envelope: &types.Envelope{
		Timestamp: timestamppb.New(e.At), Namespace: p.namespace, Topic: topic(e.Kind), Event: payload,
	}})
}

// connection is the client's side of the daemon's event service, made when needed.
type connection struct {
	address string
	client  *ttrpc.Client
}

// forward returns errors as they are, for isGone to tell.
func (c *connection) forward(ctx context.Context, r *forward.ForwardRequest) error {
	if c.client == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.address)
		if err != nil {
			return fmt.Errorf("dial the daemon's events: %w", err)
		}
		c.client = ttrpc.NewClient(conn)
	}
	if _, err := forward.NewTTRPCEventsClient(c.client).Forward(ctx, r); err != nil {
		if isGone(err) {
			c.close()
		}
		return err
	}
	return nil
}

func (c *connection) close() {
	if c.client != nil {
		_ = c.client.Close()
		c.client = nil
	}
}

// topics of the events, containerd's.
func topic(k process.Kind) string {
	return [...]string{
		process.TaskCreated:      "/tasks/create",
		process.TaskStarted:      "/tasks/start",
		process.TaskExited:       "/tasks/exit",
		process.TaskDeleted:      "/tasks/delete",
		process.TaskPaused:       "/tasks/paused",
		process.TaskResumed:      "/tasks/resumed",
		process.TaskCheckpointed: "/tasks/checkpointed",
		process.TaskOOM:          "/tasks/oom",
		process.ExecAdded:        "/tasks/exec-added",
		process.ExecStarted:      "/tasks/exec-started",
	}[k]
}

func eventToWire(e process.Event) proto.Message {
	pid := uint32(e.PID)
	switch e.Kind {
	case process.TaskCreated:
		s := e.Create.Stdio
		return &events.TaskCreate{
			ContainerID: e.ContainerID, Bundle: e.Create.Bundle, Rootfs: mountsToWire(e.Create.Rootfs), Pid: pid,
			IO:         &events.TaskIO{Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Terminal: s.Terminal},
			Checkpoint: e.Create.Checkpoint,
		}
	case process.TaskStarted:
		return &events.TaskStart{ContainerID: e.ContainerID, Pid: pid}
	case process.TaskExited:
		id := e.ExecID
		if id == "" {
			id = e.ContainerID
		}
		return &events.TaskExit{ContainerID: e.ContainerID, ID: id, Pid: pid, ExitStatus: e.Exit.Code, ExitedAt: timeToWire(e.Exit.At)}
	case process.TaskDeleted:
		return &events.TaskDelete{ContainerID: e.ContainerID, Pid: pid, ExitStatus: e.Exit.Code, ExitedAt: timeToWire(e.Exit.At)}
	case process.TaskPaused:
		return &events.TaskPaused{ContainerID: e.ContainerID}
	case process.TaskResumed:
		return &events.TaskResumed{ContainerID: e.ContainerID}
	case process.TaskCheckpointed:
		return &events.TaskCheckpointed{ContainerID: e.ContainerID, Checkpoint: e.Checkpoint}
	case process.TaskOOM:
		return &events.TaskOOM{ContainerID: e.ContainerID}
	case process.ExecAdded:
		return &events.TaskExecAdded{ContainerID: e.ContainerID, ExecID: e.ExecID}
	case process.ExecStarted:
		return &events.TaskExecStarted{ContainerID: e.ContainerID, ExecID: e.ExecID, Pid: pid}
	}
	panic(fmt.Sprintf("internal error: event of kind %d", e.Kind))
}
