package events

import (
	"slices"
	"sync"
	"time"
)

// ringSize is how many past events are remembered; dockerd keeps 256, which a compose
// project can fill at once.
const ringSize = 1024

// queueSize bounds what a slow subscriber may leave unread before it is cut off.
const queueSize = 4096

// Log remembers the last events and hands new ones to subscribers. The zero value is not
// usable; see [NewLog].
type Log struct {
	mu   sync.Mutex
	ring []Event // the last ringSize events, oldest first
	subs map[*Subscription]struct{}
}

// NewLog returns an empty log.
func NewLog() *Log { return &Log{subs: map[*Subscription]struct{}{}} }

// Publish implements [Publisher]. A subscriber whose queue is full is ended.
func (l *Log) Publish(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) == ringSize {
		l.ring = slices.Delete(l.ring, 0, 1)
	}
	l.ring = append(l.ring, e)
	for s := range l.subs {
		select {
		case s.ch <- e:
		default:
			delete(l.subs, s)
			close(s.ch)
		}
	}
}

// Subscription is one reader. C is closed when it was too slow or was cancelled.
type Subscription struct {
	C  <-chan Event
	ch chan Event
}

// Subscribe returns the past events from since on (none for the zero time) and a
// subscription to those that come, without a gap or a repetition between the two. Cancel
// it.
func (l *Log) Subscribe(since time.Time) ([]Event, *Subscription) {
	s := &Subscription{ch: make(chan Event, queueSize)}
	s.C = s.ch
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subs[s] = struct{}{}
	return l.sinceLocked(since), s
}

// sinceLocked. Preconditions: mu is held.
func (l *Log) sinceLocked(since time.Time) []Event {
	if since.IsZero() {
		return nil
	}
	var past []Event
	for _, e := range l.ring {
		if !e.Time.Before(since) {
			past = append(past, e)
		}
	}
	return past
}

// Cancel ends s. It may be called more than once.
func (l *Log) Cancel(s *Subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.subs[s]; ok {
		delete(l.subs, s)
		close(s.ch)
	}
}

// Subscribers returns how many subscriptions there are.
func (l *Log) Subscribers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.subs)
}
