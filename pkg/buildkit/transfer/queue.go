package transfer

import (
	"context"
	"errors"
	"io"
	"sync"

	"strata/pkg/buildkit/sessionpb"
)

// Queue holds packets until they can be sent: a receiver that waited for the client to take
// one could wait for a client that waits for it.
type Queue struct {
	mu    sync.Mutex
	list  []*sessionpb.Packet
	over  bool
	added chan struct{} // one token
}

// NewQueue returns an empty queue.
func NewQueue() *Queue { return &Queue{added: make(chan struct{}, 1)} }

// Add adds a packet; it does not wait.
func (q *Queue) Add(p *sessionpb.Packet) {
	q.mu.Lock()
	q.list = append(q.list, p)
	q.mu.Unlock()
	q.wake()
}

// End says that no more packets come.
func (q *Queue) End() {
	q.mu.Lock()
	q.over = true
	q.mu.Unlock()
	q.wake()
}

func (q *Queue) wake() {
	select {
	case q.added <- struct{}{}:
	default:
	}
}

// Drain sends what is added until the end.
func (q *Queue) Drain(ctx context.Context, s Stream) error {
	for {
		q.mu.Lock()
		list, over := q.list, q.over
		q.list = nil
		q.mu.Unlock()
		for _, p := range list {
			if err := s.Send(p); err != nil {
				if errors.Is(err, io.EOF) {
					return nil // the other half knows why
				}
				return err
			}
		}
		if over && len(list) == 0 {
			return nil
		}
		if len(list) > 0 {
			continue
		}
		select {
		case <-q.added:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
