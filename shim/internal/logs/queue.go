package logs

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// closePatience bounds how long close waits for the disk.
const closePatience = 10 * time.Second

// errFull is why records are dropped that come faster than the disk takes them.
var errFull = errors.New("the buffer of mode=non-blocking was full")

// batch are records that wait for the disk.
type batch struct {
	data    []byte
	records int
	lost    int // records that were dropped before these
}

// queue stands between the container's output and a disk that may be slow. One goroutine
// writes; it owns the file. Without records to write the queue holds no memory.
type queue struct {
	out  *file
	max  int64
	done chan error // buffered 1: the result of the writer's close

	mu      sync.Mutex
	more    sync.Cond // a batch was added, or closed is set
	batches []batch
	bytes   int64
	lost    int // records dropped since the last batch
	closed  bool
}

func newQueue(out *file, maxBytes int64) *queue {
	q := &queue{out: out, max: maxBytes, done: make(chan error, 1)}
	q.more.L = &q.mu
	go func() { q.done <- q.write() }() // close waits for it
	return q
}

// push queues a copy of data, or drops the records if there is no room. An empty queue has
// room for anything.
func (q *queue) push(data []byte, records int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes > 0 && q.bytes+int64(len(data)) > q.max {
		q.lost += records
		return
	}
	q.batches = append(q.batches, batch{slices.Clone(data), records, q.lost})
	q.bytes += int64(len(data))
	q.lost = 0
	q.more.Signal()
}

// write moves batches to the file until the queue is closed and empty.
func (q *queue) write() error {
	for {
		b, ok := q.next()
		if b.lost > 0 {
			q.out.lose(b.lost, errFull)
		}
		if !ok {
			return q.out.close()
		}
		q.out.put(b.data, b.records)
		q.written(len(b.data))
	}
}

// next waits for a batch. With false the queue is closed and empty.
func (q *queue) next() (batch, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.batches) == 0 && !q.closed {
		q.more.Wait()
	}
	if len(q.batches) == 0 {
		return batch{lost: q.lost}, false
	}
	b := q.batches[0]
	q.batches[0] = batch{}
	if q.batches = q.batches[1:]; len(q.batches) == 0 {
		q.batches = nil
	}
	return b, true
}

// written frees the room of a batch: what is on its way to the disk counts until then.
func (q *queue) written(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= int64(n)
}

// close waits until everything is written. A disk that takes nothing for long is left to
// the writer, which ends when it does.
func (q *queue) close() error {
	q.mu.Lock()
	q.closed = true
	q.more.Signal()
	q.mu.Unlock()
	timer := time.NewTimer(closePatience)
	defer timer.Stop()
	select {
	case err := <-q.done:
		return err
	case <-timer.C:
		return fmt.Errorf("close log %q: the disk has not taken it in %s", q.out.path, closePatience)
	}
}
