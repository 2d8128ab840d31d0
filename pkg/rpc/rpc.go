package rpc

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"strata/pkg/ctxlog"
	"strata/pkg/namespaces"
)

// Metadata headers. The first two are containerd's.
const (
	headerNamespace = "containerd-namespace"
	headerLease     = "containerd-lease"
	headerTrace     = "strata-trace"
)

// MaxMessageSize bounds a message in either direction, in bytes, as containerd does.
const MaxMessageSize = 16 << 20

// ServerOptions returns the options of a server whose handlers find namespace, lease and
// trace in the context, return errors of errdefs classes, and may panic without taking
// the process down.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessageSize),
		grpc.MaxSendMsgSize(MaxMessageSize),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
			defer recoverPanic(ctx, info.FullMethod, &err)
			resp, err = handler(incoming(ctx), req)
			return resp, toGRPC(err)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
			defer recoverPanic(ss.Context(), info.FullMethod, &err)
			return toGRPC(handler(srv, serverStream{ss, incoming(ss.Context())}))
		}),
	}
}

// toGRPC keeps an error that is a status already.
func toGRPC(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	// A chain with two classes ("%w: %w") would send the second one as a detail, and its
	// text would stand twice in what the client shows.
	st, _ := status.FromError(errgrpc.ToGRPC(err))
	return status.Error(st.Code(), st.Message())
}

func recoverPanic(ctx context.Context, method string, err *error) {
	if p := recover(); p != nil {
		ctxlog.From(ctx).Error("handler panicked", ctxlog.Method, method, ctxlog.Error, p, "stack", string(debug.Stack()))
		*err = status.Errorf(codes.Internal, "internal error: %v", p)
	}
}

type serverStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a stream's context is its state, by gRPC's interface
}

func (s serverStream) Context() context.Context { return s.ctx }

func incoming(ctx context.Context) context.Context {
	md, ok := metadata.FromIncomingContext(ctx)
	if !ok {
		return ctx
	}
	if v := md.Get(headerNamespace); len(v) > 0 {
		ctx = namespaces.With(ctx, v[0])
	}
	if v := md.Get(headerLease); len(v) > 0 {
		ctx = namespaces.WithLease(ctx, v[0])
	}
	if v := md.Get(headerTrace); len(v) > 0 {
		ctx = ctxlog.WithAttrs(namespaces.WithTrace(ctx, v[0]), ctxlog.Trace, v[0])
	}
	return ctx
}

func outgoing(ctx context.Context) context.Context {
	if ns, ok := namespaces.From(ctx); ok {
		ctx = metadata.AppendToOutgoingContext(ctx, headerNamespace, ns)
	}
	if id, ok := namespaces.Lease(ctx); ok {
		ctx = metadata.AppendToOutgoingContext(ctx, headerLease, id)
	}
	if id := namespaces.Trace(ctx); id != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, headerTrace, id)
	}
	return ctx
}

type clientStream struct{ grpc.ClientStream }

func (s clientStream) RecvMsg(m any) error { return fromGRPC(s.ClientStream.RecvMsg(m)) }

func fromGRPC(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); !ok {
		return err // io.EOF of a stream
	}
	return errgrpc.ToNative(err)
}

// Dial returns a connection to the gRPC server on the unix socket. It does not wait for
// the server: calls fail with class ErrUnavailable until it is there, and the connection
// mends itself within two seconds of its return. Calls carry namespace, lease and trace
// of their context and return errors of errdefs classes.
func Dial(socket string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageSize), grpc.MaxCallSendMsgSize(MaxMessageSize)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			awaitReady(ctx, cc)
			return fromGRPC(invoker(outgoing(ctx), method, req, reply, cc, opts...))
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			awaitReady(ctx, cc)
			s, err := streamer(outgoing(ctx), desc, cc, method, opts...)
			if err != nil {
				return nil, fromGRPC(err)
			}
			return clientStream{s}, nil
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("dial %q: %w", socket, err)
	}
	return conn, nil
}

// reconnectPatience is how long a call waits for a daemon that is not there: as long as it
// takes to restart one.
const reconnectPatience = time.Second

// awaitReady waits until cc is connected, at most for reconnectPatience. A call that begins
// while the daemon restarts would fail for nothing.
func awaitReady(ctx context.Context, cc *grpc.ClientConn) {
	state := cc.GetState()
	if state == connectivity.Ready {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, reconnectPatience)
	defer cancel()
	for state != connectivity.Ready && state != connectivity.Shutdown {
		if state == connectivity.Idle {
			cc.Connect()
		}
		if !cc.WaitForStateChange(ctx, state) {
			return
		}
		state = cc.GetState()
	}
}
