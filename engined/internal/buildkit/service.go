package buildkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"strata/engined/internal/build"
	"strata/engined/internal/buildkit/session"
	"strata/engined/internal/buildkit/synced"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/buildkit/gatewaypb"
	"strata/pkg/rpc"
)

// Config is what the engine says about itself.
type Config struct {
	DataRoot    string
	ID          string // of the engine
	Hostname    string
	Snapshotter string
	Version     string
	// HostGateway is the address that "host-gateway" means; "" if there is none.
	HostGateway func() string
}

// contextsLimit bounds the kept contexts of all clients together, in bytes.
const contextsLimit = 10 << 30

// contextLimits bound one context.
var contextLimits = synced.Limits{Bytes: 64 << 30, Entries: 10_000_000}

// Service serves BuildKit's protocol. It is safe for concurrent use.
type Service struct {
	cfg      Config
	builds   *build.Service
	contexts *synced.Store
	history  *history
	sessions session.Manager
	server   *grpc.Server
	conns    chan net.Conn

	mu      sync.Mutex
	jobs    map[string]*job // by reference
	changed chan struct{}   // closed when a job comes; nil if nobody waits
}

// New opens the history. Run serves; Close ends the Service.
func New(cfg Config, builds *build.Service) (*Service, error) {
	h, err := openHistory(filepath.Join(cfg.DataRoot, "buildhistory.db"))
	if err != nil {
		return nil, err
	}
	s := &Service{
		cfg: cfg, builds: builds, history: h, jobs: map[string]*job{}, conns: make(chan net.Conn),
		contexts: synced.Open(filepath.Join(cfg.DataRoot, "build", "contexts"), contextsLimit, contextLimits),
	}
	s.server = grpc.NewServer(rpc.ServerOptions()...)
	controlpb.RegisterControlServer(s.server, control{s: s})
	gatewaypb.RegisterLLBBridgeServer(s.server, bridge{s: s})
	healthpb.RegisterHealthServer(s.server, health.NewServer())
	return s, nil
}

// Close ends the Service. Run must have ended.
func (s *Service) Close() error { return s.history.close() }

// Run serves the connections of ServeGRPC until ctx is done.
func (s *Service) Run(ctx context.Context) error {
	l := &listener{conns: s.conns, closed: make(chan struct{})}
	stop := context.AfterFunc(ctx, s.server.Stop)
	defer stop()
	if err := s.server.Serve(l); err != nil && ctx.Err() == nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve BuildKit's protocol: %w", err)
	}
	return nil
}

// ServeGRPC takes a client's connection, which speaks gRPC from here on. It does not wait
// for its end.
func (s *Service) ServeGRPC(ctx context.Context, conn net.Conn) error {
	select {
	case s.conns <- conn:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), conn.Close())
	}
}

// ServeSession takes a client's connection, on which the client serves gRPC, and waits for
// its end.
func (s *Service) ServeSession(ctx context.Context, conn net.Conn, h http.Header) error {
	return s.sessions.Run(ctx, conn, h)
}

// listener makes connections that come otherwise a net.Listener.
type listener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "hijacked" }
func (address) String() string  { return "hijacked" }

// patience is how long a call waits for the job or session that another call is to bring.
const patience = 5 * time.Second

// begin makes a job. ErrAlreadyExists if its reference is in use.
func (s *Service) begin(ctx context.Context, req *controlpb.SolveRequest) (*job, context.Context, error) {
	if req.Ref == "" {
		return nil, nil, fmt.Errorf("build without a reference: %w", errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	j := &job{s: s, ref: req.Ref, began: time.Now(), req: req, story: newStory(req.Ref), shell: newShell(req.FrontendAttrs), cancel: cancel, returned: make(chan *gatewaypb.ReturnRequest, 1), results: map[string]*result{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.jobs[j.ref]; ok && !old.ended {
		cancel(nil)
		return nil, nil, fmt.Errorf("build %s: %w", j.ref, errdefs.ErrAlreadyExists)
	}
	s.jobs[j.ref] = j
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return j, ctx, nil
}

// end ends a job; those who follow its story read to its end. A client may ask for the story
// of a build that was over at once, so that the job is known for a while.
func (s *Service) end(j *job) {
	j.cancel(nil)
	j.story.end()
	j.shell.end()
	s.mu.Lock()
	j.ended = true
	s.mu.Unlock()
	j.letGo()
	time.AfterFunc(patience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.jobs[j.ref] == j {
			delete(s.jobs, j.ref)
		}
	})
}

// known returns the job of a reference, if there is one.
func (s *Service) known(ref string) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jobs[ref]
}

// job returns the job of a reference, which may be about to begin. ErrNotFound if there is
// none.
func (s *Service) job(ctx context.Context, ref string) (*job, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		s.mu.Lock()
		j := s.jobs[ref]
		if j == nil && s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		if j != nil {
			return j, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("no build is called %s: %w", ref, errdefs.ErrNotFound)
		}
	}
}

// Cancel ends a build. ErrNotFound if there is none of that reference.
func (s *Service) Cancel(ref string) error {
	j := s.known(ref)
	if j == nil {
		return fmt.Errorf("no build is called %s: %w", ref, errdefs.ErrNotFound)
	}
	j.cancel(context.Canceled)
	return nil
}
