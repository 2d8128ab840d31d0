package cleanup

import (
	"context"
	"slices"
	"time"
)

// timeout bounds every undo: long enough for an unmount under load, short enough
// that a stuck peer cannot hold a request for ever.
const timeout = 10 * time.Second

// Context returns a context that keeps the values of ctx (tenant, trace id, log
// attributes) but neither its cancellation nor its deadline; it ends after 10 s.
// It is the only sanctioned use of context.WithoutCancel.
func Context(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), timeout)
}

// Stack is a list of undo functions. The zero value is ready to use. It is not
// safe for concurrent use.
type Stack struct {
	undo []func()
}

// Add pushes fn; Clean runs it before all that were added earlier.
func (s *Stack) Add(fn func()) { s.undo = append(s.undo, fn) }

// Clean runs the functions, last added first, and forgets them. It does nothing
// after Release.
func (s *Stack) Clean() {
	for _, v := range slices.Backward(s.undo) {
		v()
	}
	s.undo = nil
}

// Release forgets the functions: the operation has passed its point of no return.
func (s *Stack) Release() { s.undo = nil }
