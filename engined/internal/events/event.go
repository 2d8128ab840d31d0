package events

import "time"

// Event is one fact: something of Type ("container", "image", "network", "volume",
// "daemon") had Action ("start") happen to it. A zero Time means now.
type Event struct {
	Type       string
	Action     string
	ActorID    string
	Attributes map[string]string
	Time       time.Time
}

// Publisher takes events in. *Log is the real one. Publish never blocks.
type Publisher interface {
	Publish(e Event)
}
