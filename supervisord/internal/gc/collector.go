package gc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
)

const (
	// delay is how long a scheduled collection waits for more to do, maxDelay how long
	// at most.
	delay    = time.Second
	maxDelay = 10 * time.Second
)

// Visitor receives what a Part knows.
type Visitor struct {
	Root      func(n Node)
	Candidate func(n Node)               // may be swept
	Back      func(holder, n Node)       // holder holds n, though it does not say so
	Expires   func(n Node, at time.Time) // n ceases to be a root
}

// Part is a store that takes part in the collection. Scan and References run beside
// writers; each must see everything that was written before it was called.
type Part interface {
	// Owns reports whether nodes of type t are the part's.
	Owns(t string) bool
	// Scan visits all roots and all candidates.
	Scan(ctx context.Context, v Visitor) error
	// References calls emit for each node that n, one of the part's, holds. An unknown
	// node holds nothing.
	References(ctx context.Context, n Node, emit func(Node)) error
	// Sweep removes nodes that were candidates. The barrier is held exclusively: what
	// takes long belongs into the returned function, which runs after it. Nodes that are
	// gone are not an error. It is called in every round, maybe with no nodes.
	Sweep(ctx context.Context, nodes []Node) (after func(), err error)
}

// Stats says what a collection did.
type Stats struct {
	Removed  int
	Mark     time.Duration // beside writers
	Sweep    time.Duration // writers waited
	Duration time.Duration
}

// Collector collects garbage of its parts.
type Collector struct {
	barrier *Barrier
	parts   []Part
	wake    chan struct{} // buffered 1: a collection is wanted

	mu   sync.Mutex // one collection at a time
	next time.Time  // when the first root expires; zero: never
}

// New returns a collector. Sweep asks the parts in the given order.
func New(barrier *Barrier, parts ...Part) *Collector {
	return &Collector{barrier: barrier, parts: parts, wake: make(chan struct{}, 1)}
}

// Schedule asks for a collection soon. It never blocks.
func (c *Collector) Schedule() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run collects when scheduled, and when a root expires, until ctx is done.
func (c *Collector) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Hour
		if next := c.nextExpiry(); !next.IsZero() {
			wait = min(wait, max(time.Until(next), delay))
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-c.wake:
			if !c.settle(ctx) {
				return nil
			}
		}
		stats, err := c.Collect(ctx)
		if err != nil && ctx.Err() == nil {
			ctxlog.From(ctx).Error("garbage collection failed", ctxlog.Error, err)
			continue
		}
		if stats.Removed > 0 {
			ctxlog.From(ctx).Debug("garbage collected", "removed", stats.Removed, ctxlog.Duration, stats.Duration, "sweep", stats.Sweep)
		}
	}
}

// settle waits until no collection was asked for during delay. False: ctx is done.
func (c *Collector) settle(ctx context.Context) bool {
	deadline := time.After(maxDelay)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-deadline:
			return true
		case <-time.After(delay):
			return true
		case <-c.wake:
		}
	}
}

func (c *Collector) nextExpiry() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

// Collect runs one collection and returns when everything that was garbage at the time
// of the call is gone.
func (c *Collector) Collect(ctx context.Context) (stats Stats, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	start := time.Now()
	var after []func()
	defer func() {
		for _, fn := range after {
			fn()
		}
		stats.Duration = time.Since(start)
	}()
	c.barrier.begin()
	m, err := c.mark(ctx)
	stats.Mark = time.Since(start)

	c.barrier.world.Lock()
	defer c.barrier.world.Unlock()
	sweep := time.Now()
	defer func() { stats.Sweep = time.Since(sweep) }()
	touched := c.barrier.endLocked()
	if err != nil {
		return stats, err
	}
	c.next = m.next
	stats.Removed, after, err = c.sweep(ctx, m, touched)
	return stats, err
}

// marked is what a mark found.
type marked struct {
	reached    map[Node]struct{}
	candidates []Node
	back       map[Node][]Node // holder → held
	next       time.Time
}

func (c *Collector) mark(ctx context.Context) (marked, error) {
	m := marked{back: map[Node][]Node{}}
	var roots []Node
	v := Visitor{
		Root:      func(n Node) { roots = append(roots, n) },
		Candidate: func(n Node) { m.candidates = append(m.candidates, n) },
		Back:      func(holder, n Node) { m.back[holder] = append(m.back[holder], n) },
		Expires: func(_ Node, at time.Time) {
			if m.next.IsZero() || at.Before(m.next) {
				m.next = at
			}
		},
	}
	for _, p := range c.parts {
		if err := p.Scan(ctx, v); err != nil {
			return m, fmt.Errorf("collect garbage: scan: %w", err)
		}
	}
	var err error
	m.reached, err = Mark(roots, c.references(ctx, m.back))
	if err != nil {
		return m, fmt.Errorf("collect garbage: mark: %w", err)
	}
	return m, nil
}

// references returns the edges of the graph.
func (c *Collector) references(ctx context.Context, back map[Node][]Node) func(Node, func(Node)) error {
	return func(n Node, emit func(Node)) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		held := n
		held.Flat = false
		for _, other := range back[held] {
			other.Flat = n.Flat
			emit(other)
		}
		i := slices.IndexFunc(c.parts, func(p Part) bool { return p.Owns(n.Type) })
		if i < 0 {
			return nil
		}
		return c.parts[i].References(ctx, n, emit)
	}
}

// sweep removes the candidates that neither the mark nor what was touched since
// reaches. Preconditions: the barrier is held exclusively.
func (c *Collector) sweep(ctx context.Context, m marked, touched []Node) (int, []func(), error) {
	late, err := Mark(touched, c.references(ctx, m.back))
	if err != nil {
		return 0, nil, fmt.Errorf("collect garbage: mark again: %w", err)
	}
	garbage := make([][]Node, len(c.parts))
	removed := 0
	for _, n := range m.candidates {
		if has(m.reached, n) || has(late, n) {
			continue
		}
		i := slices.IndexFunc(c.parts, func(p Part) bool { return p.Owns(n.Type) })
		if i < 0 {
			return 0, nil, fmt.Errorf("internal error: garbage of type %q has no owner", n.Type)
		}
		garbage[i] = append(garbage[i], n)
		removed++
	}
	failpoint.Pass("gc/sweep/found")
	var after []func()
	var errs []error
	for i, nodes := range garbage {
		logGarbage(ctx, nodes)
		fn, err := c.parts[i].Sweep(ctx, nodes)
		if fn != nil {
			after = append(after, fn)
		}
		errs = append(errs, err)
	}
	if len(touched) > 0 {
		c.Schedule() // what was touched may be garbage that this round kept
	}
	return removed, after, errors.Join(errs...)
}

func has(set map[Node]struct{}, n Node) bool {
	n.Flat = false
	if _, ok := set[n]; ok {
		return true
	}
	n.Flat = true
	_, ok := set[n]
	return ok
}

func logGarbage(ctx context.Context, nodes []Node) {
	log := ctxlog.From(ctx)
	if !log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	for _, n := range nodes {
		log.Debug("garbage found", ctxlog.Namespace, n.Namespace, "type", strings.TrimSuffix(n.Type, "/"), ctxlog.Name, n.Key)
	}
}
