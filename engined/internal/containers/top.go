package containers

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"strata/engined/internal/stats"
	"strata/pkg/api"
)

// Top lists the processes of a running container with the host's ps(1).
func (s *Service) Top(ctx context.Context, ref, args string) (titles []string, processes [][]string, err error) {
	c, err := s.Get(ref)
	if err != nil {
		return nil, nil, err
	}
	if st := c.State(); st.Status == Restarting {
		return nil, nil, fmt.Errorf("container %s is restarting, wait until the container is running: %w", c.ID, errdefs.ErrConflict)
	} else if !st.Status.HasTask() {
		return nil, nil, c.notRunning()
	}
	if args == "" {
		args = "-ef"
	}
	pids, err := s.Tasks.TaskPIDs(ctx, c.ID)
	if err != nil {
		return nil, nil, err
	}
	out, err := ps(ctx, strings.Fields(args), pids)
	if err != nil {
		return nil, nil, err
	}
	titles, processes, err = parsePS(out, pids)
	if err == nil {
		s.publish(c, "top")
	}
	return titles, processes, err
}

func ps(ctx context.Context, args []string, pids []int) (string, error) {
	list := make([]string, 0, len(pids))
	for _, p := range pids {
		list = append(list, strconv.Itoa(p))
	}
	// -q lets ps skip every other process; BusyBox and old versions do not know it.
	quick := append(slices.Clone(args), "-q"+strings.Join(list, ","))
	out, err := exec.CommandContext(ctx, "ps", quick...).Output() //nolint:gosec // arguments, never a shell
	if err != nil {
		out, err = exec.CommandContext(ctx, "ps", args...).Output() //nolint:gosec // arguments, never a shell
	}
	if err == nil {
		return string(out), nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		line, _, _ := strings.Cut(string(exit.Stderr), "\n")
		return "", fmt.Errorf("ps: %s: %w", line, errdefs.ErrInvalidArgument)
	}
	return "", fmt.Errorf("ps: %w", err)
}

// parsePS splits the output of ps into rows of the container's processes.
func parsePS(out string, pids []int) (titles []string, rows [][]string, err error) {
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	titles = strings.Fields(lines[0])
	col := slices.Index(titles, "PID")
	if col < 0 {
		return nil, nil, fmt.Errorf("Couldn't find PID field in ps output: %w", errdefs.ErrInvalidArgument) //nolint:staticcheck // dockerd's words
	}
	rows = [][]string{}
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) <= col {
			continue
		}
		pid, err := strconv.Atoi(f[col])
		if err != nil || !slices.Contains(pids, pid) {
			continue
		}
		if len(f) > len(titles) {
			last := len(titles) - 1
			f = append(f[:last:last], strings.Join(f[last:], " "))
		}
		rows = append(rows, f)
	}
	return titles, rows, nil
}

// Resize sets the window of a container's terminal, in characters.
func (s *Service) Resize(ctx context.Context, ref string, width, height int) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if !c.State().Status.HasTask() {
		return c.notRunning()
	}
	if !c.Definition().Config.Tty {
		return nil // clients ask without knowing; dockerd does nothing then either
	}
	if err := s.Tasks.ResizeTask(ctx, c.ID, "", width, height); err != nil {
		return fmt.Errorf("resize container %s: %w", c.ID, err)
	}
	s.publish(c, "resize", "height", strconv.Itoa(height), "width", strconv.Itoa(width))
	return nil
}

// Sampler reads the metrics of a task. *supervisor.Client is the real one.
type Sampler interface {
	Metrics(ctx context.Context, containerID string) (stats.Sample, error)
}

// StatsSource gives samples of containers to the API.
type StatsSource struct {
	Service *Service
	Sampler Sampler
}

// Stats returns the container's id, its name with the leading slash, and what it uses
// now; the sample is empty but for Read if the container does not run.
func (x StatsSource) Stats(ctx context.Context, ref string) (id, name string, sample stats.Sample, err error) {
	c, err := x.Service.Get(ref)
	if err != nil {
		return "", "", sample, err
	}
	id, name = c.ID, "/"+c.Definition().Name
	st := c.State()
	if !st.Status.HasTask() {
		sample.Read = st.FinishedAt
		return id, name, sample, nil
	}
	sample, err = x.Sampler.Metrics(ctx, c.ID)
	if errdefs.IsNotFound(err) {
		return id, name, stats.Sample{}, nil // it ended meanwhile
	}
	if err != nil {
		return "", "", sample, err
	}
	if sample.CPU.System, sample.CPU.Online, err = stats.HostCPU(); err != nil {
		return "", "", sample, err
	}
	if sample.Memory.Limit == 0 {
		sample.Memory.Limit = stats.HostMemory()
	}
	if !c.Definition().Host.NetworkMode.IsHost() {
		if sample.Network, err = stats.Interfaces(st.PID); err != nil {
			sample.Network = nil // it ended meanwhile
		}
	}
	return id, name, sample, nil
}

// Explain returns the steps of the last start and the objects that the engine made.
func (s *Service) Explain(c *Container) ([]api.Step, []api.Object) {
	d, info := c.Definition(), c.info()
	objects := []api.Object{{Kind: "file", ID: s.dir(c.ID), Detail: "names, log", Layer: "engined"}}
	add := func(kind, id, detail string) {
		objects = append(objects, api.Object{Kind: kind, ID: id, Detail: detail, Layer: "engined"})
	}
	if d.Host.LogConfig.Type != "none" {
		add("file", s.LogPath(c.ID), "log of "+d.Host.LogConfig.Type)
	}
	if c.State().Status.HasTask() {
		add("socket", s.socketPath(c.ID), "attach")
		if d.Host.IpcMode.IsShareable() {
			add("mount", s.shmDir(c.ID), "/dev/shm")
		}
	}
	for _, m := range d.Mounts {
		if m.Type == "volume" {
			add("volume", m.Name, m.Source+" on "+m.Destination)
		}
	}
	for _, o := range s.Networks.Explain(c.ID) {
		add(o.Kind, o.ID, o.Detail)
	}
	return info.steps, objects
}
