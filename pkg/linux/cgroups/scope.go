package cgroups

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Scopes starts transient scopes of systemd. The real one is
// pkg/linux/cgroups/systemd.Scopes; it is an interface so that a start without systemd
// links and runs no D-Bus.
type Scopes interface {
	// StartScope makes the scope with process pid in it and returns when systemd has
	// finished the job.
	StartScope(ctx context.Context, s Scope, pid int) error
}

// Scope is a transient scope with delegation.
type Scope struct {
	Name        string // "prefix-name.scope"
	Slice       string // "a-b.slice"
	Description string
	// The limits as systemd's properties: systemd writes them again at each reload,
	// and would undo what it does not know of. Zero means not set.
	MemoryMax    uint64 // bytes
	CPUWeight    uint64
	CPUQuota     time.Duration // of CPU time per second
	TasksMax     uint64
	AllowedCPUs  string
	AllowedNodes string
}

const scopeTimeout = 30 * time.Second

type scope struct {
	Scope
	scopes    Scopes
	slicePath string
	resources *specs.LinuxResources
}

// parseScope reads "slice:prefix:name".
func parseScope(opts Options) (*scope, error) {
	slice, prefix, name := "system.slice", "strata", opts.ID
	if opts.Path != "" {
		parts := strings.Split(opts.Path, ":")
		if len(parts) != 3 {
			return nil, fmt.Errorf("cgroup path %q is not of the form slice:prefix:name that the systemd driver needs: %w", opts.Path, errdefs.ErrInvalidArgument)
		}
		prefix, name = parts[1], parts[2]
		if parts[0] != "" {
			slice = parts[0]
		}
	}
	if name == "" || strings.Contains(prefix+name, "/") {
		return nil, fmt.Errorf("cgroup path %q: bad scope name: %w", opts.Path, errdefs.ErrInvalidArgument)
	}
	dir, err := expandSlice(slice)
	if err != nil {
		return nil, err
	}
	unit := name
	if !strings.HasSuffix(name, ".slice") {
		if prefix != "" {
			unit = prefix + "-" + name
		}
		unit += ".scope"
	}
	return &scope{Scope: Scope{Name: unit, Slice: slice, Description: "container " + name}, scopes: opts.Scopes, slicePath: dir}, nil
}

func (s *scope) path() string { return s.slicePath + "/" + s.Name }

// expandSlice turns the name of a slice to its path: "a-b.slice" → "/a.slice/a-b.slice".
//
// Source: systemd.slice(5).
func expandSlice(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("slice %q: %w", slice, errdefs.ErrInvalidArgument)
	}
	if name == "-" {
		return "", nil
	}
	var path, prefix strings.Builder
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", fmt.Errorf("slice %q has an empty part: %w", slice, errdefs.ErrInvalidArgument)
		}
		if prefix.Len() > 0 {
			prefix.WriteByte('-')
		}
		prefix.WriteString(part)
		path.WriteString("/" + prefix.String() + ".slice")
	}
	return path.String(), nil
}

// start makes the scope. systemd makes the directories that it knows of, and creates
// nothing in the v1 hierarchies that it does not manage; those Manager.create makes.
func (s *scope) start(ctx context.Context, m *Manager, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, scopeTimeout)
	defer cancel()
	if res := s.resources; res != nil {
		s.properties(res, m.isV2())
	}
	if err := s.scopes.StartScope(ctx, s.Scope, pid); err != nil {
		return fmt.Errorf("start scope %q: %w", s.Name, err)
	}
	return nil
}

func (s *scope) properties(res *specs.LinuxResources, v2 bool) {
	if res.Memory != nil && res.Memory.Limit != nil && *res.Memory.Limit > 0 {
		s.MemoryMax = uint64(*res.Memory.Limit)
	}
	if c := res.CPU; c != nil {
		if c.Shares != nil && v2 {
			s.CPUWeight = CPUWeight(*c.Shares)
		}
		if c.Quota != nil && *c.Quota > 0 {
			period := uint64(100000)
			if c.Period != nil && *c.Period != 0 {
				period = *c.Period
			}
			usec := (uint64(*c.Quota)*1000000 + period - 1) / period
			// systemd keeps whole per cents and would round a smaller step up.
			s.CPUQuota = time.Duration((usec+9999)/10000*10000) * time.Microsecond
		}
		if v2 {
			s.AllowedCPUs, s.AllowedNodes = c.Cpus, c.Mems
		}
	}
	if res.Pids != nil && res.Pids.Limit != nil && *res.Pids.Limit > 0 {
		s.TasksMax = uint64(*res.Pids.Limit)
	}
}
