package containers

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"strata/engined/internal/filters"
)

// ListFilters are the filter keys of List.
var ListFilters = []string{
	"ancestor", "before", "since", "exited", "expose", "publish", "health", "id", "is-task", "isolation", "label", "label!", "name", "network", "status", "volume",
}

// ListRequest says which containers to list.
type ListRequest struct {
	All     bool // those that do not run too
	Limit   int  // the newest so many, running or not; zero: no limit
	Filters filters.Args
	// ImageIDs are the ids of the images that the "ancestor" filter names.
	ImageIDs func(ref string) []string
}

// List returns the containers that match, the newest first.
func (s *Service) List(r ListRequest) ([]*Container, error) {
	m, err := s.matcher(r)
	if err != nil {
		return nil, err
	}
	all := s.All()
	slices.SortFunc(all, func(a, b *Container) int {
		return b.Definition().Created.Compare(a.Definition().Created)
	})
	var out []*Container
	for _, c := range all {
		if !m(c) {
			continue
		}
		out = append(out, c)
		if r.Limit > 0 && len(out) == r.Limit {
			break
		}
	}
	return out, nil
}

type matcher func(c *Container) bool

// matcher compiles a request into a predicate. Errors are of class ErrInvalidArgument.
func (s *Service) matcher(r ListRequest) (matcher, error) {
	f := r.Filters
	if err := checkFilters(f); err != nil {
		return nil, err
	}
	isTask, err := f.Bool("is-task", false)
	if err != nil {
		return nil, err
	}
	ms := []matcher{func(*Container) bool { return !isTask || !f.Has("is-task") }}
	if !r.All && r.Limit <= 0 && !f.Has("status") && !f.Has("exited") && !f.Has("before") && !f.Has("since") {
		ms = append(ms, func(c *Container) bool { return c.State().Status.Alive() })
	}
	ms = append(
		ms,
		func(c *Container) bool { return f.Labels(c.Definition().Config.Labels) },
		func(c *Container) bool { return f.Exact("status", c.State().Status.String()) },
		func(c *Container) bool { return matchID(f, c.ID) },
		func(c *Container) bool { return matchName(f, c.Definition().Name) },
		func(c *Container) bool { return matchExited(f, c.State()) },
		func(c *Container) bool { return f.Exact("health", string(healthStatus(c))) },
		func(c *Container) bool {
			return f.Exact("isolation", string(c.Definition().Host.Isolation)) || f.Exact("isolation", "default")
		},
		func(c *Container) bool { return matchVolume(f, c) },
		func(c *Container) bool { return matchNetwork(f, c) },
		func(c *Container) bool { return matchPorts(f["expose"], exposedPorts(c)) },
		func(c *Container) bool { return !f.Has("publish") || matchPorts(f["publish"], s.publishedPorts(c)) },
	)
	more, err := s.relative(r)
	if err != nil {
		return nil, err
	}
	ms = append(ms, more...)
	return func(c *Container) bool {
		return !slices.ContainsFunc(ms, func(m matcher) bool { return !m(c) })
	}, nil
}

func checkFilters(f filters.Args) error {
	for _, v := range f["status"] {
		if err := container.ValidateContainerState(container.ContainerState(v)); err != nil {
			return invalid("%v", err)
		}
	}
	for _, v := range f["health"] {
		if err := container.ValidateHealthStatus(container.HealthStatus(v)); err != nil {
			return invalid("%v", err)
		}
	}
	for _, v := range f["exited"] {
		if _, err := strconv.Atoi(v); err != nil {
			return invalid("invalid filter 'exited=%s'", v)
		}
	}
	for _, key := range []string{"expose", "publish"} {
		for _, v := range f[key] {
			if _, err := network.ParsePortRange(v); err != nil {
				return invalid("invalid filter '%s=%s'", key, v)
			}
		}
	}
	return nil
}

// relative are the filters that refer to other containers and to images.
func (s *Service) relative(r ListRequest) ([]matcher, error) {
	var ms []matcher
	for _, key := range []string{"before", "since"} {
		for _, ref := range r.Filters[key] {
			other, err := s.Get(ref)
			if err != nil {
				return nil, err
			}
			at := other.Definition().Created
			if key == "before" {
				ms = append(ms, func(c *Container) bool { return c.Definition().Created.Before(at) })
			} else {
				ms = append(ms, func(c *Container) bool { return c.Definition().Created.After(at) })
			}
		}
	}
	if r.Filters.Has("ancestor") {
		var ids []string
		for _, ref := range r.Filters["ancestor"] {
			ids = append(ids, ref)
			if r.ImageIDs != nil {
				ids = append(ids, r.ImageIDs(ref)...)
			}
		}
		ms = append(ms, func(c *Container) bool {
			d := c.Definition()
			return slices.Contains(ids, d.Image.ID.String()) || slices.Contains(ids, d.Config.Image)
		})
	}
	return ms, nil
}

func matchID(f filters.Args, id string) bool {
	return !f.Has("id") || slices.ContainsFunc(f["id"], func(want string) bool { return strings.HasPrefix(id, want) })
}

// matchName takes a name with and without its slash, as patterns may be anchored to
// either.
func matchName(f filters.Args, name string) bool {
	return f.Match("name", name) || f.Match("name", "/"+name)
}

func matchExited(f filters.Args, st State) bool {
	if !f.Has("exited") {
		return true
	}
	return !st.Status.Alive() && st.HasStarted && slices.Contains(f["exited"], strconv.Itoa(st.ExitCode))
}

func healthStatus(c *Container) container.HealthStatus {
	if h := c.Health(); h != nil {
		return h.Status
	}
	return container.NoHealthcheck
}

func matchVolume(f filters.Args, c *Container) bool {
	if !f.Has("volume") {
		return true
	}
	for _, m := range c.Definition().Mounts {
		for _, v := range []string{m.Name, m.Destination, m.Source} {
			if v != "" && slices.Contains(f["volume"], v) {
				return true
			}
		}
	}
	return false
}

func matchNetwork(f filters.Args, c *Container) bool {
	if !f.Has("network") {
		return true
	}
	for name, ep := range c.Definition().Endpoints {
		for _, want := range f["network"] {
			if want == name || ep != nil && ep.NetworkID != "" && strings.HasPrefix(ep.NetworkID, want) {
				return true
			}
		}
	}
	return false
}

func exposedPorts(c *Container) []network.Port {
	var out []network.Port
	for p := range c.Definition().Config.ExposedPorts {
		out = append(out, p)
	}
	for p := range c.Definition().Host.PortBindings {
		out = append(out, p)
	}
	return out
}

// publishedPorts returns the host's ports that lead to a container which runs.
func (s *Service) publishedPorts(c *Container) []network.Port {
	sb, ok := s.Networks.Sandbox(c.ID)
	if !ok {
		return nil
	}
	var out []network.Port
	for _, m := range sb.Ports {
		if p, ok := network.PortFrom(m.HostPort, network.IPProtocol(m.Proto)); ok {
			out = append(out, p)
		}
	}
	return out
}

func matchPorts(ranges []string, ports []network.Port) bool {
	if len(ranges) == 0 {
		return true
	}
	for _, text := range ranges {
		r, err := network.ParsePortRange(text)
		if err != nil {
			continue // checkFilters has seen it
		}
		for _, p := range ports {
			if p.Proto() == r.Proto() && p.Num() >= r.Start() && p.Num() <= r.End() {
				return true
			}
		}
	}
	return false
}

// Sizes returns the bytes of a container's own layer, and of its whole root filesystem.
func (s *Service) Sizes(ctx context.Context, c *Container) (rw, rootfs int64, err error) {
	d := c.Definition()
	if rw, err = s.Records.RootfsUsage(ctx, d.Image.Snapshotter, c.ID); err != nil {
		return 0, 0, err
	}
	below, err := s.Records.ChainUsage(ctx, d.Image.Snapshotter, d.Image.ChainID.String())
	return rw, rw + below, err
}

// Counts are how many containers there are, by what they do.
type Counts struct{ Total, Running, Paused, Stopped int }

// Count returns the counts now.
func (s *Service) Count() Counts {
	var n Counts
	for _, c := range s.All() {
		n.Total++
		switch c.State().Status {
		case Running, Restarting:
			n.Running++
		case Paused:
			n.Paused++
		default:
			n.Stopped++
		}
	}
	return n
}
