package main

import (
	"errors"
	"fmt"
	"sync"
)

// eachParallel bounds the calls that run at the same time.
const eachParallel = 50

// errNothingDone is the result of a call that neither did anything nor failed: its name is not printed.
var errNothingDone = errors.New("nothing done")

// each calls f for every name at the same time, and prints the names that succeeded, in their
// order. Its error joins those of the others.
func (s *session) each(names []string, f func(name string) error) error {
	errs := make([]error, len(names))
	done := make([]chan struct{}, len(names))
	slots := make(chan struct{}, eachParallel)
	var wg sync.WaitGroup
	for i, name := range names {
		done[i] = make(chan struct{})
		wg.Go(func() {
			slots <- struct{}{}
			errs[i] = f(name)
			<-slots
			close(done[i])
		})
	}
	for i, name := range names {
		<-done[i]
		switch {
		case errs[i] == nil:
			fmt.Fprintln(s.stdout, name)
		case errors.Is(errs[i], errNothingDone):
			errs[i] = nil
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}
