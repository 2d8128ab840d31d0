package ports

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"strata/pkg/linux/portlock"
)

// dialTimeout bounds the wait for a container that does not answer.
const dialTimeout = 10 * time.Second

// relayConnections listens on TCP port at and passes each connection on to another address.
// It lives as long as the lease's sockets; bytes are moved by splice(2).
func (l *Ledger) relayConnections(lease *Lease, at, to netip.AddrPort) error {
	ln, err := portlock.Listen(at)
	if err != nil {
		return err
	}
	closed, cancel := context.WithCancel(context.Background())
	r := &relay{listener: ln, to: to, closed: closed, cancel: cancel, open: map[net.Conn]bool{}}
	lease.sockets = append(lease.sockets, r)
	l.relays.Go(r.run)
	return nil
}

type relay struct {
	listener net.Listener
	to       netip.AddrPort
	closed   context.Context //nolint:containedctx // ends dials when the relay is closed
	cancel   context.CancelFunc

	mu   sync.Mutex
	open map[net.Conn]bool // nil once closed
}

func (r *relay) run() {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		in, err := r.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors: let some be closed
			continue
		}
		conns.Go(func() { r.serve(in) })
	}
}

func (r *relay) serve(in net.Conn) {
	defer r.drop(in)
	if !r.keep(in) {
		return
	}
	d := net.Dialer{Timeout: dialTimeout}
	out, err := d.DialContext(r.closed, "tcp", r.to.String())
	if err != nil {
		return
	}
	defer r.drop(out)
	if !r.keep(out) {
		return
	}
	var both sync.WaitGroup
	pass := func(dst, src net.Conn) {
		_, _ = io.Copy(dst, src) // either side may go at any time
		_ = dst.(*net.TCPConn).CloseWrite()
	}
	both.Go(func() { pass(out, in) })
	both.Go(func() { pass(in, out) })
	both.Wait()
}

func (r *relay) keep(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		return false
	}
	r.open[c] = true
	return true
}

func (r *relay) drop(c net.Conn) {
	r.mu.Lock()
	delete(r.open, c)
	r.mu.Unlock()
	_ = c.Close()
}

// Close ends the listener and all connections.
func (r *relay) Close() error {
	r.cancel()
	r.mu.Lock()
	open := r.open
	r.open = nil
	r.mu.Unlock()
	for c := range open {
		_ = c.Close()
	}
	return r.listener.Close()
}
