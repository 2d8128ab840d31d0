package stdio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/ctxlog"
	"strata/pkg/linux/unixsock"
	"strata/pkg/shimio"
	"strata/pkg/stdcopy"
	"strata/shim/internal/logs"
)

// handshakeTimeout bounds how long a client may take to say what it wants.
const handshakeTimeout = 10 * time.Second

// Hub is the holder's side of pkg/shimio for one process: it logs the output, gives it
// to the attached clients and takes stdin from them.
//
// Backpressure: a client has a queue of [queueSize] bytes. While one is full, the
// process's output is not read, so the process slows down as on a pipe, until the client
// reads or goes. After the process has ended nothing waits any more: what is left, at
// most what the pipes hold, is queued whole and delivered as the clients read.
type Hub struct {
	uri      shimio.URI
	terminal bool
	log      *logs.Log // nil: none
	listener *net.UnixListener
	stdin    *input

	mu      sync.Mutex
	clients map[*client]struct{}
	free    bool           // the process has ended: no client holds it up
	ended   bool           // no output follows
	wg      sync.WaitGroup // accept loop and clients
}

// OpenHub opens the log and listens on the attach socket. Run serves it.
func OpenHub(uri shimio.URI, terminal bool) (*Hub, error) {
	h := &Hub{uri: uri, terminal: terminal, stdin: newInput(), clients: map[*client]struct{}{}}
	if uri.LogPath != "" {
		l, err := logs.Open(uri.LogPath, logs.Options{MaxSize: uri.MaxSize, MaxFile: uri.MaxFile, Gzip: uri.Gzip, Buffer: uri.Buffer, Attrs: uri.Attrs})
		if err != nil {
			return nil, err
		}
		h.log = l
	}
	l, err := listen(uri.Socket)
	if err != nil {
		if h.log != nil {
			err = errors.Join(err, h.log.Close())
		}
		return nil, err
	}
	h.listener = l
	return h, nil
}

// listen makes the socket path, mode 0600, in place of one that a dead holder has left.
func listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make directory of attach socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale attach socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on attach socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect attach socket: %w", err), l.Close())
	}
	return l, nil
}

// Serve starts to accept clients; Close ends it and waits for it.
func (h *Hub) Serve(ctx context.Context) {
	h.wg.Go(func() {
		for {
			conn, err := h.listener.AcceptUnix()
			if err != nil {
				return // closed
			}
			h.wg.Go(func() {
				if err := h.serve(conn); err != nil {
					ctxlog.From(ctx).Debug("attach client left", ctxlog.Socket, h.uri.Socket, ctxlog.Error, err)
				}
			})
		}
	})
}

// serve runs one client: handshake, then its stdin, while its own goroutine writes.
func (h *Hub) serve(conn *net.UnixConn) error {
	defer conn.Close()
	uid, err := unixsock.PeerUID(conn)
	if err != nil {
		return err
	}
	if uid != 0 && int(uid) != os.Geteuid() {
		return fmt.Errorf("peer has uid %d: %w", uid, errdefs.ErrPermissionDenied)
	}
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	var hello shimio.Hello
	if err := shimio.ReadFrame(conn, &hello); err != nil {
		return errors.Join(err, shimio.WriteFrame(conn, shimio.Reply{Error: err.Error()}))
	}
	c := newClient(conn, hello, h.terminal)
	// Registered before the reply is sent: a client that has its reply misses nothing.
	h.add(c)
	defer h.remove(c)
	if err := shimio.WriteFrame(conn, shimio.Reply{Terminal: h.terminal}); err != nil {
		c.abandon()
		return err
	}
	h.ready(c)
	h.wg.Go(func() { h.readStdin(c) })
	return c.write()
}

// readStdin takes what the client sends, to its half-close, its end or its detach keys.
func (h *Hub) readStdin(c *client) {
	rc, err := c.conn.SyscallConn()
	if err != nil {
		return
	}
	src := source{rc: rc}
	toProcess := c.hello.Stdin && h.uri.Stdin != shimio.StdinNone
	var keys detacher
	if h.terminal {
		keys.keys = c.hello.DetachKeys
	}
	for {
		err := src.next(true, func(p []byte) error {
			p, detach := keys.scan(p)
			if toProcess && len(p) > 0 {
				if _, err := h.stdin.Write(p); err != nil {
					toProcess = false // the process does not read any more; its output goes on
				}
			}
			if detach {
				return errDetached
			}
			return nil
		})
		if err == nil {
			continue
		}
		if errors.Is(err, errDetached) {
			c.abandon()
			return
		}
		if toProcess && h.uri.Stdin == shimio.StdinOnce && !h.terminal {
			h.stdin.Close()
		}
		_ = hungUp(rc) // returns when the client is gone, or the connection closed here
		c.abandon()
		return
	}
}

var errDetached = errors.New("detached")

func (h *Hub) add(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clients[c] = struct{}{}
	if h.free {
		c.unblock()
	}
	if h.ended {
		c.end()
	}
}

// ready ends the time limits of the handshake.
func (h *Hub) ready(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = c.conn.SetDeadline(time.Time{})
	if h.free {
		c.unblock()
	}
}

func (h *Hub) remove(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.clients, c)
}

// output is the sink of one stream's pump.
func (h *Hub) output(stream stdcopy.Stream) (sink func([]byte) error, idle func()) {
	name := logs.Stdout
	if stream == stdcopy.Stderr {
		name = logs.Stderr
	}
	sink = func(p []byte) error {
		if h.log != nil {
			h.log.Write(name, p)
		}
		for _, c := range h.snapshot() {
			c.enqueue(stream, p)
		}
		return nil
	}
	return sink, func() {
		if h.log != nil {
			h.log.Flush(name)
		}
	}
}

func (h *Hub) snapshot() []*client {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.clients) == 0 {
		return nil
	}
	list := make([]*client, 0, len(h.clients))
	for c := range h.clients {
		list = append(list, c)
	}
	return list
}

// processEnded lets no client hold the output up any longer.
func (h *Hub) processEnded() {
	h.stdin.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.free = true
	for c := range h.clients {
		c.unblock()
	}
}

// outputEnded closes each client when its queue is empty.
func (h *Hub) outputEnded() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	for c := range h.clients {
		c.end()
	}
}

// Unlink removes the socket; clients that are there stay until they have everything.
func (h *Hub) Unlink() error {
	err := h.listener.Close() // unlinks
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Close closes the log. With clients that have not read everything it waits until they
// have, none makes progress for patience, or ctx is done; then it abandons them.
func (h *Hub) Close(ctx context.Context) error {
	err := h.Unlink()
	h.outputEnded()
	stop := context.AfterFunc(ctx, func() {
		for _, c := range h.snapshot() {
			c.abandon()
		}
	})
	defer stop()
	h.wg.Wait()
	if h.log != nil {
		err = errors.Join(err, h.log.Close())
	}
	return err
}
