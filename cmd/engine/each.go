package main

import (
	"errors"
	"fmt"
	"sync"
)

// eachParallel bounds the calls that run at the same time.
const eachParallel = 50

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
		if errs[i] == nil {
			fmt.Fprintln(s.stdout, name)
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}
