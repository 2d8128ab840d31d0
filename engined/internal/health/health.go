package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"

	"strata/engined/internal/containers"
	"strata/engined/internal/events"
	"strata/engined/internal/execs"
	"strata/pkg/ctxlog"
	"strata/pkg/shimio"
)

// Docker's defaults and bounds.
const (
	defaultInterval      = 30 * time.Second
	defaultTimeout       = 30 * time.Second
	defaultStartInterval = 5 * time.Second
	defaultRetries       = 3
	maxLog               = 5
	maxOutput            = 4096
	// errorCode is the exit code of a probe that could not be run, or timed out.
	errorCode = -1
)

// Monitor probes containers. It is the containers.HealthMonitor.
type Monitor struct {
	execs  *execs.Service
	events events.Publisher

	mu     sync.Mutex
	ctx    context.Context //nolint:containedctx // that of Run, for probes that Started begins
	probes map[string]context.CancelFunc
	early  []*containers.Container // started before Run
	work   sync.WaitGroup
}

// New returns a monitor that does nothing before Run.
func New(e *execs.Service, pub events.Publisher) *Monitor {
	return &Monitor{execs: e, events: pub, probes: map[string]context.CancelFunc{}}
}

// Run lets probes run until ctx is done, and waits for them.
func (m *Monitor) Run(ctx context.Context) error {
	m.mu.Lock()
	m.ctx = ctx
	early := m.early
	m.early = nil
	m.mu.Unlock()
	for _, c := range early {
		m.Started(c)
	}
	<-ctx.Done()
	m.mu.Lock()
	m.ctx = nil
	m.mu.Unlock()
	m.work.Wait()
	return nil
}

// Started begins to probe a container, if it has a health check.
func (m *Monitor) Started(c *containers.Container) {
	hc := c.Definition().Config.Healthcheck
	if hc == nil || len(hc.Test) == 0 || hc.Test[0] == "NONE" {
		c.SetHealth(nil)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil {
		m.early = append(m.early, c)
		return
	}
	if stop := m.probes[c.ID]; stop != nil {
		stop()
	}
	ctx, stop := context.WithCancel(m.ctx)
	m.probes[c.ID] = stop
	c.SetHealth(&container.Health{Status: container.Starting, Log: []*container.HealthcheckResult{}})
	m.work.Go(func() { m.watch(ctxlog.WithAttrs(ctx, ctxlog.ContainerID, c.ID), c, settings(hc)) })
}

// Stopped ends the probes of a container.
func (m *Monitor) Stopped(c *containers.Container) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if stop := m.probes[c.ID]; stop != nil {
		stop()
		delete(m.probes, c.ID)
	}
	m.early = slices.DeleteFunc(m.early, func(e *containers.Container) bool { return e == c })
	if h := c.Health(); h != nil && h.Status == container.Starting {
		stopped := *h
		stopped.Status = container.Unhealthy
		c.SetHealth(&stopped)
	}
}

// check is a health check with its defaults filled in.
type check struct {
	test                                          []string
	interval, timeout, startPeriod, startInterval time.Duration
	retries                                       int
}

func settings(hc *container.HealthConfig) check {
	k := check{test: hc.Test, interval: hc.Interval, timeout: hc.Timeout, startPeriod: hc.StartPeriod, startInterval: hc.StartInterval, retries: hc.Retries}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&k.interval, defaultInterval}, {&k.timeout, defaultTimeout}, {&k.startInterval, defaultStartInterval}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if k.retries == 0 {
		k.retries = defaultRetries
	}
	return k
}

// pause is the time before the next probe, elapsed after the container's start.
func (k check) pause(status container.HealthStatus, elapsed time.Duration) time.Duration {
	if status == container.Starting && elapsed < k.startPeriod {
		return min(k.startInterval, k.interval)
	}
	return k.interval
}

func (m *Monitor) watch(ctx context.Context, c *containers.Container, k check) {
	started := c.State().StartedAt
	for {
		timer := time.NewTimer(k.pause(c.Health().Status, time.Since(started)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if c.State().Status != containers.Running {
			continue // paused: neither well nor ill
		}
		result := m.probe(ctx, c, k)
		if ctx.Err() != nil {
			return
		}
		before := *c.Health()
		after := judge(before, result, k, result.Start.Sub(started) < k.startPeriod)
		c.SetHealth(&after)
		if before.Status != after.Status {
			m.events.Publish(containers.ContainerEvent(c.Definition(), "health_status: "+string(after.Status)))
		}
	}
}

// judge is the health after one more result.
func judge(h container.Health, r container.HealthcheckResult, k check, inStartPeriod bool) container.Health {
	out := container.Health{Status: h.Status, FailingStreak: h.FailingStreak, Log: append(slices.Clone(h.Log), &r)}
	if n := len(out.Log) - maxLog; n > 0 {
		out.Log = out.Log[n:]
	}
	switch {
	case r.ExitCode == 0:
		out.Status, out.FailingStreak = container.Healthy, 0
	case h.Status == container.Starting && inStartPeriod:
	default:
		if out.FailingStreak++; out.FailingStreak >= k.retries {
			out.Status = container.Unhealthy
		}
	}
	return out
}

// probe runs the check once.
func (m *Monitor) probe(ctx context.Context, c *containers.Container, k check) container.HealthcheckResult {
	r := container.HealthcheckResult{Start: time.Now(), ExitCode: errorCode}
	var out limited
	code, err := m.run(ctx, c, k, &out)
	r.End, r.Output = time.Now(), out.String()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		r.Output = fmt.Sprintf("Health check exceeded timeout (%v)", k.timeout)
		if s := out.String(); s != "" {
			r.Output += ": " + s
		}
	case err != nil:
		r.Output = err.Error()
	default:
		r.ExitCode = code
	}
	return r
}

func (m *Monitor) run(ctx context.Context, c *containers.Container, k check, out io.Writer) (int, error) {
	argv := k.test[1:]
	if k.test[0] == "CMD-SHELL" {
		shell := c.Definition().Config.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		argv = append(slices.Clone(shell), argv...)
	}
	id, err := m.execs.Create(c.ID, container.ExecCreateRequest{Cmd: argv, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, err
	}
	e, err := m.execs.Get(id)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	conn, err := m.execs.Start(ctx, id, execs.StartRequest{Hello: shimio.Hello{Stdout: true, Stderr: true}})
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // only read
	copied := make(chan struct{})
	go func() { // ends when conn is closed
		defer close(copied)
		unframe(out, conn)
	}()
	select {
	case <-e.Done():
	case <-ctx.Done():
		kill, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer stop()
		if err := m.execs.Kill(kill, e, 9); err != nil {
			ctxlog.From(ctx).Debug("timed out probe was not killed", ctxlog.ExecID, id, ctxlog.Error, err)
		}
		_ = conn.Close()
		<-copied
		return 0, ctx.Err()
	}
	<-copied
	return *e.Status().ExitCode, nil
}

// unframe writes the payload of stdcopy frames to out until the stream ends.
func unframe(out io.Writer, conn net.Conn) {
	var head [8]byte
	for {
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return // the end, or the probe was given up
		}
		if _, err := io.CopyN(out, conn, int64(binary.BigEndian.Uint32(head[4:]))); err != nil {
			return
		}
	}
}

// limited keeps the first maxOutput bytes.
type limited struct{ buf bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxOutput - l.buf.Len(); room > 0 {
		l.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (l *limited) String() string { return l.buf.String() }
