package transfer

import (
	"context"
	"sync"
)

// flights lets many callers share one piece of work. Unlike with singleflight, a caller
// that goes away takes only itself: if it was the one that worked, another one of those
// who wait begins again, where the store remembers how far the work got.
type flights struct {
	mu     sync.Mutex
	active map[string]*flight
}

type flight struct {
	done chan struct{} // closed when the work ended
	err  error         // set before

	mu        sync.Mutex
	next      int
	listeners map[int]func(int64)
}

// tell passes progress on to everybody who waits.
func (f *flight) tell(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fn := range f.listeners {
		fn(n)
	}
}

// listen adds a listener until leave is called; after that it is not called again.
func (f *flight) listen(fn func(int64)) (leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.next
	f.next++
	f.listeners[id] = fn
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.listeners, id)
	}
}

// do runs work, or waits for the one who does. It reports whether this caller worked; if
// not, a nil error means that somebody else's work succeeded. progress hears of either.
func (fs *flights) do(ctx context.Context, key string, progress func(int64), work func(ctx context.Context, tell func(int64)) error) (worked bool, err error) {
	for {
		fs.mu.Lock()
		if fs.active == nil {
			fs.active = map[string]*flight{}
		}
		f, flying := fs.active[key]
		if !flying {
			f = &flight{done: make(chan struct{}), listeners: map[int]func(int64){}}
			fs.active[key] = f
		}
		leave := f.listen(progress)
		fs.mu.Unlock()
		if !flying {
			f.err = work(ctx, f.tell)
			fs.mu.Lock()
			delete(fs.active, key)
			fs.mu.Unlock()
			close(f.done)
			return true, f.err
		}
		select {
		case <-ctx.Done():
			leave()
			return false, ctx.Err()
		case <-f.done:
		}
		if f.err == nil {
			return false, nil
		}
		// The other one failed or went away: our own attempt decides.
	}
}
