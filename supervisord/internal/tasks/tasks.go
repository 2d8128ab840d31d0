package tasks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/linux/cgroups"
	"strata/pkg/linux/mount"
	"strata/pkg/namespaces"
	"strata/supervisord/internal/containers"
	"strata/supervisord/internal/events"
	"strata/supervisord/internal/shims"
)

// Containers is what the package needs of the container store.
type Containers interface {
	Get(ctx context.Context, containerID string) (containers.Container, error)
}

// Observer hears of each end of an init process, once. It must not block.
type Observer interface {
	Exited(e Exited)
}

// Exited is the end of an init process.
type Exited struct {
	Namespace string
	ID        string
	Exit      shims.Exit
	StartedAt time.Time
	Request   *Request // how the task was created; nil if that is not known any more
	Gone      bool     // the task has been removed already, because its shim died
}

// Request is the wish for a task. It is kept in the bundle as task.json, so that a
// restart can repeat it.
type Request struct {
	ID          string        `json:"id"`
	Rootfs      []mount.Mount `json:"rootfs,omitempty"`
	IO          shims.IO      `json:"io"`
	Options     *Options      `json:"options,omitempty"`
	RuntimePath string        `json:"runtimePath,omitempty"`
}

// Options are runtime options as they came.
type Options struct {
	TypeURL string `json:"typeURL"`
	Value   []byte `json:"value"`
}

func (o *Options) any() *anypb.Any {
	if o == nil {
		return nil
	}
	return &anypb.Any{TypeUrl: o.TypeURL, Value: o.Value}
}

// Config is what a Service works with.
type Config struct {
	Launcher   *shims.Launcher
	Containers Containers
	Events     *events.Broker
}

// Service keeps the table of tasks. Its methods are safe for concurrent use. Where a
// context is given, its namespace is the scope. Errors: ErrNotFound for an unknown task
// or process, ErrUnavailable for a shim that does not answer, and whatever class the
// shim's answer has.
type Service struct {
	cfg      Config
	observer Observer // set before Load

	wg      sync.WaitGroup // goroutines that Close waits for
	sampler sampler
	early   cgroups.Hastener

	mu       sync.Mutex
	tasks    map[key]*entry
	draining map[key]*entry // out of the table, holding their id
	told     map[told]time.Time
	closing  bool
}

type key struct{ namespace, id string }

// entry is a task in the table.
type entry struct {
	key
	ready chan struct{} // closed when shim, or err, is set
	gone  chan struct{} // closed when the task is over and its leftovers are removed

	mu       sync.Mutex
	shim     *shims.Shim
	err      error // why there is no shim
	pid      int
	request  *Request
	steps    []Step
	started  time.Time
	exit     *shims.Exit
	progress progress
}

// progress is what has been said and done about a task.
type progress struct {
	exitTold   bool          // /tasks/exit of init was published
	deleteTold bool          // /tasks/delete was published
	observed   bool          // the observer has heard of the exit
	deleting   bool          // Delete has begun: the end of the shim is expected
	deleted    chan struct{} // closed when deleteTold becomes true
}

// Step is a piece of work on the way to a running process.
type Step struct {
	Name     string
	Start    time.Time
	Duration time.Duration
}

// New returns a service with an empty table.
func New(cfg Config) *Service {
	return &Service{cfg: cfg, tasks: map[key]*entry{}, draining: map[key]*entry{}, told: map[told]time.Time{}}
}

// Observe sets who hears of exits. Call it before Load.
func (s *Service) Observe(o Observer) { s.observer = o }

// Close closes the connections; tasks and shims run on. It waits for removals under way.
func (s *Service) Close() {
	s.mu.Lock()
	s.closing = true
	all := make([]*entry, 0, len(s.tasks))
	for _, t := range s.tasks {
		all = append(all, t)
	}
	s.mu.Unlock()
	for _, t := range all {
		t.mu.Lock()
		shim := t.shim
		t.mu.Unlock()
		if shim != nil {
			shim.Close()
		}
	}
	s.wg.Wait()
	s.early.Wait()
}

func newEntry(k key) *entry {
	return &entry{key: k, ready: make(chan struct{}), gone: make(chan struct{}), progress: progress{deleted: make(chan struct{})}}
}

// reserve puts a new entry into the table. It waits for the end of a removal of the same
// id. ErrAlreadyExists if there is a task.
func (s *Service) reserve(ctx context.Context, k key) (*entry, error) {
	for {
		s.mu.Lock()
		_, exists := s.tasks[k]
		old := s.draining[k]
		if !exists && old == nil && !s.closing {
			t := newEntry(k)
			s.tasks[k] = t
			s.mu.Unlock()
			return t, nil
		}
		closing := s.closing
		s.mu.Unlock()
		switch {
		case closing:
			return nil, fmt.Errorf("supervisor is stopping: %w", errdefs.ErrUnavailable)
		case exists:
			return nil, fmt.Errorf("task %q: %w", k.id, errdefs.ErrAlreadyExists)
		}
		select {
		case <-old.gone:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the removal of the old task %q: %w", k.id, ctx.Err())
		}
	}
}

// find returns the task's entry with a shim to talk to.
func (s *Service) find(ctx context.Context, id string) (*entry, *shims.Shim, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	t := s.tasks[key{ns, id}]
	s.mu.Unlock()
	if t == nil {
		return nil, nil, fmt.Errorf("task %q: %w", id, errdefs.ErrNotFound)
	}
	shim, err := t.await(ctx)
	return t, shim, err
}

// await waits until the task is created or loaded.
func (t *entry) await(ctx context.Context) (*shims.Shim, error) {
	select {
	case <-t.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for task %q: %w", t.id, ctx.Err())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shim == nil {
		if t.err != nil {
			return nil, fmt.Errorf("task %q: %w", t.id, t.err)
		}
		return nil, fmt.Errorf("task %q: %w", t.id, errdefs.ErrNotFound)
	}
	return t.shim, nil
}

// entries returns the tasks of a namespace, or of all with "".
func (s *Service) entries(namespace string) []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*entry, 0, len(s.tasks))
	for k, t := range s.tasks {
		if namespace == "" || k.namespace == namespace {
			out = append(out, t)
		}
	}
	return out
}

// retire moves an entry out of the table, to those that hold their id until they are
// gone. It reports false if somebody else did.
func (s *Service) retire(t *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tasks[t.key] != t {
		return false
	}
	delete(s.tasks, t.key)
	s.draining[t.key] = t
	return true
}

// finish frees the id of a retired entry.
func (s *Service) finish(t *entry) {
	s.mu.Lock()
	if s.draining[t.key] == t {
		delete(s.draining, t.key)
	}
	s.mu.Unlock()
	close(t.gone)
}

// spawn runs fn in a goroutine that Close waits for. It reports false, and does not run
// it, if the service is closing.
func (s *Service) spawn(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.wg.Go(fn)
	return true
}

func (s *Service) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// isUnavailable reports whether err means that the connection to a shim is lost.
func isUnavailable(err error) bool { return errors.Is(err, errdefs.ErrUnavailable) }
