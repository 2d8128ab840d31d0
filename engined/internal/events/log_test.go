package events

import (
	"testing"
	"time"
)

func TestSubscribeHasNoGapBetweenPastAndLive(t *testing.T) {
	l := NewLog()
	start := time.Now()
	l.Publish(Event{Action: "create"})
	past, s := l.Subscribe(start)
	defer l.Cancel(s)
	l.Publish(Event{Action: "start"})
	if len(past) != 1 || past[0].Action != "create" {
		t.Errorf("past = %v, want create", past)
	}
	if e := <-s.C; e.Action != "start" || e.Time.IsZero() {
		t.Errorf("live = %v, want start with a time", e)
	}
}

func TestRingForgetsTheOldest(t *testing.T) {
	l := NewLog()
	for range ringSize + 5 {
		l.Publish(Event{Action: "x"})
	}
	past, s := l.Subscribe(time.Unix(1, 0))
	l.Cancel(s)
	l.Cancel(s)
	if len(past) != ringSize {
		t.Errorf("%d past events, want %d", len(past), ringSize)
	}
}

func TestSlowSubscriberIsEndedAndBlocksNobody(t *testing.T) {
	l := NewLog()
	_, s := l.Subscribe(time.Time{})
	for range queueSize + 1 {
		l.Publish(Event{Action: "x"})
	}
	n := 0
	for range s.C {
		n++
	}
	if n != queueSize || l.Subscribers() != 0 {
		t.Errorf("read %d events, %d subscribers; want %d and none", n, l.Subscribers(), queueSize)
	}
}
