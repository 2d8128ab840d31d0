package buildclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"strata/pkg/buildkit"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/buildkit/gatewaypb"
	"strata/pkg/identifiers"
)

// Upgrader opens a connection for another protocol at a path of the daemon.
type Upgrader interface {
	Upgrade(ctx context.Context, path, protocol string, h http.Header) (net.Conn, error)
}

// Build is one build.
type Build struct {
	Attrs map[string]string // of the frontend dockerfile.v0
	// SharedKey tells this directory of this machine from others: under it the daemon keeps
	// what it was sent. "" keeps nothing.
	SharedKey    string
	Dirs         map[string]string // local directories, by the name that the frontend knows
	Layouts      map[string]string // OCI layouts, by the name that a context oci-layout://NAME@DIGEST has
	Uploads      map[string]io.Reader
	Secrets      map[string]Secret
	Agents       map[string]Agent
	Auth         func(ctx context.Context, host string) (username, secret string, err error) // nil: nobody's
	Outputs      []Output
	CacheFrom    []Cache
	CacheTo      []Cache
	Entitlements []string
	// OnFailure, if not nil, is called with a shell when a step has failed. The build ends
	// after it returns, as it would have ended without.
	OnFailure func(ctx context.Context, p *Process) error
	AsLeft    bool // the shell has the files as the step has left them, not as it found them
}

// Output is one thing to be made of the result: Dir for a directory, File for an archive,
// Layout for an OCI layout, none of them for what stays at the daemon.
type Output struct {
	Type   string
	Attrs  map[string]string
	Dir    string
	Layout string // a directory; of one output only, with tar=false among Attrs
	File   func(meta map[string]string) (File, error)
}

// File takes an archive. One of Close, after all of it, and Abort is called.
type File interface {
	io.WriteCloser
	Abort() error
}

// Cache says where cache comes from or goes to.
type Cache struct {
	Type  string
	Attrs map[string]string
	Dir   string // of type local: an OCI layout; Attrs[digest] says what of it to use
}

// Secret returns a secret when it is asked for.
type Secret func() ([]byte, error)

// Agent connects to an SSH agent.
type Agent func(ctx context.Context) (net.Conn, error)

// Result is what the daemon says of a build.
type Result struct {
	Ref      string            // names it in the daemon's history
	Response map[string]string // of the exporters: containerimage.digest, …
	Metadata map[string][]byte // of a call instead of a build
	NoShell  error             // why the daemon has not given the shell that was asked for
}

// Conn is a connection to a daemon's control API. Close it.
type Conn struct{ cc *grpc.ClientConn }

// Dial returns a connection; it is opened when it is used.
func Dial(up Upgrader) (*Conn, error) {
	cc, err := grpc.NewClient("passthrough:///engine", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			// The connection outlives the dialling; its own end is Close.
			return up.Upgrade(context.Background(), "/grpc", "h2c", nil)
		}))
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return &Conn{cc}, nil
}

// maxMessage bounds a message, in bytes, as BuildKit does.
const maxMessage = 16 << 20

// Close closes the connection.
func (c *Conn) Close() error { return c.cc.Close() }

// Control returns the control API.
func (c *Conn) Control() controlpb.ControlClient { return controlpb.NewControlClient(c.cc) }

// linger is how long the story of a build that has ended may go on.
const linger = 5 * time.Second

// Run builds, and calls tell with what happens, from one goroutine. An error of the build has
// the details of buildkit.DetailsOf. When ctx ends, so does the build.
func Run(ctx context.Context, up Upgrader, b Build, tell func(*controlpb.StatusResponse)) (Result, error) {
	res := Result{Ref: identifiers.New()[:25]}
	conn, err := Dial(up)
	if err != nil {
		return res, err
	}
	defer func() { _ = conn.Close() }() // nothing is in flight
	s, err := b.openSession(ctx, up)
	if err != nil {
		return res, err
	}
	defer s.close()
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	g := errgroup.Group{}
	sctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	solved := make(chan struct{})
	g.Go(func() error {
		defer close(solved)
		return b.solve(ctx, conn, s.id, &res)
	})
	g.Go(func() error {
		go func() { // ends soon after the solve
			<-solved
			select {
			case <-time.After(linger):
				stop()
			case <-sctx.Done():
			}
		}()
		err := conn.Follow(sctx, res.Ref, tell)
		stop()
		return err
	})
	var gaveUp bool
	if b.OnFailure != nil {
		g.Go(func() error {
			if res.NoShell = b.shell(ctx, conn, res.Ref); res.NoShell == nil {
				return nil
			}
			select {
			case <-solved:
			default: // a build without the shell that was asked for is no use
				gaveUp = true
				giveUp()
			}
			return nil
		})
	}
	err = g.Wait()
	if gaveUp {
		err = res.NoShell
	}
	return res, err
}

// solve asks for the build and waits for it.
func (b *Build) solve(ctx context.Context, conn *Conn, session string, res *Result) error {
	req := &controlpb.SolveRequest{Ref: res.Ref, Session: session, Cache: &controlpb.CacheOptions{}, Entitlements: b.Entitlements}
	for i, o := range b.Outputs {
		if i == 0 {
			req.ExporterDeprecated, req.ExporterAttrsDeprecated = o.Type, o.Attrs
		}
		req.Exporters = append(req.Exporters, &controlpb.Exporter{Type: o.Type, Attrs: o.Attrs})
	}
	for i, c := range b.CacheFrom {
		req.Cache.Imports = append(req.Cache.Imports, c.entry("src", storeName(cacheFrom, i)))
	}
	for i, c := range b.CacheTo {
		req.Cache.Exports = append(req.Cache.Exports, c.entry("dest", storeName(cacheTo, i)))
	}
	if b.Attrs["requestid"] != "" {
		return b.call(ctx, conn, req, res)
	}
	req.Frontend, req.FrontendAttrs = frontend, map[string]string{}
	maps.Copy(req.FrontendAttrs, b.Attrs)
	if b.OnFailure != nil {
		req.FrontendAttrs[buildkit.AttrOnFailure] = buildkit.OnFailureShell
		if b.AsLeft {
			req.FrontendAttrs[buildkit.AttrOnFailure] = buildkit.OnFailureAsLeft
		}
	}
	r, err := conn.Control().Solve(ctx, req)
	if err != nil {
		return err
	}
	res.Response = r.ExporterResponse
	return errors.Join(b.tagCaches(res.Response), b.nameLayout(res.Response))
}

// entry is c as Solve has it; in key it names the store of c's directory.
func (c *Cache) entry(key, store string) *controlpb.CacheOptionsEntry {
	attrs := map[string]string{}
	maps.Copy(attrs, c.Attrs)
	if c.Dir != "" {
		attrs[key] = store
	}
	return &controlpb.CacheOptionsEntry{Type: c.Type, Attrs: attrs}
}

// frontend is what reads Dockerfiles.
const frontend = "dockerfile.v0"

// call asks the frontend something: what it answers comes only by the bridge.
func (b *Build) call(ctx context.Context, conn *Conn, req *controlpb.SolveRequest, res *Result) error {
	req.Internal = true
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := conn.Control().Solve(gctx, req)
		return err
	})
	g.Go(func() error {
		bridge := gatewaypb.NewLLBBridgeClient(conn.cc)
		gctx := metadata.AppendToOutgoingContext(gctx, buildkit.KeyBuildID, req.Ref)
		r, err := bridge.Solve(gctx, &gatewaypb.SolveRequest{Frontend: frontend, FrontendOpt: b.Attrs, AllowResultReturn: true, AllowResultArrayRef: true})
		ret := &gatewaypb.ReturnRequest{}
		if err != nil {
			st, _ := status.FromError(err)                                                                                 // every error has one
			ret.Error = &controlpb.Status{Code: int32(st.Code()), Message: st.Message(), Details: st.Proto().GetDetails()} //nolint:gosec // a code
		} else {
			res.Metadata = r.GetResult().GetMetadata()
			ret.Result = r.GetResult()
		}
		_, rerr := bridge.Return(gctx, ret)
		return errors.Join(err, rerr)
	})
	return g.Wait()
}

// Follow passes on what has happened in a build, and what happens until it ends.
func (c *Conn) Follow(ctx context.Context, ref string, tell func(*controlpb.StatusResponse)) error {
	stream, err := c.Control().Status(ctx, &controlpb.StatusRequest{Ref: ref})
	for err == nil {
		var e *controlpb.StatusResponse
		if e, err = stream.Recv(); err == nil {
			tell(e)
		}
	}
	// What the build came to Solve says; a story that breaks off is no error of its own.
	if errors.Is(err, io.EOF) || ctx.Err() != nil || status.Code(err) == codes.NotFound || status.Code(err) == codes.Unavailable {
		return nil //nolint:nilerr // see above
	}
	return err
}

// singleListener gives one connection to a server.
type singleListener struct {
	conn   net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *singleListener) Accept() (net.Conn, error) {
	var c net.Conn
	l.once.Do(func() { c = l.conn })
	if c != nil {
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *singleListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *singleListener) Addr() net.Addr { return l.conn.LocalAddr() }
