package containers

import (
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"strata/engined/internal/filters"
	"strata/engined/internal/store"
)

// serviceWith returns a service with containers that need no other room.
func serviceWith(t *testing.T, cs ...*Container) *Service {
	t.Helper()
	s := &Service{byID: map[string]*Container{}, names: map[string]string{}}
	for _, c := range cs {
		s.byID[c.ID] = c
		s.names[c.Definition().Name] = c.ID
	}
	return s
}

func made(id, name string, age time.Duration, st State, edit func(*store.Definition)) *Container {
	d := &store.Definition{ID: id, Name: name, Created: time.Unix(1e9, 0).Add(-age), Config: &container.Config{Image: "busybox"}, Host: &container.HostConfig{NetworkMode: "bridge"}}
	if edit != nil {
		edit(d)
	}
	return newContainer(d, st)
}

func TestListFilters(t *testing.T) {
	s := serviceWith(
		t,
		made("aaa1", "web", time.Hour, State{Status: Running, HasStarted: true}, func(d *store.Definition) {
			d.Config.Labels = map[string]string{"tier": "front"}
			d.Host.PortBindings = network.PortMap{network.MustParsePort("80/tcp"): nil}
			d.Endpoints = map[string]*network.EndpointSettings{"net1": {NetworkID: "feed"}}
		}),
		made("bbb1", "db", 2*time.Hour, State{Status: Exited, ExitCode: 3, HasStarted: true}, func(d *store.Definition) {
			d.Mounts = []store.Mount{{Type: "volume", Name: "data", Destination: "/data"}}
		}),
		made("ccc1", "new", 0, State{Status: Created}, func(d *store.Definition) { d.Config.Image = "other" }),
		made("ddd1", "held", 3*time.Hour, State{Status: Paused, HasStarted: true}, nil),
	)
	for _, tt := range []struct {
		name string
		req  ListRequest
		want []string
	}{
		{"running ones without all", ListRequest{}, []string{"web", "held"}},
		{"the newest first with all", ListRequest{All: true}, []string{"new", "web", "db", "held"}},
		{"limit counts every status", ListRequest{Limit: 2}, []string{"new", "web"}},
		{"status implies all", ListRequest{Filters: filters.Args{"status": {"exited", "created"}}}, []string{"new", "db"}},
		{"exited by code", ListRequest{Filters: filters.Args{"exited": {"3"}}}, []string{"db"}},
		{"name is a pattern", ListRequest{All: true, Filters: filters.Args{"name": {"^/?w"}}}, []string{"web"}},
		{"id is a prefix", ListRequest{All: true, Filters: filters.Args{"id": {"bb"}}}, []string{"db"}},
		{"label", ListRequest{All: true, Filters: filters.Args{"label": {"tier=front"}}}, []string{"web"}},
		{"volume by destination", ListRequest{All: true, Filters: filters.Args{"volume": {"/data"}}}, []string{"db"}},
		{"network by id", ListRequest{All: true, Filters: filters.Args{"network": {"feed"}}}, []string{"web"}},
		{"ancestor", ListRequest{All: true, Filters: filters.Args{"ancestor": {"other"}}}, []string{"new"}},
		{"before", ListRequest{Filters: filters.Args{"before": {"web"}}}, []string{"db", "held"}},
		{"since", ListRequest{Filters: filters.Args{"since": {"db"}}}, []string{"new", "web"}},
		{"health", ListRequest{All: true, Filters: filters.Args{"health": {"healthy"}}}, nil},
		{"is-task", ListRequest{All: true, Filters: filters.Args{"is-task": {"true"}}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := s.List(tt.req)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, c := range got {
				names = append(names, c.Definition().Name)
			}
			if !slices.Equal(names, tt.want) {
				t.Errorf("List = %v, want %v", names, tt.want)
			}
		})
	}
	for _, f := range []filters.Args{{"status": {"well"}}, {"exited": {"x"}}, {"health": {"fit"}}, {"publish": {"x"}}} {
		if _, err := s.List(ListRequest{Filters: f}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("List(%v) = %v, want class ErrInvalidArgument", f, err)
		}
	}
}

func TestGetTakesIDsNamesAndPrefixes(t *testing.T) {
	s := serviceWith(t, made("abc1", "web", 0, State{}, nil), made("abd1", "db", 0, State{}, nil))
	for ref, want := range map[string]string{"abc1": "abc1", "web": "abc1", "/web": "abc1", "abd": "abd1"} {
		if c, err := s.Get(ref); err != nil || c.ID != want {
			t.Errorf("Get(%q) = %v, %v; want %s", ref, c, err, want)
		}
	}
	if _, err := s.Get("ab"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Get of an ambiguous prefix = %v, want class ErrInvalidArgument", err)
	}
	if _, err := s.Get("zz"); !errdefs.IsNotFound(err) {
		t.Errorf("Get of nothing = %v, want class ErrNotFound", err)
	}
}

func TestWaitConditions(t *testing.T) {
	ctx := t.Context()
	c := made("abc1", "web", 0, State{Status: Exited, ExitCode: 4}, nil)
	s := serviceWith(t, c)
	stopped, err := s.Wait("web", "")
	if err != nil {
		t.Fatal(err)
	}
	if e, err := stopped(ctx); err != nil || e.Code != 4 {
		t.Errorf("not-running of a stopped container = %v, %v; want 4 at once", e, err)
	}
	nextExit, err := s.Wait("web", container.WaitConditionNextExit)
	if err != nil {
		t.Fatal(err)
	}
	removed, err := s.Wait("web", container.WaitConditionRemoved)
	if err != nil {
		t.Fatal(err)
	}
	c.notifyExit(Exit{Code: 5})
	if e, err := nextExit(ctx); err != nil || e.Code != 5 {
		t.Errorf("next-exit = %v, %v; want 5", e, err)
	}
	c.notifyRemoved()
	if e, err := removed(ctx); err != nil || e.Code != 5 {
		t.Errorf("removed = %v, %v; want the last exit code 5", e, err)
	}
	if _, err := s.Wait("web", "zzz"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Wait(zzz) = %v, want class ErrInvalidArgument", err)
	}
}
