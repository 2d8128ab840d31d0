package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"

	"strata/pkg/namespaces"
)

func publish(t *testing.T, b *Broker, ns, topic, id string) {
	t.Helper()
	if err := b.Publish(namespaces.With(t.Context(), ns), topic, &api.TaskStart{ContainerID: id}); err != nil {
		t.Fatal(err)
	}
}

func TestSubscribersSeeWhatMatchesInOrder(t *testing.T) {
	for _, tt := range []struct {
		name    string
		filters []string
		want    []string
	}{
		{"no filter sees all", nil, []string{"/tasks/start moby", "/images/create moby", "/tasks/exit other"}},
		{"dockerd's own filter", []string{"namespace==moby,topic~=|^/tasks/|"}, []string{"/tasks/start moby"}},
		{"filters are alternatives", []string{"topic==/images/create", "namespace==other"}, []string{"/images/create moby", "/tasks/exit other"}},
		{"fields of the event", []string{"event.container_id==c3"}, []string{"/tasks/exit other"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b Broker
			s, err := b.Subscribe(tt.filters...)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			publish(t, &b, "moby", "/tasks/start", "c1")
			publish(t, &b, "moby", "/images/create", "c2")
			publish(t, &b, "other", "/tasks/exit", "c3")
			for _, want := range tt.want {
				e, err := s.Next(t.Context())
				if got := e.Topic + " " + e.Namespace; err != nil || got != want {
					t.Errorf("Next = %q, %v; want %q", got, err, want)
				}
			}
			if e, ok, err := s.pop(); ok || err != nil {
				t.Errorf("one more event: %v, %v", e, err)
			}
		})
	}
}

func TestAllSubscribersSeeTheSameOrder(t *testing.T) {
	var b Broker
	one, _ := b.Subscribe()
	two, _ := b.Subscribe()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 100 {
				publish(t, &b, "n", "/t/e", fmt.Sprintf("%d-%d", w, i))
			}
		})
	}
	wg.Wait()
	for range 800 {
		x, err1 := one.Next(t.Context())
		y, err2 := two.Next(t.Context())
		if err1 != nil || err2 != nil || string(x.Event.Value) != string(y.Event.Value) {
			t.Fatalf("%q, %v and %q, %v differ", x.Event.Value, err1, y.Event.Value, err2)
		}
	}
}

func TestSlowSubscriberIsEndedAndBlocksNobody(t *testing.T) {
	var b Broker
	slow, _ := b.Subscribe()
	for i := range queueLimit + 5 {
		publish(t, &b, "n", "/t/e", fmt.Sprint(i))
	}
	for i := range queueLimit {
		if _, err := slow.Next(t.Context()); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
	}
	if _, err := slow.Next(t.Context()); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("Next after an overflow = %v, want class ErrResourceExhausted", err)
	}
}

func TestNextEndsWithContextAndWithClose(t *testing.T) {
	var b Broker
	s, _ := b.Subscribe()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next = %v, want context.Canceled", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.Next(context.Background())
		done <- err
	}()
	s.Close()
	s.Close()
	if err := <-done; !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("Next after Close = %v, want class ErrUnavailable", err)
	}
	publish(t, &b, "n", "/t/e", "x")
}

func TestBadEventsAreRefused(t *testing.T) {
	var b Broker
	ok := Envelope{Timestamp: time.Now(), Namespace: "n", Topic: "/a/b"}
	for name, change := range map[string]func(*Envelope){
		"no slash":      func(e *Envelope) { e.Topic = "a/b" },
		"empty part":    func(e *Envelope) { e.Topic = "/a//b" },
		"bad namespace": func(e *Envelope) { e.Namespace = "a/b" },
		"no time":       func(e *Envelope) { e.Timestamp = time.Time{} },
	} {
		e := ok
		change(&e)
		if err := b.Forward(e); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: Forward = %v, want class ErrInvalidArgument", name, err)
		}
	}
	if err := b.Publish(t.Context(), "/a", &api.TaskStart{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("Publish without a namespace = %v, want class ErrFailedPrecondition", err)
	}
}
