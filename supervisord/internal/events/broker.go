package events

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/identifiers"
	"strata/pkg/namespaces"
	"strata/supervisord/internal/filters"
)

// queueLimit bounds the events that wait for one subscriber.
const queueLimit = 8192

// component is what a topic is made of between slashes.
var component = regexp.MustCompile(`^[A-Za-z0-9]+(?:[-._][A-Za-z0-9]+)*$`)

// Broker is the real Publisher. The zero value is ready to use; its methods are safe
// for concurrent use.
type Broker struct {
	mu   sync.Mutex
	subs map[*Subscription]struct{}
}

var _ Publisher = (*Broker)(nil)

// Publish implements Publisher.
func (b *Broker) Publish(ctx context.Context, topic string, event proto.Message) error {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return fmt.Errorf("publish %q: %w", topic, err)
	}
	packed, err := Pack(event)
	if err != nil {
		return fmt.Errorf("publish %q: %w", topic, err)
	}
	return b.Forward(Envelope{Timestamp: time.Now().UTC(), Namespace: ns, Topic: topic, Event: packed})
}

// Pack wraps a message with the bare type URL that containerd's clients expect.
func Pack(m proto.Message) (*anypb.Any, error) {
	value, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: value}, nil
}

// Forward takes in an event that was made elsewhere, with its own time and namespace.
// Errors are of class ErrInvalidArgument.
func (b *Broker) Forward(e Envelope) error {
	if err := check(e); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		if s.filter == nil || s.filter.Match(e) {
			s.push(e)
		}
	}
	return nil
}

func check(e Envelope) error {
	if err := identifiers.Validate(e.Namespace); err != nil {
		return fmt.Errorf("event namespace: %w", err)
	}
	rest, ok := strings.CutPrefix(e.Topic, "/")
	if !ok {
		return fmt.Errorf("event topic %q must begin with a slash: %w", e.Topic, errdefs.ErrInvalidArgument)
	}
	for part := range strings.SplitSeq(rest, "/") {
		if !component.MatchString(part) {
			return fmt.Errorf("event topic %q: component %q is no identifier: %w", e.Topic, part, errdefs.ErrInvalidArgument)
		}
	}
	if e.Timestamp.IsZero() {
		return fmt.Errorf("event %q has no timestamp: %w", e.Topic, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Subscribe returns what is published from now on and matches one of the filters; none
// matches all. Close it. The error is of class ErrInvalidArgument for a bad filter.
func (b *Broker) Subscribe(exprs ...string) (*Subscription, error) {
	s := &Subscription{broker: b, wake: make(chan struct{}, 1)}
	if len(exprs) > 0 {
		f, err := filters.ParseAll(exprs...)
		if err != nil {
			return nil, fmt.Errorf("subscribe: %w", err)
		}
		s.filter = f
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subs == nil {
		b.subs = map[*Subscription]struct{}{}
	}
	b.subs[s] = struct{}{}
	return s, nil
}

// Subscription is one subscriber's queue.
type Subscription struct {
	broker *Broker
	filter filters.Filter
	wake   chan struct{} // buffered 1: there is something to see

	mu       sync.Mutex
	queue    []Envelope
	overflow bool
	closed   bool
}

// push never blocks.
func (s *Subscription) push(e Envelope) {
	s.mu.Lock()
	switch {
	case s.overflow || s.closed:
	case len(s.queue) >= queueLimit:
		s.overflow = true
	default:
		s.queue = append(s.queue, e)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next waits for the next event. Errors: that of ctx; ErrResourceExhausted after the
// last event before the queue ran over; ErrUnavailable after Close.
func (s *Subscription) Next(ctx context.Context) (Envelope, error) {
	for {
		e, ok, err := s.pop()
		if ok || err != nil {
			return e, err
		}
		select {
		case <-ctx.Done():
			return Envelope{}, ctx.Err()
		case <-s.wake:
		}
	}
}

func (s *Subscription) pop() (Envelope, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.queue) > 0:
		e := s.queue[0]
		s.queue[0] = Envelope{}
		s.queue = s.queue[1:]
		return e, true, nil
	case s.overflow:
		return Envelope{}, false, fmt.Errorf("subscriber is more than %d events behind: %w", queueLimit, errdefs.ErrResourceExhausted)
	case s.closed:
		return Envelope{}, false, fmt.Errorf("subscription is closed: %w", errdefs.ErrUnavailable)
	}
	return Envelope{}, false, nil
}

// Close ends the subscription. It may be called twice.
func (s *Subscription) Close() {
	s.broker.mu.Lock()
	delete(s.broker.subs, s)
	s.broker.mu.Unlock()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// fielder is a generated event message that knows its fields by name.
type fielder interface {
	Field(path []string) (string, bool)
}

// Field implements filters.Adaptor: namespace, topic, and event.* of known messages.
func (e Envelope) Field(path []string) (string, bool) {
	if len(path) == 0 {
		return "", false
	}
	switch path[0] {
	case "namespace":
		return e.Namespace, len(path) == 1 && e.Namespace != ""
	case "topic":
		return e.Topic, len(path) == 1 && e.Topic != ""
	case "event":
		m, err := e.Event.UnmarshalNew()
		if err != nil {
			return "", false
		}
		if f, ok := m.(fielder); ok {
			return f.Field(path[1:])
		}
	}
	return "", false
}
