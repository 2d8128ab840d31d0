package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/cliformat"
)

func statsCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "stats", Args: "[OPTIONS] [CONTAINER...]", Max: -1,
		Short: "Display a live stream of container(s) resource usage statistics",
		Also:  []string{"container stats", "stats"},
		Flags: []cliapp.Flag{
			boolFlag("all", "a", "Show all containers (default shows just running)"),
			stringFlag("format", "", formatUsage),
			boolFlag("no-stream", "", "Print the first result and quit"),
			boolFlag("no-trunc", "", "Do not truncate output"),
		},
		Action: s.stats,
	}
}

func statsTable() cliformat.Table {
	return cliformat.Table{
		Columns: `{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}`,
		Header: cliformat.Header{
			"BlockIO": "BLOCK I/O", "CPUPerc": "CPU %", "Container": "CONTAINER", "ID": "CONTAINER ID", "MemPerc": "MEM %",
			"MemUsage": "MEM USAGE / LIMIT", "Name": "NAME", "NetIO": "NET I/O", "PIDs": "PIDS",
		},
	}
}

// statsInterval is how often the live table is drawn.
const statsInterval = 500 * time.Millisecond

func (s *session) stats(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b := &statsBoard{api: api, stream: !c.Bool("no-stream"), samples: map[string]*statsSample{}}
	defer b.wg.Wait()
	defer cancel() // first: what wg waits for ends with ctx
	names := c.Args().Slice()
	if len(names) == 0 {
		if err := b.watchAll(ctx, c.Bool("all")); err != nil {
			return err
		}
	}
	for _, name := range names {
		b.add(ctx, name)
	}
	t := statsTable()
	format := t.Choose(c.String("format"), s.conf().Formats.Stats, false)
	if !b.stream {
		return s.statsOnce(b, t, format, c.Bool("no-trunc"))
	}
	return s.statsLive(ctx, b, t, format, c.Bool("no-trunc"))
}

func (s *session) statsOnce(b *statsBoard, t cliformat.Table, format string, whole bool) error {
	b.wg.Wait()
	rows, err := b.rows(whole)
	if err != nil {
		return err
	}
	return cliformat.Write(s.stdout, t, format, rows)
}

func (s *session) statsLive(ctx context.Context, b *statsBoard, t cliformat.Table, format string, whole bool) error {
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	for {
		rows, err := b.rows(whole)
		if err != nil {
			return err
		}
		var buf bytes.Buffer
		if err := cliformat.Write(&buf, t, format, rows); err != nil {
			return err
		}
		out := buf.String()
		if isTerminal(s.stdout) {
			// Home, each line cleared to its end, the rest of the screen cleared: no flicker.
			out = "\x1b[H" + strings.ReplaceAll(out, "\n", "\x1b[K\n") + "\x1b[J"
		}
		if _, err := io.WriteString(s.stdout, out); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// statsBoard collects the newest sample of each container, in the order in which they came.
type statsBoard struct {
	api    *client.Client
	stream bool
	wg     sync.WaitGroup

	mu      sync.Mutex
	order   []string
	samples map[string]*statsSample
}

// statsSample is the newest of one container.
type statsSample struct {
	resp  container.StatsResponse
	valid bool
	err   error
}

// watchAll adds the containers there are and, for a stream, those that come; it drops those that go.
func (b *statsBoard) watchAll(ctx context.Context, all bool) error {
	if b.stream {
		body, err := b.api.Events(ctx, "", "", client.Filters{"type": {"container": true}})
		if err != nil {
			return err
		}
		b.wg.Go(func() { b.follow(ctx, body, all) })
	}
	list, err := b.api.ContainerList(ctx, client.ListContainers{All: all})
	if err != nil {
		return err
	}
	for _, ctr := range slices.Backward(list) {
		b.add(ctx, ctr.ID)
	}
	return nil
}

func (b *statsBoard) follow(ctx context.Context, body io.ReadCloser, all bool) {
	defer body.Close()
	dec := json.NewDecoder(body)
	for {
		var m events.Message
		if dec.Decode(&m) != nil {
			return
		}
		switch {
		case m.Action == events.ActionStart, m.Action == events.ActionCreate && all:
			b.add(ctx, m.Actor.ID)
		case m.Action == events.ActionDie && !all, m.Action == events.ActionDestroy:
			b.drop(m.Actor.ID)
		}
	}
}

func (b *statsBoard) add(ctx context.Context, name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.samples[name]; known {
		return
	}
	sample := &statsSample{}
	b.order = append(b.order, name)
	b.samples[name] = sample
	b.wg.Go(func() { b.collect(ctx, name, sample) })
}

func (b *statsBoard) drop(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.samples, name)
	b.order = slices.DeleteFunc(b.order, func(n string) bool { return n == name })
}

func (b *statsBoard) collect(ctx context.Context, name string, sample *statsSample) {
	body, err := b.api.ContainerStats(ctx, name, b.stream)
	if err != nil {
		b.mu.Lock()
		sample.err = err
		b.mu.Unlock()
		return
	}
	defer body.Close()
	dec := json.NewDecoder(body)
	for {
		var resp container.StatsResponse
		if dec.Decode(&resp) != nil {
			b.mu.Lock()
			sample.valid = sample.valid && !b.stream
			b.mu.Unlock()
			return
		}
		b.mu.Lock()
		sample.resp, sample.valid = resp, true
		b.mu.Unlock()
		if !b.stream {
			return
		}
	}
}

// rows returns a row per container, and the errors of those that cannot be asked.
func (b *statsBoard) rows(whole bool) ([]statsRow, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var rows []statsRow
	var errs []error
	for _, name := range b.order {
		sample := b.samples[name]
		if sample.err != nil {
			errs = append(errs, sample.err)
			continue
		}
		rows = append(rows, newStatsRow(name, sample, whole))
	}
	return rows, errors.Join(errs...)
}

// statsRow is what a template of stats may name.
type statsRow struct {
	BlockIO   string
	CPUPerc   string
	Container string
	ID        string
	MemPerc   string
	MemUsage  string
	Name      string
	NetIO     string
	PIDs      string
}

func newStatsRow(name string, sample *statsSample, whole bool) statsRow {
	id := name
	if sample.resp.ID != "" {
		id = sample.resp.ID
	}
	if !whole {
		id = cliformat.ShortID(id)
		if name == sample.resp.ID {
			name = id
		}
	}
	if !sample.valid {
		return statsRow{
			BlockIO: "-- / --", CPUPerc: "--", Container: name, ID: id, MemPerc: "--", MemUsage: "-- / --",
			Name: orDefault(strings.TrimPrefix(sample.resp.Name, "/"), "--"), NetIO: "-- / --", PIDs: "--",
		}
	}
	r := &sample.resp
	used := memoryUsed(r.MemoryStats)
	memPerc := 0.0
	if r.MemoryStats.Limit > 0 {
		memPerc = float64(used) / float64(r.MemoryStats.Limit) * 100
	}
	read, written := blockIO(r.BlkioStats)
	var rx, tx uint64
	for _, n := range r.Networks {
		rx, tx = rx+n.RxBytes, tx+n.TxBytes
	}
	return statsRow{
		BlockIO:   sizePair(read, written),
		CPUPerc:   fmt.Sprintf("%.2f%%", cpuPercent(r)),
		Container: name,
		ID:        id,
		MemPerc:   fmt.Sprintf("%.2f%%", memPerc),
		MemUsage:  units.BytesSize(float64(used)) + " / " + units.BytesSize(float64(r.MemoryStats.Limit)),
		Name:      strings.TrimPrefix(r.Name, "/"),
		NetIO:     sizePair(rx, tx),
		PIDs:      fmt.Sprint(r.PidsStats.Current),
	}
}

func sizePair(a, b uint64) string {
	return units.HumanSizeWithPrecision(float64(a), 3) + " / " + units.HumanSizeWithPrecision(float64(b), 3)
}

// memoryUsed leaves out the page cache that the kernel would give back: total_inactive_file
// in cgroup v1, inactive_file in v2.
func memoryUsed(m container.MemoryStats) uint64 {
	for _, key := range []string{"total_inactive_file", "inactive_file"} {
		if cache, ok := m.Stats[key]; ok {
			if cache < m.Usage {
				return m.Usage - cache
			}
			return m.Usage
		}
	}
	return m.Usage
}

// cpuPercent is the share of one CPU since the sample before: 200 % is two whole CPUs.
func cpuPercent(r *container.StatsResponse) float64 {
	used := float64(r.CPUStats.CPUUsage.TotalUsage) - float64(r.PreCPUStats.CPUUsage.TotalUsage)
	system := float64(r.CPUStats.SystemUsage) - float64(r.PreCPUStats.SystemUsage)
	cpus := float64(r.CPUStats.OnlineCPUs)
	if cpus == 0 {
		cpus = float64(len(r.CPUStats.CPUUsage.PercpuUsage))
	}
	if system <= 0 || used <= 0 {
		return 0
	}
	return used / system * cpus * 100
}

func blockIO(b container.BlkioStats) (read, written uint64) {
	for _, e := range b.IoServiceBytesRecursive {
		if e.Op == "" {
			continue
		}
		switch e.Op[0] {
		case 'r', 'R':
			read += e.Value
		case 'w', 'W':
			written += e.Value
		}
	}
	return read, written
}
