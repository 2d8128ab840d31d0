package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
)

// interrupts decides what SIGINT and SIGTERM mean: they end the command, until a
// container takes them over.
type interrupts struct {
	mu       sync.Mutex
	ch       chan os.Signal
	last     syscall.Signal
	released bool
}

// watch returns a context that ends with the first SIGINT or SIGTERM.
func (i *interrupts) watch(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	i.ch = make(chan os.Signal, 1) // Notify does not block, and one signal is enough
	signal.Notify(i.ch, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ctx.Done():
		case sig, ok := <-i.ch:
			if !ok {
				return
			}
			i.mu.Lock()
			i.last, _ = sig.(syscall.Signal)
			i.mu.Unlock()
			cancel()
		}
	}()
	return ctx, func() {
		cancel()
		i.release()
		<-done
	}
}

// received is the number of the signal that ended the command, or 0.
func (i *interrupts) received() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return int(i.last)
}

// release gives up SIGINT and SIGTERM: whoever calls it has a handler of its own.
func (i *interrupts) release() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ch != nil && !i.released {
		i.released = true
		signal.Stop(i.ch)
		close(i.ch)
	}
}

// forceAfter is the number of SIGINT or SIGTERM that end the client although they were passed on.
const forceAfter = 3

// proxySignals passes every signal on to a container until the returned function is called, which
// waits until nothing more is sent.
func (s *session) proxySignals(ctx context.Context, kill func(ctx context.Context, signal string) error) (stop func()) {
	ch := make(chan os.Signal, 128)
	signal.Notify(ch)
	s.signals.release()
	done := make(chan struct{})
	go func() {
		defer close(done)
		interrupts := 0
		for sig := range ch {
			num, ok := sig.(syscall.Signal)
			if !ok || !forwarded(num) {
				continue
			}
			if num == syscall.SIGINT || num == syscall.SIGTERM {
				if interrupts++; interrupts >= forceAfter {
					fmt.Fprintf(s.stderr, "\ngot %d SIGTERM/SIGINTs, forcefully exiting\n", interrupts)
					os.Exit(1)
				}
			}
			if err := kill(ctx, strconv.Itoa(int(num))); err != nil {
				s.debugf("pass on signal %v: %v", num, err)
			}
		}
	}()
	return sync.OnceFunc(func() {
		signal.Stop(ch)
		close(ch)
		<-done
	})
}

// forwarded leaves out the signals that concern our own process.
func forwarded(sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGWINCH, syscall.SIGTTIN, syscall.SIGTTOU:
		return false
	default:
		return true
	}
}
