package events

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Envelope is an event on its way.
type Envelope struct {
	Timestamp time.Time
	Namespace string
	Topic     string // "/tasks/exit"
	Event     *anypb.Any
}

// Publisher takes events in. *Broker is the real one.
type Publisher interface {
	// Publish wraps event for the namespace of ctx. The topic begins with "/" and each
	// component is an identifier; anything else is of class ErrInvalidArgument.
	Publish(ctx context.Context, topic string, event proto.Message) error
}
