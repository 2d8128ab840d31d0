package restart

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/linux/mount"
	"strata/pkg/restartpolicy"
	"strata/supervisord/internal/containers"
	"strata/supervisord/internal/shims"
	"strata/supervisord/internal/tasks"
)

// world is a container store and a task service in memory.
type world struct {
	mu      sync.Mutex
	records map[string]containers.Container
	tasks   map[string]shims.State
	pid     int
	created []tasks.Request
	started []time.Time
	fail    error // what Create returns
}

func newWorld() *world {
	return &world{records: map[string]containers.Container{}, tasks: map[string]shims.State{}, pid: 100}
}

func missing(id string) error { return fmt.Errorf("%q: %w", id, errdefs.ErrNotFound) }

func (w *world) Get(_ context.Context, id string) (containers.Container, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.records[id]
	if !ok {
		return c, missing(id)
	}
	c.Labels = maps.Clone(c.Labels)
	return c, nil
}

func (w *world) List(context.Context, ...string) ([]containers.Container, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []containers.Container
	for _, c := range w.records {
		if c.Labels[restartpolicy.LabelStatus] == "running" {
			out = append(out, c)
		}
	}
	return out, nil
}

func (w *world) Update(_ context.Context, c containers.Container, _ ...string) (containers.Container, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(w.records[c.ID].Labels, c.Labels)
	return w.records[c.ID], nil
}

// taskSide is the other interface of world, whose Get has another signature.
type taskSide struct{ *world }

func (w taskSide) Create(_ context.Context, r tasks.Request) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return 0, w.fail
	}
	if _, ok := w.tasks[r.ID]; ok {
		return 0, fmt.Errorf("%q: %w", r.ID, errdefs.ErrAlreadyExists)
	}
	w.pid++
	w.tasks[r.ID] = shims.State{PID: w.pid, Status: shims.StatusCreated}
	w.created = append(w.created, r)
	return w.pid, nil
}

func (w taskSide) Start(_ context.Context, id, _ string) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.tasks[id]
	t.Status = shims.StatusRunning
	w.tasks[id] = t
	w.started = append(w.started, time.Now())
	return t.PID, nil
}

func (w taskSide) Delete(_ context.Context, id string) (shims.Exit, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, ok := w.tasks[id]
	if !ok {
		return shims.Exit{}, missing(id)
	}
	delete(w.tasks, id)
	return t.Exit, nil
}

func (w taskSide) Get(_ context.Context, id, _ string) (tasks.Task, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, ok := w.tasks[id]
	if !ok {
		return tasks.Task{}, missing(id)
	}
	return tasks.Task{ContainerID: id, State: t}, nil
}

// add makes a container whose task has just ended with code.
func (w *world) add(id, policy string, code uint32, labels ...string) tasks.Exited {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := map[string]string{restartpolicy.LabelPolicy: policy, restartpolicy.LabelStatus: "running"}
	for i := 0; i < len(labels); i += 2 {
		l[labels[i]] = labels[i+1]
	}
	w.records[id] = containers.Container{ID: id, Labels: l}
	return w.endLocked(id, code)
}

func (w *world) endLocked(id string, code uint32) tasks.Exited {
	pid := w.tasks[id].PID
	if pid == 0 {
		w.pid++
		pid = w.pid
	}
	exit := shims.Exit{PID: pid, Status: code, At: time.Now()}
	w.tasks[id] = shims.State{PID: pid, Status: shims.StatusStopped, Exit: exit}
	return tasks.Exited{
		Namespace: "n", ID: id, Exit: exit, StartedAt: time.Now(),
		Request: &tasks.Request{ID: id, IO: shims.IO{Stdout: "strata:///log"}, Rootfs: []mount.Mount{{Type: "bind", Source: "/x"}}},
	}
}

func (w *world) end(id string, code uint32) tasks.Exited {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.endLocked(id, code)
}

func (w *world) starts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.started)
}

func (w *world) label(id, key string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.records[id].Labels[key]
}

func (w *world) setLabel(id, key, value string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.records[id].Labels[key] = value
}

func manager(t *testing.T, w *world, state string) (*Manager, func()) {
	t.Helper()
	m := New(Config{
		State: state, Containers: w, Tasks: taskSide{w},
		Mounts:     func(context.Context, string, string) ([]mount.Mount, error) { return nil, nil },
		Namespaces: func(context.Context) ([]string, error) { return []string{"n"}, nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
	}()
	return m, func() { cancel(); <-done }
}

func TestPolicyDecides(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy string
		code   uint32
		labels []string
		starts int
	}{
		{"always starts again", "always", 0, nil, 1},
		{"no does not", "no", 1, nil, 0},
		{"on-failure leaves success alone", "on-failure", 0, nil, 0},
		{"on-failure starts again", "on-failure:3", 1, nil, 1},
		{"on-failure at its limit", "on-failure:3", 1, []string{restartpolicy.LabelCount, "3"}, 0},
		{"stopped by hand", "always", 1, []string{restartpolicy.LabelExplicitlyStopped, "true"}, 0},
		{"wanted stopped", "always", 1, []string{restartpolicy.LabelStatus, "stopped"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				m, stop := manager(t, w, t.TempDir())
				defer stop()
				m.Exited(w.add("c", tt.policy, tt.code, tt.labels...))
				time.Sleep(5 * time.Second)
				if got := w.starts(); got != tt.starts {
					t.Fatalf("%d starts, want %d", got, tt.starts)
				}
				if tt.starts == 0 {
					return
				}
				if r := w.created[0]; r.IO.Stdout != "strata:///log" || len(r.Rootfs) != 1 {
					t.Errorf("created with %+v, want the old request", r)
				}
				if got := w.label("c", restartpolicy.LabelCount); got != "1" {
					t.Errorf("count = %q, want 1", got)
				}
			})
		})
	}
}

func TestDelayDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		m, stop := manager(t, w, t.TempDir())
		defer stop()
		began := time.Now()
		m.Exited(w.add("c", "always", 1))
		var total time.Duration
		for i, delay := range []time.Duration{100, 200, 400, 800} {
			total += delay * time.Millisecond
			time.Sleep(time.Until(began.Add(total + time.Millisecond)))
			if got := w.starts(); got != i+1 {
				t.Fatalf("after %v: %d starts, want %d", total, got, i+1)
			}
			total += time.Millisecond
			m.Exited(w.end("c", 1))
		}
	})
}

func TestRestartIsCalledOff(t *testing.T) {
	for name, change := range map[string]func(*world){
		"by a label": func(w *world) { w.setLabel("c", restartpolicy.LabelExplicitlyStopped, "true") },
		"by the removal of the container": func(w *world) {
			w.mu.Lock()
			defer w.mu.Unlock()
			delete(w.records, "c")
			delete(w.tasks, "c")
		},
		"by somebody else's start": func(w *world) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.tasks["c"] = shims.State{PID: 4711, Status: shims.StatusRunning}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				state := t.TempDir()
				m, stop := manager(t, w, state)
				defer stop()
				m.Exited(w.add("c", "always", 1))
				time.Sleep(50 * time.Millisecond)
				if _, err := os.Stat(filepath.Join(state, "n", "c.json")); err != nil {
					t.Errorf("intent: %v", err)
				}
				change(w)
				time.Sleep(time.Minute)
				if got := w.starts(); got != 0 {
					t.Errorf("%d starts, want none", got)
				}
				if _, err := os.Stat(filepath.Join(state, "n", "c.json")); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("intent after it was called off: %v", err)
				}
			})
		})
	}
}

func TestFailedStartIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.fail = errors.New("no")
		m, stop := manager(t, w, t.TempDir())
		defer stop()
		m.Exited(w.add("c", "always", 1))
		time.Sleep(time.Second)
		w.mu.Lock()
		w.fail = nil
		w.mu.Unlock()
		time.Sleep(2 * time.Second)
		if got := w.starts(); got != 1 {
			t.Errorf("%d starts, want 1", got)
		}
	})
}

func TestIntentSurvivesTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		state := t.TempDir()
		m, stop := manager(t, w, state)
		m.Exited(w.add("c", "always", 1, restartpolicy.LabelEngineBoots, "true"))
		time.Sleep(50 * time.Millisecond)
		stop()
		// The worst moment: the old task is deleted, the new one not yet made.
		w.mu.Lock()
		delete(w.tasks, "c")
		w.mu.Unlock()
		_, stop = manager(t, w, state)
		defer stop()
		time.Sleep(time.Second)
		if got := w.starts(); got != 1 || w.created[0].IO.Stdout != "strata:///log" {
			t.Errorf("%d starts with %+v, want 1 with the old request", got, w.created)
		}
	})
}

func TestBootStartsWhatIsLeftToIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		for id, labels := range map[string][]string{
			"mine":    {restartpolicy.LabelLogURI, "file:///log"},
			"engines": {restartpolicy.LabelEngineBoots, "true"},
			"stopped": {restartpolicy.LabelStatus, "stopped"},
		} {
			w.add(id, "unless-stopped", 0, labels...)
			delete(w.tasks, id)
		}
		_, stop := manager(t, w, t.TempDir())
		defer stop()
		time.Sleep(time.Second)
		if len(w.created) != 1 || w.created[0].ID != "mine" || w.created[0].IO.Stdout != "file:///log" {
			t.Errorf("created %+v, want mine with its log", w.created)
		}
	})
}
