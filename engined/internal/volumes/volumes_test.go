package volumes

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"strata/engined/internal/events"
	"strata/pkg/metadb"
)

// TestMain runs the tests in a mount namespace of their own.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv("STRATA_VOLUMES_LAB") != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "STRATA_VOLUMES_LAB=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		panic(err)
	}
}

type recorder struct {
	mu  sync.Mutex
	all []string
}

func (r *recorder) Publish(e events.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e.Action)
}

type lab struct {
	*Manager
	t   *testing.T
	dir string
	db  *bolt.DB
	log recorder
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir()}
	l.open()
	t.Cleanup(func() { _ = l.db.Close() })
	return l
}

func (l *lab) open() {
	l.t.Helper()
	db, err := metadb.Open(filepath.Join(l.dir, "engine.db"))
	if err != nil {
		l.t.Fatal(err)
	}
	m, err := New(db, l.dir, &l.log)
	if err != nil {
		l.t.Fatal(err)
	}
	l.Manager, l.db = m, db
}

func (l *lab) restart() {
	l.t.Helper()
	if err := l.db.Close(); err != nil {
		l.t.Fatal(err)
	}
	l.open()
}

func (l *lab) volume(r CreateRequest) Volume {
	l.t.Helper()
	v, err := l.Create(l.t.Context(), r)
	if err != nil {
		l.t.Fatal(err)
	}
	return v
}

func TestVolumeLivesUntilItIsRemoved(t *testing.T) {
	l := newLab(t)
	v := l.volume(CreateRequest{Name: "data", Labels: map[string]string{"a": "b"}})
	if err := os.WriteFile(filepath.Join(v.Mountpoint, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.restart()
	got, err := l.Get("data")
	if err != nil || got.Labels["a"] != "b" || got.Mountpoint != v.Mountpoint {
		t.Errorf("Get after a restart = %+v, %v", got, err)
	}
	if again := l.volume(CreateRequest{Name: "data"}); again.Labels["a"] != "b" {
		t.Errorf("second Create = %+v, want the first volume", again)
	}
	if err := l.Remove(t.Context(), "data", false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(v.Mountpoint)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
	if err := l.Remove(t.Context(), "data", false); !errors.Is(err, errdefs.ErrNotFound) || !strings.HasPrefix(err.Error(), "get data: no such volume") {
		t.Errorf("second Remove = %v", err)
	}
	if err := l.Remove(t.Context(), "data", true); err != nil {
		t.Errorf("Remove by force of a missing volume = %v", err)
	}
}

func TestCreateRefusesWhatCannotBe(t *testing.T) {
	l := newLab(t)
	l.volume(CreateRequest{Name: "taken"})
	tests := []struct {
		name    string
		request CreateRequest
		class   error
		text    string
	}{
		{"a path", CreateRequest{Name: "../x"}, errdefs.ErrInvalidArgument, "includes invalid characters"},
		{"a leading dot", CreateRequest{Name: ".removing-x"}, errdefs.ErrInvalidArgument, "includes invalid characters"},
		{"one letter", CreateRequest{Name: "x"}, errdefs.ErrInvalidArgument, "too short"},
		{"unknown driver", CreateRequest{Name: "xx", Driver: "flocker"}, errdefs.ErrNotFound, "flocker"},
		{"unknown option", CreateRequest{Name: "xx", Options: map[string]string{"foo": "1"}}, errdefs.ErrInvalidArgument, `invalid option: "foo"`},
		{"half a mount", CreateRequest{Name: "xx", Options: map[string]string{"type": "tmpfs"}}, errdefs.ErrInvalidArgument, `missing required option: "device"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := l.Create(t.Context(), tt.request); !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Create = %v, want class %v and %q", err, tt.class, tt.text)
			}
		})
	}
	if vs := l.List(); len(vs) != 1 {
		t.Errorf("List = %v, want only the good one", vs)
	}
}

func TestVolumeInUseIsNotRemoved(t *testing.T) {
	l := newLab(t)
	if _, err := l.Refer(t.Context(), "data", "c1"); err != nil {
		t.Fatal(err)
	}
	anonymous := l.volume(CreateRequest{})
	if _, err := l.Refer(t.Context(), anonymous.Name, "c1"); err != nil {
		t.Fatal(err)
	}
	l.restart()
	err := l.Remove(t.Context(), "data", true)
	if !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), "remove data: volume is in use - [c1]") {
		t.Errorf("Remove = %v, want a conflict that names the container", err)
	}
	if names, _, err := l.Prune(t.Context(), func(Volume) bool { return true }); err != nil || len(names) != 0 {
		t.Errorf("Prune = %v, %v, want nothing", names, err)
	}
	orphans, err := l.Forget(t.Context(), "c1")
	if err != nil || !slices.Equal(orphans, []string{anonymous.Name}) {
		t.Errorf("Forget = %v, %v, want the anonymous volume", orphans, err)
	}
	data, err := l.Get("data")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data.Mountpoint, "f"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	names, freed, err := l.Prune(t.Context(), func(Volume) bool { return true })
	if err != nil || len(names) != 2 || freed != 1000 {
		t.Errorf("Prune = %v, %d, %v, want both and 1000 bytes", names, freed, err)
	}
}

func TestFreshVolumeIsFreshUntilItHoldsSomething(t *testing.T) {
	l := newLab(t)
	l.volume(CreateRequest{Name: "data"})
	path, fresh, err := l.Acquire(t.Context(), "data", "c1")
	if err != nil || !fresh {
		t.Fatalf("Acquire = %q, %v, %v", path, fresh, err)
	}
	if err := os.Mkdir(filepath.Join(path, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, fresh, err := l.Acquire(t.Context(), "data", "c2"); err != nil || fresh {
		t.Errorf("second Acquire: fresh = %v, %v", fresh, err)
	}
	if err := l.Remove(t.Context(), "data", false); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("Remove of a volume in use = %v", err)
	}
	for _, c := range []string{"c1", "c2", "c2"} {
		if err := l.Release(t.Context(), c); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"create", "mount", "mount", "unmount", "unmount"}; !slices.Equal(l.log.all, want) {
		t.Errorf("events = %v, want %v", l.log.all, want)
	}
}

func TestMountedVolumeIsMountedWhileInUseAcrossARestart(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a tmpfs")
	}
	l := newLab(t)
	source := t.TempDir()
	for name, options := range map[string]map[string]string{
		"ram":  {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=0700"},
		"bind": {"type": "none", "device": source, "o": "bind"},
	} {
		t.Run(name, func(t *testing.T) {
			l.volume(CreateRequest{Name: name, Options: options})
			on := func() bool {
				v, _ := l.Get(name)
				on, err := mounted(v.Mountpoint)
				if err != nil {
					t.Fatal(err)
				}
				return on
			}
			for _, c := range []string{"c1", "c2"} {
				if _, err := l.Refer(t.Context(), name, c); err != nil {
					t.Fatal(err)
				}
				if _, _, err := l.Acquire(t.Context(), name, c); err != nil {
					t.Fatal(err)
				}
			}
			l.restart()
			if err := l.Release(t.Context(), "c1"); err != nil || !on() {
				t.Errorf("Release of the first user: %v, mounted: %v", err, on())
			}
			if err := l.Release(t.Context(), "c2"); err != nil || on() {
				t.Errorf("Release of the last user: %v, mounted: %v", err, on())
			}
		})
	}
}

// TestRemovalIsDoneOrUndoneAfterACrash stops a removal after each of its steps.
func TestRemovalIsDoneOrUndoneAfterACrash(t *testing.T) {
	for _, recordGone := range []bool{false, true} {
		l := newLab(t)
		v := l.volume(CreateRequest{Name: "data"})
		if err := os.WriteFile(filepath.Join(v.Mountpoint, "f"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		trash := filepath.Join(l.dir, "volumes", removing+"data@0")
		if err := os.Rename(filepath.Dir(v.Mountpoint), trash); err != nil {
			t.Fatal(err)
		}
		if recordGone {
			if err := l.records.Delete("data"); err != nil {
				t.Fatal(err)
			}
		}
		l.restart()
		_, err := os.Stat(filepath.Join(v.Mountpoint, "f"))
		_, gone := l.Get("data")
		if (err != nil) != recordGone || (gone != nil) != recordGone {
			t.Errorf("record gone: %v: file: %v, volume: %v", recordGone, err, gone)
		}
		if _, err := os.Stat(trash); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("record gone: %v: left behind: %v", recordGone, err)
		}
	}
}

func TestReadersDoNotWaitForAChange(t *testing.T) {
	l := newLab(t)
	l.volume(CreateRequest{Name: "data"})
	l.change.Lock()
	defer l.change.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = l.Get("data")
		_ = l.List()
		_ = l.Users("data")
	}()
	select {
	case <-done:
	case <-func() <-chan struct{} {
		ctx, cancel := context.WithTimeout(t.Context(), 5e9)
		t.Cleanup(cancel)
		return ctx.Done()
	}():
		t.Error("a reader waits for the lock of changes")
	}
}

func TestRetainDropsReferencesOfContainersThatNeverWere(t *testing.T) {
	l := newLab(t)
	anonymous := l.volume(CreateRequest{})
	for id, name := range map[string]string{"real": "data", "ghost": anonymous.Name} {
		if _, err := l.Refer(t.Context(), name, id); err != nil {
			t.Fatal(err)
		}
	}
	l.restart()
	orphans, err := l.Retain(func(id string) bool { return id == "real" })
	if err != nil || !slices.Equal(orphans, []string{anonymous.Name}) {
		t.Errorf("Retain = %v, %v, want the ghost's anonymous volume", orphans, err)
	}
	if got := l.Users("data"); !slices.Equal(got, []string{"real"}) {
		t.Errorf("Users = %v, want the real container", got)
	}
}
