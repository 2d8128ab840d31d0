package supervisord

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"strata/supervisord/internal/grpcapi"
)

// drainTime is how long calls under way may finish when the daemon stops. Calls that wait
// for containers never finish by themselves.
const drainTime = 300 * time.Millisecond

// listen makes the socket at path, mode 0660. A socket that a dead daemon left is
// replaced; one that somebody answers on is of class ErrUnavailable.
func listen(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("listen on %q: another process listens there; stop it, or give this one an address of its own: %w", path, errdefs.ErrUnavailable)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %q: %w", path, err), l.Close())
	}
	return l, nil
}

// serveGRPC serves clients until ctx is done.
func serveGRPC(ctx context.Context, address string, server *grpc.Server, ready func()) error {
	l, err := listen(address)
	if err != nil {
		return err
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		timer := time.AfterFunc(drainTime, server.Stop)
		defer timer.Stop()
		server.GracefulStop()
	}()
	if ready != nil {
		ready()
	}
	err = server.Serve(l)
	if ctx.Err() == nil {
		return fmt.Errorf("serve %q: %w", address, err)
	}
	<-stopped
	return nil
}

// listenTTRPC opens the socket for shims and returns the function that serves it until
// its context is done.
func listenTTRPC(path string, forwarder grpcapi.Forwarder) (func(context.Context) error, error) {
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, fmt.Errorf("make ttrpc server: %w", err)
	}
	grpcapi.RegisterTTRPCEvents(server, forwarder)
	l, err := listen(path)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		err := server.Serve(ctx, l)
		if ctx.Err() != nil || errors.Is(err, ttrpc.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("serve %q: %w", path, err)
	}, nil
}

// lockState keeps a second daemon from taking over the same shims. The error is of class
// ErrUnavailable.
func lockState(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock state %q: another process uses it; stop it, or give this one a state directory of its own: %w", dir, errdefs.ErrUnavailable)
	}
	return func() { _ = f.Close() }, nil
}

// errStop ends a group whose daemon could not start.
var errStop = errors.New("start was given up")

// stopGroup ends what was started before an error.
func stopGroup(g *errgroup.Group) error {
	g.Go(func() error { return errStop })
	if err := g.Wait(); !errors.Is(err, errStop) {
		return err
	}
	return nil
}

// newUUID returns a random UUID, version 4 (RFC 9562 section 5.4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand.Read, Go 1.24
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
