package containers

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"strata/engined/internal/networks"
	"strata/engined/internal/spec"
	"strata/engined/internal/store"
	"strata/engined/internal/supervisor"
	"strata/pkg/api"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/linux/mount"
	"strata/pkg/restartpolicy"
)

// Start runs a container and returns when its process has been started. changed is false
// if it was running already. A start that fails leaves the reason and an exit code (126,
// 127, 128) in the container's state.
func (s *Service) Start(ctx context.Context, ref string) (changed bool, err error) {
	c, err := s.Get(ref)
	if err != nil {
		return false, err
	}
	if err := c.lock(ctx); err != nil {
		return false, err
	}
	defer c.unlock()
	switch st := c.State(); st.Status {
	case Running:
		return false, nil
	case Paused:
		return false, fmt.Errorf("cannot start a paused container, try unpause instead: %w", errdefs.ErrConflict)
	case Dead:
		return false, fmt.Errorf("container is marked for removal and cannot be started: %w", errdefs.ErrConflict)
	case Restarting:
		s.cancelRetry(c)
	default:
	}
	c.setInfo(func(i *runtimeInfo) { i.delay = 0 })
	return true, s.start(ctx, c, 0)
}

// start is one start, by a user (restarts 0) or by a policy.
//
// Preconditions: the operation lock is held; the container has no task.
func (s *Service) start(ctx context.Context, c *Container, restarts int) (err error) {
	ctx = ctxlog.WithAttrs(ctx, ctxlog.ContainerID, c.ID)
	d := c.Definition()
	var undo cleanup.Stack
	defer func() {
		if err != nil {
			undo.Clean()
			s.startFailed(ctx, c, err)
		}
	}()
	steps := &stepTimer{}
	c.setInfo(func(i *runtimeInfo) { i.oom = false })
	undo.Add(func() { s.freeRuntime(ctx, c) })
	p, err := s.prepare(ctx, c, steps)
	if err != nil {
		return err
	}
	if err := steps.time("record container", func() error { return s.record(ctx, c, p.spec) }); err != nil {
		return err
	}
	if err := failpoint.Hit("containers/start/recorded"); err != nil {
		return err
	}
	rt, err := s.runtime(d.Host.Runtime)
	if err != nil {
		return err
	}
	io, err := s.stdio(d)
	if err != nil {
		return err
	}
	task := supervisor.TaskRequest{ContainerID: c.ID, Rootfs: p.rootfs, Stdin: io.stdin, Stdout: io.stdout, Terminal: d.Config.Tty, Options: rt.Options}
	var pid int
	if err := steps.time("create task", func() (err error) { pid, err = s.createTask(ctx, task); return err }); err != nil {
		return fmt.Errorf("failed to create task for container: %w", err)
	}
	undo.Add(func() { s.deleteTask(ctx, c.ID) })
	if err := failpoint.Hit("containers/start/created"); err != nil {
		return err
	}
	if err := s.connectPending(ctx, c, io.socket); err != nil {
		return err
	}
	if err := steps.time("start task", func() (err error) { _, err = s.Tasks.StartTask(ctx, c.ID, ""); return err }); err != nil {
		return fmt.Errorf("failed to start task for container: %w", err)
	}
	undo.Release() // Point of no return: the process runs.
	failpoint.Pass("containers/start/started")
	if io.stdin != "" {
		s.letGoOfStdin(ctx, c.ID)
	}
	s.started(ctx, c, pid, restarts, time.Now().UTC())
	c.setInfo(func(i *runtimeInfo) { i.steps, i.userCached = steps.done(), false })
	return nil
}

// letGoOfStdin leaves a foreign shim's copy of stdin to our logger alone, so that it ends
// when the client ends it.
func (s *Service) letGoOfStdin(ctx context.Context, containerID string) {
	if err := s.Tasks.CloseStdin(ctx, containerID, ""); err != nil && !errdefs.IsNotFound(err) {
		ctxlog.From(ctx).Warn("stdin of the container will not end", ctxlog.Error, err)
	}
}

// started records that the init process runs, and tells everybody.
//
// Preconditions: the operation lock is held.
func (s *Service) started(ctx context.Context, c *Container, pid, restarts int, at time.Time) {
	st, err := c.advance(evStarted, func(st *State) {
		st.PID, st.StartedAt, st.ExitCode, st.Error, st.OOMKilled = pid, at, 0, "", false
		st.HasStarted, st.Stopped, st.Restarts = true, false, restarts
	})
	if err != nil {
		ctxlog.From(ctx).Error("container started out of turn", ctxlog.Error, err)
		return
	}
	s.Store.SaveStateLater(c.ID, st.stored())
	s.publish(c, "start")
	if s.Health != nil {
		s.Health.Started(c)
	}
	ctxlog.From(ctx).Info("container started", ctxlog.PID, pid)
}

// startFailed records why a start came to nothing and wakes who waits.
//
// Preconditions: the operation lock is held.
func (s *Service) startFailed(ctx context.Context, c *Container, cause error) {
	code := exitCodeOf(cause)
	st, err := c.advance(evFailed, func(st *State) { st.ExitCode, st.Error, st.PID = code, errorText(cause), 0 })
	if err != nil {
		ctxlog.From(ctx).Error("container failed out of turn", ctxlog.Error, err)
	}
	s.Store.SaveStateLater(c.ID, st.stored())
	c.failPending(cause)
	s.publish(c, "die", "exitCode", fmt.Sprint(code), "execDuration", "0")
	c.notifyExit(Exit{Code: code})
	if c.Definition().Host.AutoRemove {
		s.removeLater(c)
	}
}

// exitCodeOf tells by the runtime's words what kind of mistake a start was: a command that
// is not there, one that cannot be run, or anything else.
func exitCodeOf(err error) int {
	text := err.Error()
	for _, words := range []string{"executable file not found", "no such file or directory", "system cannot find the file specified"} {
		if strings.Contains(text, words) {
			return 127
		}
	}
	if strings.Contains(text, "permission denied") || strings.Contains(text, "not a directory") || strings.Contains(text, "is a directory") {
		return 126
	}
	return 128
}

// InvalidCommand reports whether a start failed because of what the user asked to run;
// dockerd answers 400 then.
func InvalidCommand(err error) bool {
	code := exitCodeOf(err)
	return code == 126 || code == 127
}

func errorText(err error) string {
	s := err.Error()
	for _, class := range []error{errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrConflict, errdefs.ErrUnknown, errdefs.ErrFailedPrecondition} {
		s = strings.TrimSuffix(s, ": "+class.Error())
	}
	return s
}

// prepared is what a task needs.
type prepared struct {
	spec   *specs.Spec
	rootfs []mount.Mount
}

// prepare makes network, rootfs and volumes ready, side by side, and compiles the spec.
func (s *Service) prepare(ctx context.Context, c *Container, steps *stepTimer) (prepared, error) {
	d := c.Definition()
	r := spec.Request{ID: c.ID, Config: d.Config, Host: d.Host, Cgroup: s.cfg.Cgroup, Ulimits: s.cfg.Ulimits}
	if d.Host.Init != nil && *d.Host.Init || d.Host.Init == nil && s.cfg.Init {
		if s.cfg.InitPath == "" {
			return prepared{}, fmt.Errorf("--init: no init binary was found; set \"init-path\" in the engine's configuration: %w", errdefs.ErrNotImplemented)
		}
		r.InitPath = s.cfg.InitPath
	}
	var rootfs []mount.Mount
	var fresh []copyUp
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return steps.time("join network", func() (err error) { r.Net, err = s.joinNetwork(gctx, d); return err })
	})
	g.Go(func() error {
		return steps.time("prepare rootfs", func() (err error) {
			if rootfs, err = s.rootfsMounts(gctx, c); err != nil {
				return err
			}
			r.User, err = s.resolveUser(gctx, c, rootfs, d.Config.User, d.Host.GroupAdd)
			return err
		})
	})
	g.Go(func() error {
		return steps.time("acquire volumes", func() (err error) { r.Mounts, fresh, err = s.acquireMounts(gctx, d); return err })
	})
	g.Go(func() (err error) { r.Peers, r.ShmPath, err = s.peers(d); return err })
	if err := g.Wait(); err != nil {
		return prepared{}, err
	}
	if len(fresh) > 0 {
		if err := steps.time("copy up", func() error { return copyUpAll(ctx, rootfs, fresh) }); err != nil {
			return prepared{}, err
		}
	}
	if spec.WantsDefaultAppArmor(d.Host) {
		if err := spec.LoadDefaultAppArmor(); err != nil && !errdefs.IsNotFound(err) { // that was said when the engine started
			return prepared{}, err
		}
	}
	if err := failpoint.Hit("containers/prepare/ready"); err != nil {
		return prepared{}, err
	}
	var out *specs.Spec
	err := steps.time("compile spec", func() (err error) { out, err = spec.Build(r); return err })
	return prepared{out, rootfs}, err
}

// record makes the supervisor's record say what is about to run. It costs nothing if it
// says so already.
//
// Preconditions: the operation lock is held.
func (s *Service) record(ctx context.Context, c *Container, sp *specs.Spec) error {
	d, info := c.Definition(), c.info()
	labels, err := s.labels(d, false)
	if err != nil {
		return err
	}
	data, err := json.Marshal(struct {
		Spec   *specs.Spec
		Labels map[string]string
	}{sp, labels})
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	hash := sha256.Sum256(data)
	counted := d.Host.RestartPolicy.MaximumRetryCount > 0 // the record holds a count, which begins anew
	if info.recorded && info.specHash == hash && !counted {
		return nil
	}
	rt, err := s.runtime(d.Host.Runtime)
	if err != nil {
		return err
	}
	if info.recorded {
		err = s.Records.UpdateSpec(ctx, c.ID, sp, labels)
	}
	if !info.recorded || errdefs.IsNotFound(err) {
		err = s.Records.CreateContainer(ctx, supervisor.Container{
			ID: c.ID, Image: d.Config.Image, Labels: labels, Runtime: rt.Type, Options: rt.Options, Spec: sp, Snapshotter: d.Image.Snapshotter, SnapshotKey: c.ID,
		})
		if errdefs.IsAlreadyExists(err) {
			err = s.Records.UpdateSpec(ctx, c.ID, sp, labels)
		}
	}
	if err != nil {
		return fmt.Errorf("record container: %w", err)
	}
	c.setInfo(func(i *runtimeInfo) { i.recorded, i.specHash = true, hash })
	return nil
}

// Labels of a supervisor's record that the engine reads back.
const (
	labelEngine = "strata.engine" // this engine's containers
	labelName   = "strata.engine.name"
)

// labels are those of the supervisor's record: who it belongs to, and the restart policy.
func (s *Service) labels(d *store.Definition, stopped bool) (map[string]string, error) {
	out := map[string]string{labelEngine: "true", labelName: d.Name}
	policy := Policy(d.Host.RestartPolicy)
	if policy.Name == restartpolicy.No {
		return out, nil
	}
	io, err := s.stdio(d)
	if err != nil {
		return nil, err
	}
	out[restartpolicy.LabelStatus] = "running"
	if stopped {
		out[restartpolicy.LabelStatus] = "stopped"
	}
	out[restartpolicy.LabelPolicy] = policy.String()
	out[restartpolicy.LabelExplicitlyStopped] = fmt.Sprint(stopped)
	out[restartpolicy.LabelCount] = "0"
	out[restartpolicy.LabelLogURI] = io.stdout
	out[restartpolicy.LabelEngineBoots] = "true"
	return out, nil
}

// createTask makes the task, in the place of one that a crash has left behind.
func (s *Service) createTask(ctx context.Context, r supervisor.TaskRequest) (int, error) {
	pid, err := s.Tasks.CreateTask(ctx, r)
	if !errdefs.IsAlreadyExists(err) {
		return pid, err
	}
	s.deleteTask(ctx, r.ContainerID)
	return s.Tasks.CreateTask(ctx, r)
}

// deleteTask kills and frees a task that nobody wants.
func (s *Service) deleteTask(ctx context.Context, containerID string) {
	ctx, done := cleanup.Context(ctx)
	defer done()
	if err := s.Tasks.KillTask(ctx, containerID, "", sigKill, true); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		ctxlog.From(ctx).Warn("unwanted task was not killed", ctxlog.ContainerID, containerID, ctxlog.Error, err)
	}
	if _, err := s.Tasks.DeleteTask(ctx, containerID); err != nil && !errdefs.IsNotFound(err) {
		ctxlog.From(ctx).Warn("unwanted task was not deleted; the next start will", ctxlog.ContainerID, containerID, ctxlog.Error, err)
	}
}

// freeRuntime gives network and volumes back after a run.
func (s *Service) freeRuntime(ctx context.Context, c *Container) {
	ctx, done := cleanup.Context(ctx)
	defer done()
	var wg sync.WaitGroup
	var netErr, volErr error
	wg.Go(func() { netErr = s.Networks.Leave(ctx, c.ID) })
	if len(c.Definition().Mounts) > 0 {
		wg.Go(func() { volErr = s.Volumes.Release(ctx, c.ID) })
	}
	wg.Wait()
	if err := errors.Join(netErr, volErr); err != nil {
		ctxlog.From(ctx).Warn("network or volumes were not freed; the next start of the engine will", ctxlog.ContainerID, c.ID, ctxlog.Error, err)
	}
}

// joinNetwork gives the container its network and says so to the spec.
func (s *Service) joinNetwork(ctx context.Context, d *store.Definition) (spec.Network, error) {
	if d.Host.NetworkMode.IsContainer() {
		return s.shareNetwork(d)
	}
	r, err := s.networkRequest(d)
	if err != nil {
		return spec.Network{}, err
	}
	sb, err := s.Networks.Join(ctx, r)
	if err != nil {
		return spec.Network{}, err
	}
	return s.networkFiles(d, d.ID, spec.Network{NetnsPath: sb.NetnsPath, NamesPath: sb.NamesPath, Host: r.Mode == networks.NetworkHost}), nil
}

// stepTimer measures the steps of a start; they may run side by side.
type stepTimer struct {
	mu    sync.Mutex
	steps []api.Step
}

func (t *stepTimer) time(name string, fn func() error) error {
	start := time.Now()
	err := fn()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, api.Step{Layer: "engined", Name: name, Start: start, Duration: time.Since(start)})
	return err
}

func (t *stepTimer) done() []api.Step {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.steps
}
