package restart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/atomicfile"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/linux/mount"
	"strata/pkg/namespaces"
	"strata/pkg/restartpolicy"
	"strata/supervisord/internal/containers"
	"strata/supervisord/internal/shims"
	"strata/supervisord/internal/tasks"
)

// Containers is what the package needs of the container store.
type Containers interface {
	Get(ctx context.Context, containerID string) (containers.Container, error)
	List(ctx context.Context, filters ...string) ([]containers.Container, error)
	Update(ctx context.Context, c containers.Container, fieldpaths ...string) (containers.Container, error)
}

// Tasks is what the package needs of the task service.
type Tasks interface {
	Create(ctx context.Context, r tasks.Request) (int, error)
	Start(ctx context.Context, id, execID string) (int, error)
	Delete(ctx context.Context, id string) (shims.Exit, error)
	Get(ctx context.Context, id, execID string) (tasks.Task, error)
}

// Config is what a Manager works with.
type Config struct {
	State      string // directory of intents
	Containers Containers
	Tasks      Tasks
	// Mounts returns how to mount a container's snapshot, for a task whose request is
	// not known any more.
	Mounts func(ctx context.Context, snapshotter, key string) ([]mount.Mount, error)
	// Namespaces returns all namespaces.
	Namespaces func(ctx context.Context) ([]string, error)
}

// Manager acts on the exits that it is told of. Its methods are safe for concurrent use.
type Manager struct {
	cfg   Config
	exits chan tasks.Exited

	mu       sync.Mutex
	backlog  []tasks.Exited
	attempts map[key]*attempt
}

type key struct{ namespace, id string }

// attempt is a restart that waits for its time.
type attempt struct {
	cancel context.CancelFunc
	delay  time.Duration
}

// intent is what is on disk.
type intent struct {
	Request tasks.Request `json:"request"`
	Delay   time.Duration `json:"delay"` // before this attempt
	PID     int           `json:"pid"`   // of the ended init process; another pid is somebody else's start

	resumed bool // an earlier daemon may have come as far as creating the task
}

// New returns a manager that does nothing before Run.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, exits: make(chan tasks.Exited, 1), attempts: map[key]*attempt{}}
}

var _ tasks.Observer = (*Manager)(nil)

// Exited implements tasks.Observer: it queues the exit for Run.
func (m *Manager) Exited(e tasks.Exited) {
	m.mu.Lock()
	m.backlog = append(m.backlog, e)
	m.mu.Unlock()
	select {
	case m.exits <- tasks.Exited{}:
	default:
	}
}

// Run acts on exits until ctx is done and waits for what is under way. At first it goes
// on with the intents of an earlier daemon, and starts what should run and has no task,
// unless the label leaves that to the engine. Call it after the tasks were loaded.
func (m *Manager) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	m.resume(ctx, &wg)
	m.boot(ctx, &wg)
	for {
		m.mu.Lock()
		batch := m.backlog
		m.backlog = nil
		m.mu.Unlock()
		for _, e := range batch {
			if err := m.decide(ctx, &wg, e); err != nil {
				ctxlog.From(ctx).Warn("restart policy was not applied", ctxlog.Namespace, e.Namespace, ctxlog.ContainerID, e.ID, ctxlog.Error, err)
			}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.exits:
		}
	}
}

// wanted reads the container's labels. ok is false if it is not to run.
func wanted(c containers.Container, exitCode int) (ok bool, restarts int, err error) {
	policy, err := restartpolicy.Parse(c.Labels[restartpolicy.LabelPolicy])
	if err != nil {
		return false, 0, err
	}
	restarts, _ = strconv.Atoi(c.Labels[restartpolicy.LabelCount]) // absent or nonsense: none so far
	explicit := c.Labels[restartpolicy.LabelExplicitlyStopped] == "true" || c.Labels[restartpolicy.LabelStatus] == "stopped"
	return policy.Restart(restartpolicy.Exit{Code: exitCode, Restarts: restarts, ExplicitlyStopped: explicit}), restarts, nil
}

// decide schedules a restart if the policy wants one.
func (m *Manager) decide(ctx context.Context, wg *sync.WaitGroup, e tasks.Exited) error {
	k := key{e.Namespace, e.ID}
	c, err := m.cfg.Containers.Get(namespaces.With(ctx, k.namespace), k.id)
	if errors.Is(err, errdefs.ErrNotFound) {
		m.forget(k)
		return nil
	}
	if err != nil {
		return err
	}
	ok, _, err := wanted(c, int(e.Exit.Status))
	if err != nil || !ok {
		m.forget(k)
		return err
	}
	r := e.Request
	if r == nil {
		if r, err = m.invent(ctx, k, c); err != nil {
			return err
		}
	}
	m.mu.Lock()
	previous := time.Duration(0)
	if a := m.attempts[k]; a != nil {
		previous = a.delay
	}
	m.mu.Unlock()
	return m.schedule(ctx, wg, k, intent{Request: *r, Delay: restartpolicy.NextDelay(previous, e.Uptime()), PID: e.Exit.PID})
}

// invent makes a request for a container whose last one is lost, as after a reboot.
func (m *Manager) invent(ctx context.Context, k key, c containers.Container) (*tasks.Request, error) {
	r := &tasks.Request{ID: k.id, IO: shims.IO{Stdout: c.Labels[restartpolicy.LabelLogURI], Stderr: c.Labels[restartpolicy.LabelLogURI]}}
	if c.SnapshotKey == "" {
		return r, nil
	}
	var err error
	if r.Rootfs, err = m.cfg.Mounts(namespaces.With(ctx, k.namespace), c.Snapshotter, c.SnapshotKey); err != nil {
		return nil, fmt.Errorf("mounts of snapshot %q: %w", c.SnapshotKey, err)
	}
	return r, nil
}

func (m *Manager) path(k key) string { return filepath.Join(m.cfg.State, k.namespace, k.id+".json") }

// schedule writes the intent and waits for its time in a goroutine.
func (m *Manager) schedule(ctx context.Context, wg *sync.WaitGroup, k key, in intent) error {
	data, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode intent: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(m.path(k)), 0o700); err != nil {
		return fmt.Errorf("write intent: %w", err)
	}
	failpoint.Pass("restart/schedule/begun")
	return m.launch(ctx, wg, k, in, data)
}

// launch makes an attempt the current one. data is written as its intent; nil if it is
// on disk.
func (m *Manager) launch(ctx context.Context, wg *sync.WaitGroup, k key, in intent, data []byte) error {
	ctx, cancel := context.WithCancel(ctxlog.WithAttrs(namespaces.With(ctx, k.namespace), ctxlog.Namespace, k.namespace, ctxlog.ContainerID, k.id))
	a := &attempt{cancel: cancel, delay: in.Delay}
	m.mu.Lock()
	if data != nil { // under mu: the attempt before may be about to remove its own
		if err := atomicfile.Write(m.path(k), data, 0o600, atomicfile.Volatile); err != nil {
			m.mu.Unlock()
			cancel()
			return err
		}
	}
	if old := m.attempts[k]; old != nil {
		old.cancel()
	}
	m.attempts[k] = a
	m.mu.Unlock()
	wg.Go(func() {
		defer cancel()
		m.pursue(ctx, k, in, a)
	})
	return nil
}

// pursue waits and restarts, and again if that fails, until it worked or is called off.
func (m *Manager) pursue(ctx context.Context, k key, in intent, a *attempt) {
	for {
		timer := time.NewTimer(in.Delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return // the intent stays for the next daemon, or was replaced
		case <-timer.C:
		}
		retry, err := m.restart(ctx, k, in)
		if err == nil || !retry {
			if err != nil {
				ctxlog.From(ctx).Info("restart was called off", ctxlog.Error, err)
			}
			m.settle(ctx, k, a, errors.Is(err, errdefs.ErrNotFound))
			return
		}
		if ctx.Err() != nil {
			return
		}
		in.Delay = restartpolicy.NextDelay(in.Delay, 0)
		ctxlog.From(ctx).Warn("restart failed and will be tried again", ctxlog.Error, err, ctxlog.Duration, in.Delay)
		m.mu.Lock()
		a.delay = in.Delay
		m.mu.Unlock()
	}
}

// settle removes the intent of an attempt that is over, unless the container has ended
// again and the intent is the next attempt's. gone forgets the delays too.
func (m *Manager) settle(ctx context.Context, k key, a *attempt, gone bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attempts[k] != a {
		return
	}
	if gone {
		delete(m.attempts, k)
	}
	if err := os.Remove(m.path(k)); err != nil && !errors.Is(err, os.ErrNotExist) {
		ctxlog.From(ctx).Warn("intent to restart stayed behind", ctxlog.Error, err)
	}
}

// errCalledOff says that nobody wants the restart any more.
var errCalledOff = errors.New("not wanted any more")

// restart makes one attempt. retry says whether a failure is worth another.
func (m *Manager) restart(ctx context.Context, k key, in intent) (retry bool, err error) {
	c, err := m.cfg.Containers.Get(ctx, k.id)
	if errors.Is(err, errdefs.ErrNotFound) {
		return false, err
	}
	if err != nil {
		return true, err
	}
	halfMade := false
	old, err := m.cfg.Tasks.Get(ctx, k.id, "")
	switch {
	case errors.Is(err, errdefs.ErrNotFound):
	case err != nil:
		return true, err
	case in.resumed && old.State.Status == shims.StatusCreated:
		halfMade = true
	case old.State.Status != shims.StatusStopped || (in.PID != 0 && old.State.PID != in.PID):
		return false, fmt.Errorf("somebody else has started it: %w", errCalledOff)
	}
	exists := err == nil
	code := 1 // a lost task did not end well
	if exists && !halfMade {
		code = int(old.State.Exit.Status)
	}
	ok, restarts, err := wanted(c, code)
	if err != nil || !ok {
		return false, errors.Join(errCalledOff, err)
	}
	if exists {
		if _, err := m.cfg.Tasks.Delete(ctx, k.id); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return true, err
		}
	}
	failpoint.Pass("restart/restart/deleted")
	if _, err := m.cfg.Tasks.Create(ctx, in.Request); err != nil {
		if errors.Is(err, errdefs.ErrAlreadyExists) {
			return false, fmt.Errorf("somebody else has created it: %w", errCalledOff)
		}
		return true, err
	}
	failpoint.Pass("restart/restart/created")
	if err := m.stillWanted(ctx, k, code); err != nil {
		uctx, done := cleanup.Context(ctx)
		defer done()
		_, derr := m.cfg.Tasks.Delete(uctx, k.id)
		return ctx.Err() != nil, errors.Join(err, derr) // a daemon that ends leaves the intent to the next
	}
	// Before the start, so that a container that ends at once is counted right.
	m.count(ctx, c, restarts+1)
	if _, err := m.cfg.Tasks.Start(ctx, k.id, ""); err != nil {
		uctx, done := cleanup.Context(ctx) // the attempt may have been called off meanwhile
		defer done()
		_, derr := m.cfg.Tasks.Delete(uctx, k.id)
		return true, errors.Join(err, derr)
	}
	ctxlog.From(ctx).Info("container was restarted", "restarts", restarts+1)
	return false, nil
}

// stillWanted asks again after the task was made, which takes a while: somebody may have
// stopped the container, or this daemon, meanwhile.
func (m *Manager) stillWanted(ctx context.Context, k key, code int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := m.cfg.Containers.Get(ctx, k.id)
	if err != nil {
		return err
	}
	ok, _, err := wanted(c, code)
	if err == nil && !ok {
		err = errCalledOff
	}
	return err
}

func (m *Manager) count(ctx context.Context, c containers.Container, n int) {
	update := containers.Container{ID: c.ID, Labels: map[string]string{restartpolicy.LabelCount: strconv.Itoa(n)}}
	if _, err := m.cfg.Containers.Update(ctx, update, "labels."+restartpolicy.LabelCount); err != nil {
		ctxlog.From(ctx).Warn("number of restarts was not recorded", ctxlog.Error, err)
	}
}

// forget ends an attempt and its memory of delays.
func (m *Manager) forget(k key) {
	m.mu.Lock()
	a := m.attempts[k]
	delete(m.attempts, k)
	m.mu.Unlock()
	if a != nil {
		a.cancel()
	}
	_ = os.Remove(m.path(k)) // usually there is none
}

// resume goes on with the intents on disk.
func (m *Manager) resume(ctx context.Context, wg *sync.WaitGroup) {
	files, _ := filepath.Glob(filepath.Join(m.cfg.State, "*", "*.json")) // the pattern is well formed
	for _, file := range files {
		k := key{filepath.Base(filepath.Dir(file)), strings.TrimSuffix(filepath.Base(file), ".json")}
		data, err := os.ReadFile(file)
		var in intent
		if err == nil {
			err = json.Unmarshal(data, &in)
		}
		if err != nil {
			ctxlog.From(ctx).Warn("intent to restart is unreadable", ctxlog.Path, file, ctxlog.Error, err)
			continue
		}
		in.resumed = true
		_ = m.launch(ctx, wg, k, in, nil) // it writes nothing
	}
}

// boot starts the containers that are to run and have no task, as after a reboot. Those
// whose network only the engine can rebuild are left to it.
func (m *Manager) boot(ctx context.Context, wg *sync.WaitGroup) {
	all, err := m.cfg.Namespaces(ctx)
	if err != nil {
		ctxlog.From(ctx).Warn("containers were not started at boot", ctxlog.Error, err)
		return
	}
	for _, ns := range all {
		nctx := namespaces.With(ctx, ns)
		list, err := m.cfg.Containers.List(nctx, fmt.Sprintf("labels.%q==running", restartpolicy.LabelStatus))
		if err != nil {
			ctxlog.From(ctx).Warn("containers were not started at boot", ctxlog.Namespace, ns, ctxlog.Error, err)
			continue
		}
		for _, c := range list {
			m.bootOne(nctx, wg, key{ns, c.ID}, c)
		}
	}
}

func (m *Manager) bootOne(ctx context.Context, wg *sync.WaitGroup, k key, c containers.Container) {
	m.mu.Lock()
	_, pending := m.attempts[k]
	m.mu.Unlock()
	if pending || c.Labels[restartpolicy.LabelEngineBoots] == "true" {
		return
	}
	if _, err := m.cfg.Tasks.Get(ctx, k.id, ""); !errors.Is(err, errdefs.ErrNotFound) {
		return
	}
	if ok, _, err := wanted(c, 1); err != nil || !ok {
		return
	}
	r, err := m.invent(ctx, k, c)
	if err == nil {
		err = m.schedule(ctx, wg, k, intent{Request: *r})
	}
	if err != nil {
		ctxlog.From(ctx).Warn("container was not started at boot", ctxlog.Namespace, k.namespace, ctxlog.ContainerID, k.id, ctxlog.Error, err)
	}
}
