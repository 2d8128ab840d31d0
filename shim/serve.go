package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"

	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/linux/fifo"
	"strata/pkg/linux/selfmem"
	"strata/pkg/linux/unixsock"
	"strata/shim/internal/process"
	"strata/shim/internal/reaper"
	"strata/shim/internal/taskapi"
)

// Time limits of an orderly end.
const (
	drainEvents = 10 * time.Second // for the daemon to take the last events
	drainCalls  = time.Second      // for calls that are under way
)

// quiet is how long after the start of a process the shim gives back the memory that the
// start took: long enough for a burst of starts to be over.
const quiet = 500 * time.Millisecond

// Serve serves the task API on the socket that Start has left on descriptor 3, until a
// daemon shuts it down. It returns when the last events and the last output are
// delivered, or nobody takes them.
func Serve(ctx context.Context, cfg Config) error {
	bundle, err := cfg.bundle()
	if err != nil {
		return fmt.Errorf("find bundle: %w", err)
	}
	ctx = ctxlog.With(ctx, logger(bundle, cfg.Debug))
	ignoreBrokenPipes()
	l, err := inheritedListener()
	if err != nil {
		return err
	}
	socket := l.Addr().String()
	// Once, as the next shim of the group takes the name as soon as it is free.
	vacate := sync.OnceFunc(func() { _ = os.Remove(socket) })
	defer vacate()

	failpoint.Pass("shim/serve/listening")
	reap, err := reaper.New()
	if err != nil {
		return err
	}
	if cfg.TTRPCAddress == "" {
		cfg.TTRPCAddress = cfg.Address + ".ttrpc"
	}
	publisher := taskapi.NewPublisher(cfg.TTRPCAddress, cfg.Namespace)
	tasks := process.New(ctx, process.Config{
		Namespace: cfg.Namespace, SocketDir: filepath.Dir(socket), Reaper: reap, Publish: publisher.Publish,
	})
	down := make(chan struct{})
	trim := time.AfterFunc(quiet, func() { _ = selfmem.Trim() }) // at worst it stays as large as it is
	defer trim.Stop()
	service := &taskapi.Service{
		Tasks: tasks, Connected: publisher.Wake, Busy: func() { trim.Reset(quiet) }, Shutdown: sync.OnceFunc(func() { close(down) }),
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(rootOnly{}))
	if err != nil {
		return fmt.Errorf("make task server: %w", err)
	}
	service.Register(server)

	var wg sync.WaitGroup
	reapCtx, stopReaping := context.WithCancel(ctx)
	sendCtx, stopSending := context.WithCancel(ctx)
	wg.Go(func() { reap.Run(reapCtx) })
	sent := make(chan struct{})
	wg.Go(func() { defer close(sent); publisher.Run(sendCtx, drainEvents) })
	serving := make(chan error, 1) // one result
	wg.Go(func() { serving <- server.Serve(ctx, l) })

	err = waitForEnd(ctx, serving, down)
	vacate() // from here on a new shim may take the group
	stopServing(ctx, server)
	tasks.Close()
	stopSending()
	<-sent
	stopReaping()
	wg.Wait()
	return err
}

// waitForEnd returns when the shim is to end. Signals do not end it: its containers go
// on, and they need it.
func waitForEnd(ctx context.Context, serving <-chan error, down <-chan struct{}) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	for {
		select {
		case <-down:
			return nil
		case <-ctx.Done():
			return nil
		case err := <-serving:
			return fmt.Errorf("serve tasks: %w", err)
		case sig := <-signals:
			ctxlog.From(ctx).Info("signal ignored, containers need their shim", ctxlog.Signal, sig.String())
		}
	}
}

func stopServing(ctx context.Context, server *ttrpc.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainCalls)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close()
	}
}

func inheritedListener() (*net.UnixListener, error) {
	f := os.NewFile(listenerFD, "shim socket")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over socket on descriptor %d: %w", listenerFD, err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("descriptor %d is a %s socket, want unix: %w", listenerFD, l.Addr().Network(), errdefs.ErrInvalidArgument), l.Close())
	}
	return ul, nil
}

// rootOnly refuses peers that are neither root nor the shim's own user. The socket's mode
// does so already; both must fail before a container gets in (CVE-2020-15257).
type rootOnly struct{}

// Handshake implements ttrpc.Handshaker.
func (rootOnly) Handshake(_ context.Context, conn net.Conn) (net.Conn, any, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("peer on %s: %w", conn.LocalAddr().Network(), errdefs.ErrPermissionDenied)
	}
	uid, err := unixsock.PeerUID(uc)
	if err != nil {
		return nil, nil, err
	}
	if uid != 0 && int(uid) != os.Geteuid() {
		return nil, nil, fmt.Errorf("peer with uid %d: %w", uid, errdefs.ErrPermissionDenied)
	}
	return uc, uid, nil
}

// logger writes to the named pipe "log" in the bundle, which the daemon reads. It is
// opened at both ends, so that a dead daemon leads to lost lines and not to a broken
// pipe, and becomes stderr, for panics.
func logger(bundle string, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	f, err := fifo.OpenBoth(filepath.Join(bundle, "log"))
	if err != nil {
		return ctxlog.New(os.Stderr, "shim", level)
	}
	_ = syscall.Dup3(int(f.Fd()), int(os.Stderr.Fd()), 0)
	_ = f.Close()
	return ctxlog.New(os.Stderr, "shim", level)
}

// ignoreBrokenPipes keeps the process alive when a reader of its streams is gone. The
// signal is caught, not ignored: that would be inherited by containers.
func ignoreBrokenPipes() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}
