package tasks

import (
	"context"
	"slices"
	"sync"
	"time"
)

// The limits of a watcher's interval.
const (
	minInterval     = 100 * time.Millisecond
	defaultInterval = time.Second
)

// sampler reads counters for all watchers in one loop, which runs while there is one.
type sampler struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
	running  bool
	wake     chan struct{} // buffered 1: the set of watchers has changed
}

type watcher struct {
	namespace string
	ids       []string // nil: all
	interval  time.Duration
	next      time.Time
	out       chan Metric // buffered; a watcher that does not read misses readings
}

func (w *watcher) wants(t *entry) bool {
	return t.namespace == w.namespace && (len(w.ids) == 0 || slices.Contains(w.ids, t.id))
}

// WatchStats calls fn with the counters of the tasks with those ids, or of all tasks of
// the namespace, each interval (zero: one second), until ctx is done or fn fails. All
// watchers share one sampling loop, so that each shim is asked once.
func (s *Service) WatchStats(ctx context.Context, namespace string, ids []string, interval time.Duration, fn func(Metric) error) error {
	if interval == 0 {
		interval = defaultInterval
	}
	w := &watcher{namespace: namespace, ids: ids, interval: max(interval, minInterval), out: make(chan Metric, 1024)}
	s.sampler.add(w)
	defer s.sampler.remove(w)
	s.sampler.mu.Lock()
	start := !s.sampler.running
	if start {
		s.sampler.running = s.spawn(s.sample)
	}
	s.sampler.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m, ok := <-w.out:
			if !ok {
				return nil
			}
			if err := fn(m); err != nil {
				return err
			}
		}
	}
}

func (p *sampler) add(w *watcher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watchers == nil {
		p.watchers, p.wake = map[*watcher]struct{}{}, make(chan struct{}, 1)
	}
	p.watchers[w] = struct{}{}
	p.signal()
}

func (p *sampler) remove(w *watcher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.watchers, w)
	p.signal()
}

// signal wakes the loop. Preconditions: mu is held.
func (p *sampler) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// due returns the watchers whose time has come, and how long to wait for the next. It
// ends the loop if there is none at all.
func (p *sampler) due(now time.Time) (due []*watcher, wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.watchers) == 0 {
		p.running = false
		return nil, 0, false
	}
	wait = time.Hour
	for w := range p.watchers {
		if !now.Before(w.next) {
			due = append(due, w)
			w.next = now.Add(w.interval)
		}
		wait = min(wait, w.next.Sub(now))
	}
	return due, wait, true
}

// sample is the loop.
func (s *Service) sample() {
	for !s.isClosing() {
		due, wait, ok := s.sampler.due(time.Now())
		if !ok {
			return
		}
		s.serve(due)
		timer := time.NewTimer(min(wait, time.Second)) // it notices the end of the service
		select {
		case <-timer.C:
		case <-s.sampler.wake:
		}
		timer.Stop()
	}
	s.sampler.mu.Lock()
	defer s.sampler.mu.Unlock()
	s.sampler.running = false
	for w := range s.sampler.watchers {
		close(w.out)
	}
	clear(s.sampler.watchers)
}

// serve reads each task that somebody wants once and hands the reading to all of them.
func (s *Service) serve(due []*watcher) {
	if len(due) == 0 {
		return
	}
	all := slices.DeleteFunc(s.entries(""), func(t *entry) bool {
		return !slices.ContainsFunc(due, func(w *watcher) bool { return w.wants(t) })
	})
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	each(all, func(_ int, t *entry) {
		m := t.measure(ctx)
		if m.Data == nil {
			return
		}
		for _, w := range due {
			if w.wants(t) {
				select {
				case w.out <- m:
				default:
				}
			}
		}
	})
}
