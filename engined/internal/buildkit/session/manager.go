package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"strata/pkg/buildkit"
	"strata/pkg/rpc"
)

// Manager holds the sessions that are open. The zero value is ready.
type Manager struct {
	mu       sync.Mutex
	sessions map[string]*Session
	changed  chan struct{} // closed when a session comes; nil if nobody waits
}

// Session is what one client serves.
type Session struct {
	ID        string
	Name      string // what the client calls it: the name of its directory
	SharedKey string // tells the directories of a client from those of others

	cc      *grpc.ClientConn
	methods map[string]bool // in lower case
	done    chan struct{}
	cause   error // after done
}

// Run serves as the client on conn, whose other end has sent the headers, until the
// connection ends or ctx is done; it closes conn. Errors are of class ErrInvalidArgument for
// headers without an id, ErrAlreadyExists for an id that is there.
func (m *Manager) Run(ctx context.Context, conn net.Conn, h http.Header) error {
	defer func() { _ = conn.Close() }() // it may have ended
	s := &Session{
		ID: h.Get(buildkit.HeaderSessionID), Name: h.Get(buildkit.HeaderSessionName), SharedKey: h.Get(buildkit.HeaderSessionSharedKey),
		methods: map[string]bool{}, done: make(chan struct{}),
	}
	if s.ID == "" {
		return fmt.Errorf("session without %s: %w", buildkit.HeaderSessionID, errdefs.ErrInvalidArgument)
	}
	for _, name := range h.Values(buildkit.HeaderSessionMethod) {
		s.methods[strings.ToLower(name)] = true
	}
	watched := &watchedConn{Conn: conn, ended: make(chan struct{})}
	var dialed atomic.Bool
	var err error
	s.cc, err = grpc.NewClient("passthrough:///session", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0), // the connection cannot be had again
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(rpc.MaxMessageSize), grpc.MaxCallSendMsgSize(rpc.MaxMessageSize)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if dialed.Swap(true) {
				return nil, errEnded
			}
			return watched, nil
		}))
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	defer func() { _ = s.cc.Close() }() // nothing is in flight
	if err := m.add(s); err != nil {
		return err
	}
	defer m.remove(s)
	s.cc.Connect()
	select {
	case <-watched.ended:
		s.cause = errEnded
	case <-ctx.Done():
		s.cause = ctx.Err()
	}
	close(s.done)
	return nil
}

// errEnded is why calls on a session fail whose connection is gone.
var errEnded = fmt.Errorf("the client of the build has gone: %w", errdefs.ErrUnavailable)

func (m *Manager) add(s *Session) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.sessions[s.ID]; ok {
		return fmt.Errorf("session %s: %w", s.ID, errdefs.ErrAlreadyExists)
	}
	if m.sessions == nil {
		m.sessions = map[string]*Session{}
	}
	m.sessions[s.ID] = s
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
	return nil
}

func (m *Manager) remove(s *Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sessions, s.ID)
}

// Get returns the session of an id, and waits for it until ctx is done: a client may ask
// for a build before its session has arrived. ErrNotFound if it did not come.
func (m *Manager) Get(ctx context.Context, id string) (*Session, error) {
	for {
		m.mu.Lock()
		s := m.sessions[id]
		if s == nil && m.changed == nil {
			m.changed = make(chan struct{})
		}
		changed := m.changed
		m.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("no active session for %s: %w", id, errdefs.ErrNotFound)
		}
	}
}

// Done is closed when the session's connection has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Offers reports whether the client serves a method, "/service/method".
func (s *Session) Offers(method string) bool { return s.methods[strings.ToLower(method)] }

// bind returns a context that ends with the session, too.
func (s *Session) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := make(chan struct{})
	go func() { // ends with the call or the session
		select {
		case <-s.done:
			cancel(errEnded)
		case <-stop:
		}
	}()
	return ctx, func() {
		close(stop)
		cancel(nil)
	}
}

// wrap says what could not be had from the client; a session's end is its cause.
func (s *Session) wrap(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	select {
	case <-s.done:
		return fmt.Errorf("%s: %w", what, errEnded)
	default:
	}
	if cause := context.Cause(ctx); errors.Is(cause, errEnded) {
		err = errEnded
	} else if _, ok := status.FromError(err); ok {
		err = errgrpc.ToNative(err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// watchedConn tells when it has ended.
type watchedConn struct {
	net.Conn
	once  sync.Once
	ended chan struct{}
}

func (c *watchedConn) end() { c.once.Do(func() { close(c.ended) }) }

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !isTimeout(err) {
		c.end()
	}
	return n, err
}

func (c *watchedConn) Close() error {
	c.end()
	return c.Conn.Close()
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}
