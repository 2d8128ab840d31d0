package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/shimio"
)

// AttachRequest says which streams a client wants.
type AttachRequest struct {
	Stdin, Stdout, Stderr bool
	DetachKeys            []byte
}

// pendingAttach is a client that attached before the container was started.
type pendingAttach struct {
	hello shimio.Hello
	conn  chan net.Conn // buffered 1; closed without a value if there will be no start
}

// Attachment is a client's hold on a container's streams.
type Attachment struct {
	Container *Container
	svc       *Service
	hello     shimio.Hello
	pending   *pendingAttach // nil if the container ran
	conn      net.Conn       // nil while pending
}

// Attach takes hold of the streams of a container: of the next run if it does not run
// yet, so that nothing of the beginning is missed. Close it. ErrConflict for a container
// that is paused or restarting.
func (s *Service) Attach(ctx context.Context, ref string, r AttachRequest) (*Attachment, error) {
	c, err := s.Get(ref)
	if err != nil {
		return nil, err
	}
	d := c.Definition()
	a := &Attachment{Container: c, svc: s, hello: shimio.Hello{Stdin: r.Stdin && d.Config.OpenStdin, Stdout: r.Stdout, Stderr: r.Stderr}}
	if d.Config.Tty {
		a.hello.DetachKeys = r.DetachKeys
	}
	if !r.Stdin && !r.Stdout && !r.Stderr {
		return a, nil
	}
	c.mu.Lock()
	st := *c.state.Load()
	if st.Status == Created || st.Status == Exited {
		a.pending = &pendingAttach{hello: a.hello, conn: make(chan net.Conn, 1)}
		c.pending[a.pending] = struct{}{}
	}
	c.mu.Unlock()
	switch {
	case a.pending != nil:
		return a, nil
	case st.Status == Paused:
		return nil, fmt.Errorf("container %s is paused, unpause the container before attach: %w", c.ID, errdefs.ErrConflict)
	case st.Status == Restarting:
		return nil, fmt.Errorf("container %s is restarting, wait until the container is running: %w", c.ID, errdefs.ErrConflict)
	case !st.Status.HasTask():
		return nil, c.notRunning()
	}
	a.conn, err = DialAttach(ctx, s.socketPath(c.ID), a.hello)
	if err != nil {
		return nil, fmt.Errorf("attach to container %s: %w", c.ID, err)
	}
	return a, nil
}

// Attached publishes that a client is attached.
func (a *Attachment) Attached() { a.svc.publish(a.Container, "attach") }

// Conn returns the connection to the process's streams, and waits for the container's
// start if need be. It is nil without an error if there is nothing to wait for any more.
func (a *Attachment) Conn(ctx context.Context) (net.Conn, error) {
	if a.conn != nil || a.pending == nil {
		return a.conn, nil
	}
	select {
	case conn := <-a.pending.conn:
		a.conn = conn
		return conn, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close lets go.
func (a *Attachment) Close() {
	if a.pending != nil {
		a.Container.mu.Lock()
		delete(a.Container.pending, a.pending)
		a.Container.mu.Unlock()
		select {
		case conn, ok := <-a.pending.conn:
			if ok && a.conn == nil {
				a.conn = conn
			}
		default:
		}
	}
	if a.conn != nil {
		_ = a.conn.Close() // nothing is lost: the process's side notices
	}
}

// DialAttach connects to an attach socket and shakes hands.
func DialAttach(ctx context.Context, socket string, hello shimio.Hello) (net.Conn, error) {
	conn, err := dialStreams(ctx, socket)
	if err != nil {
		return nil, fmt.Errorf("connect to streams: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends the handshake
	defer stop()
	var reply shimio.Reply
	err = errors.Join(shimio.WriteFrame(conn, hello), nil)
	if err == nil {
		err = shimio.ReadFrame(conn, &reply)
	}
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	if err != nil {
		_ = conn.Close() // the first error says more
		return nil, err
	}
	return conn, nil
}

// Patience with a logger under a foreign shim, which may still be starting when the shim
// says that the task is there. Our shim's socket is there at once.
const (
	loggerPatience = 2 * time.Second
	loggerPause    = 2 * time.Millisecond
)

func dialStreams(ctx context.Context, socket string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	for deadline := time.Now().Add(loggerPatience); errors.Is(err, fs.ErrNotExist) && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(loggerPause):
		}
		conn, err = d.DialContext(ctx, "unix", socket)
	}
	return conn, err
}

// connectPending gives the clients that waited for a start their connections, before the
// process runs.
func (s *Service) connectPending(ctx context.Context, c *Container, socket string) error {
	c.mu.Lock()
	waiting := c.pending
	c.pending = map[*pendingAttach]struct{}{}
	c.mu.Unlock()
	for p := range waiting {
		conn, err := DialAttach(ctx, socket, p.hello)
		if err != nil {
			close(p.conn)
			return fmt.Errorf("attach to container %s: %w", c.ID, err)
		}
		p.conn <- conn
	}
	return nil
}

// failPending sends away the clients that waited for a start.
func (c *Container) failPending(error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range c.pending {
		close(p.conn)
	}
	c.pending = map[*pendingAttach]struct{}{}
}

// Splice copies between a client and a process until the process's side ends: what the
// client sends goes to stdin, and its end of input is passed on as a half-close.
func Splice(client io.ReadWriter, process net.Conn) error {
	go func() { // ends when the client or the process goes away: the caller closes both
		_, _ = io.Copy(process, client) // a client that is gone just stops sending
		if half, ok := process.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // the process may be gone already
		}
	}()
	_, err := io.Copy(client, process)
	return err
}
