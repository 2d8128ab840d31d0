package execs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"strata/engined/internal/containers"
	"strata/engined/internal/events"
	"strata/engined/internal/spec"
	"strata/engined/internal/supervisor"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/identifiers"
	"strata/pkg/shimio"
)

// keepExited is how long the exit code of an exec can be asked for.
const keepExited = 5 * time.Minute

// Tasks is the supervisor's side of execs. *supervisor.Client is the real one.
type Tasks interface {
	Exec(ctx context.Context, r supervisor.ExecRequest) error
	StartTask(ctx context.Context, containerID, execID string) (pid int, err error)
	KillTask(ctx context.Context, containerID, execID string, signal int, all bool) error
	DeleteExec(ctx context.Context, containerID, execID string) (supervisor.ExitStatus, error)
	CloseStdin(ctx context.Context, containerID, execID string) error
	ResizeTask(ctx context.Context, containerID, execID string, width, height int) error
}

// Exec is one extra process, wished for or running.
type Exec struct {
	ID        string
	Container *containers.Container
	Request   container.ExecCreateRequest

	started chan struct{} // closed when the process runs or could not be started
	done    chan struct{} // closed when it has ended

	mu      sync.Mutex
	begun   bool // somebody called Start
	running bool
	pid     int
	code    *int
	ended   time.Time
	drained time.Time // when the client's streams ended; zero while they are open
}

// settleTime is how long the exit of a process may come after the end of its streams.
const settleTime = time.Second

// StreamsEnded records that the client has been given all output, or has detached.
func (e *Exec) StreamsEnded() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drained = time.Now()
}

// Settled returns the exec's state for a client that may just have read the end of its
// streams: the exit takes another way to the engine, and is waited for, for at most a second
// after that end.
func (e *Exec) Settled(ctx context.Context) Status {
	e.mu.Lock()
	wait := time.Duration(0)
	if e.running && !e.drained.IsZero() {
		wait = time.Until(e.drained.Add(settleTime))
	}
	e.mu.Unlock()
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-e.done:
		case <-timer.C: // it was detached from, or has closed its streams and goes on
		case <-ctx.Done():
		}
	}
	return e.Status()
}

// Status is an exec's state.
type Status struct {
	Running  bool
	PID      int
	ExitCode *int // nil until it has ended
}

// Status returns the exec's state now.
func (e *Exec) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Status{e.running, e.pid, e.code}
}

// Done is closed when the process has ended.
func (e *Exec) Done() <-chan struct{} { return e.done }

// Service is the engine's execs. Its methods are safe for concurrent use.
type Service struct {
	ctrs   *containers.Service
	tasks  Tasks
	events events.Publisher

	mu    sync.Mutex
	byID  map[string]*Exec
	work  sync.WaitGroup
	early map[string]supervisor.TaskEvent // exits seen before Start had returned
}

// New returns a service without execs.
func New(ctrs *containers.Service, tasks Tasks, pub events.Publisher) *Service {
	return &Service{ctrs: ctrs, tasks: tasks, events: pub, byID: map[string]*Exec{}, early: map[string]supervisor.TaskEvent{}}
}

// Wait returns when the background work of past events is done.
func (s *Service) Wait() { s.work.Wait() }

// Create records the wish for an exec in a running container and returns its id.
func (s *Service) Create(ref string, r container.ExecCreateRequest) (string, error) {
	c, err := s.ctrs.Get(ref)
	if err != nil {
		return "", err
	}
	if len(r.Cmd) == 0 {
		return "", fmt.Errorf("No exec command specified: %w", errdefs.ErrInvalidArgument) //nolint:staticcheck // dockerd's words
	}
	if err := runnable(c); err != nil {
		return "", err
	}
	e := &Exec{ID: identifiers.New(), Container: c, Request: r, started: make(chan struct{}), done: make(chan struct{})}
	s.mu.Lock()
	s.collectLocked()
	s.byID[e.ID] = e
	s.mu.Unlock()
	s.publish(e, "exec_create: "+strings.Join(r.Cmd, " "))
	return e.ID, nil
}

func runnable(c *containers.Container) error {
	switch c.State().Status {
	case containers.Running:
		return nil
	case containers.Paused:
		return fmt.Errorf("container %s is paused, unpause the container before exec: %w", c.ID, errdefs.ErrConflict)
	case containers.Restarting:
		return fmt.Errorf("container %s is restarting, wait until the container is running: %w", c.ID, errdefs.ErrConflict)
	default:
		return fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrConflict)
	}
}

// collectLocked forgets execs that ended a while ago, and those whose container ended
// before they were started. Preconditions: mu is held.
func (s *Service) collectLocked() {
	for id, e := range s.byID {
		e.mu.Lock()
		old := e.code != nil && time.Since(e.ended) > keepExited || !e.begun && !e.Container.State().Status.HasTask()
		e.mu.Unlock()
		if old {
			delete(s.byID, id)
		}
	}
}

// Get returns an exec; ErrNotFound with dockerd's words.
func (s *Service) Get(id string) (*Exec, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.byID[id]; ok {
		return e, nil
	}
	return nil, fmt.Errorf("No such exec instance: %s: %w", id, errdefs.ErrNotFound) //nolint:staticcheck // dockerd's words
}

// OfContainer returns the ids of the execs of a container that have not ended.
func (s *Service) OfContainer(containerID string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for id, e := range s.byID {
		if e.Container.ID == containerID && e.Status().ExitCode == nil {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// StartRequest says how to start an exec.
type StartRequest struct {
	Hello       shimio.Hello // the streams wanted; none for a detached exec
	Detach      bool
	ConsoleSize *[2]uint // height, width
}

// Start runs an exec and returns the connection to its streams; nil if detached. After an
// error the exec's exit code is 126 or 127. ErrConflict if it was started already.
func (s *Service) Start(ctx context.Context, id string, r StartRequest) (_ net.Conn, err error) {
	e, err := s.Get(id)
	if err != nil {
		return nil, err
	}
	if err := s.begin(e); err != nil {
		return nil, err
	}
	ctx = ctxlog.WithAttrs(ctx, ctxlog.ContainerID, e.Container.ID, ctxlog.ExecID, e.ID)
	var undo cleanup.Stack
	defer undo.Clean()
	undo.Add(func() { s.failed(e, err) })
	process, err := s.process(ctx, e, r)
	if err != nil {
		return nil, err
	}
	socket, stdin, stdout, err := s.ctrs.ExecStdio(e.Container, e.ID, e.Request.AttachStdin, e.Request.Tty)
	if err != nil {
		return nil, err
	}
	s.publish(e, "exec_start: "+strings.Join(e.Request.Cmd, " "))
	request := supervisor.ExecRequest{ContainerID: e.Container.ID, ExecID: e.ID, Process: process, Stdin: stdin, Stdout: stdout, Terminal: e.Request.Tty}
	if err := s.tasks.Exec(ctx, request); err != nil {
		return nil, fmt.Errorf("create exec: %w", err)
	}
	undo.Add(func() { s.free(ctx, e) })
	if err := failpoint.Hit("execs/start/added"); err != nil {
		return nil, err
	}
	conn, pid, err := s.connectAndStart(ctx, e, socket, r)
	if err != nil {
		return nil, err
	}
	undo.Release() // Point of no return: the process runs.
	failpoint.Pass("execs/start/started")
	if stdin != "" {
		if err := s.tasks.CloseStdin(ctx, e.Container.ID, e.ID); err != nil && !errdefs.IsNotFound(err) {
			ctxlog.From(ctx).Warn("stdin of the exec will not end", ctxlog.Error, err)
		}
	}
	s.run(e, pid)
	return conn, nil
}

// connectAndStart dials the streams before the process runs, so that nothing of its output
// is missed. A foreign shim makes them only in the course of the start.
func (s *Service) connectAndStart(ctx context.Context, e *Exec, socket string, r StartRequest) (net.Conn, int, error) {
	var conn net.Conn
	var pid int
	dctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dial := func() (err error) {
		if !r.Detach {
			conn, err = containers.DialAttach(dctx, socket, r.Hello)
		}
		return err
	}
	start := func() (err error) {
		pid, err = s.tasks.StartTask(ctx, e.Container.ID, e.ID)
		return err
	}
	var err error
	if s.ctrs.Foreign(e.Container) {
		var dialled error
		var wg sync.WaitGroup
		wg.Go(func() { dialled = dial() })
		if err = start(); err != nil {
			cancel() // there will be no streams
		}
		wg.Wait()
		if err == nil {
			err = dialled
		}
	} else if err = dial(); err == nil {
		err = start()
	}
	if err != nil && conn != nil {
		_ = conn.Close() // the first error says more
	}
	return conn, pid, err
}

func (s *Service) begin(e *Exec) error {
	if err := runnable(e.Container); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.code != nil:
		return fmt.Errorf("exec %s has already run: %w", e.ID, errdefs.ErrConflict)
	case e.begun:
		return fmt.Errorf("exec %s is already running: %w", e.ID, errdefs.ErrConflict)
	}
	e.begun = true
	return nil
}

// run records that the process runs; its exit may have been seen before.
func (s *Service) run(e *Exec, pid int) {
	e.mu.Lock()
	e.running, e.pid = true, pid
	e.mu.Unlock()
	close(e.started)
	s.mu.Lock()
	exit, ended := s.early[e.ID]
	delete(s.early, e.ID)
	s.mu.Unlock()
	if ended {
		s.OnTaskEvent(exit)
	}
}

// failed records why an exec did not run.
func (s *Service) failed(e *Exec, cause error) {
	code := ExitCode(cause)
	e.mu.Lock()
	e.running, e.code, e.ended = false, &code, time.Now()
	e.mu.Unlock()
	close(e.started)
	close(e.done)
}

// ExitCode is the exit code of an exec that did not start: 127 if the command is not
// there, else 126.
func ExitCode(err error) int {
	for _, words := range []string{"executable file not found", "no such file or directory"} {
		if strings.Contains(err.Error(), words) {
			return 127
		}
	}
	return 126
}

// process compiles the exec's process from its wish and the container's definition.
func (s *Service) process(ctx context.Context, e *Exec, r StartRequest) (*specs.Process, error) {
	d, req := e.Container.Definition(), e.Request
	user, err := s.ctrs.ResolveUser(ctx, e.Container, req.User)
	if err != nil {
		return nil, err
	}
	caps, err := spec.Capabilities(req.Privileged || d.Host.Privileged, d.Host.CapAdd, d.Host.CapDrop)
	if err != nil {
		return nil, err
	}
	base := *d.Config
	base.Tty = req.Tty
	p := &specs.Process{
		Terminal: req.Tty, Args: req.Cmd, Cwd: "/", Capabilities: caps, User: user.Spec(),
		Env:             spec.MergeEnv(spec.Env(&base, d.Config.Hostname, user.Home), req.Env),
		ApparmorProfile: spec.AppArmorProfile(d.Host), NoNewPrivileges: spec.NoNewPrivileges(d.Host),
	}
	for _, dir := range []string{d.Config.WorkingDir, req.WorkingDir} {
		if dir != "" {
			p.Cwd = dir
		}
	}
	size := r.ConsoleSize
	if size == nil {
		size = req.ConsoleSize
	}
	if req.Tty && size != nil {
		p.ConsoleSize = &specs.Box{Height: size[0], Width: size[1]}
	}
	adj := d.Host.OomScoreAdj
	p.OOMScoreAdj = &adj
	return p, nil
}

// Resize sets the window of an exec's terminal, once it runs.
func (s *Service) Resize(ctx context.Context, id string, width, height int) error {
	e, err := s.Get(id)
	if err != nil {
		return err
	}
	select { // clients resize as soon as they have asked for the start
	case <-e.started:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(10 * time.Second):
		return fmt.Errorf("exec %s was not started: %w", id, errdefs.ErrConflict)
	}
	if !e.Status().Running {
		return fmt.Errorf("exec %s is not running: %w", id, errdefs.ErrConflict)
	}
	if !e.Request.Tty {
		return nil // as for containers
	}
	return s.tasks.ResizeTask(ctx, e.Container.ID, e.ID, width, height)
}

// Kill sends a signal to an exec that runs.
func (s *Service) Kill(ctx context.Context, e *Exec, signal int) error {
	return s.tasks.KillTask(ctx, e.Container.ID, e.ID, signal, false)
}

// OnTaskEvent takes in a fact about an exec. It never blocks.
func (s *Service) OnTaskEvent(ev supervisor.TaskEvent) {
	if ev.Kind != supervisor.TaskEventExit || ev.ExecID == "" {
		return
	}
	s.mu.Lock()
	e, ok := s.byID[ev.ExecID]
	if ok {
		e.mu.Lock()
		if !e.running && e.code == nil {
			s.early[ev.ExecID], ok = ev, false
		}
		e.mu.Unlock()
	}
	s.mu.Unlock()
	if !ok {
		return
	}
	e.mu.Lock()
	if e.code != nil {
		e.mu.Unlock()
		return
	}
	e.running, e.code, e.ended = false, &ev.ExitCode, ev.At
	e.mu.Unlock()
	s.publish(e, "exec_die", "exitCode", fmt.Sprint(ev.ExitCode))
	close(e.done)
	s.work.Go(func() { s.free(context.Background(), e) }) //nolint:contextcheck // no request waits for it
}

// ContainerEnded ends the execs of a container whose task is gone.
func (s *Service) ContainerEnded(containerID string) {
	for _, id := range s.OfContainer(containerID) {
		if e, err := s.Get(id); err == nil && e.Status().Running {
			s.OnTaskEvent(supervisor.TaskEvent{Kind: supervisor.TaskEventExit, ContainerID: containerID, ExecID: id, ExitCode: 137, At: time.Now()})
		}
	}
}

// free deletes the process's remains in the supervisor.
func (s *Service) free(ctx context.Context, e *Exec) {
	ctx, done := cleanup.Context(ctx)
	defer done()
	defer s.ctrs.RemoveStreams(e.ID)
	if _, err := s.tasks.DeleteExec(ctx, e.Container.ID, e.ID); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) && !errors.Is(err, context.DeadlineExceeded) {
		ctxlog.From(ctx).Debug("exec was not deleted; it goes with its container", ctxlog.ExecID, e.ID, ctxlog.Error, err)
	}
}

func (s *Service) publish(e *Exec, action string, more ...string) {
	s.events.Publish(containers.ContainerEvent(e.Container.Definition(), action, append([]string{"execID", e.ID}, more...)...))
}
