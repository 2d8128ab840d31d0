package names

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/ctxlog"
	"strata/pkg/linux/netns"
	"strata/pkg/names"
)

// Limits of one container.
const (
	maxPending = 1000             // forwarded queries under way, as with dockerd
	maxConns   = 100              // TCP connections
	maxQuery   = 4096             // bytes; real ones have less than 300
	idleConn   = 10 * time.Second // after which a TCP connection is closed
)

// gcPercent has the garbage of queries collected at a quarter of the heap that Go lets grow:
// at 1 MB instead of 4 (runtime/debug.SetGCPercent). It is set with the first query: a
// collection has costs of its own (see pkg/linux/selfmem). Our measurement, 2026-11, kB of
// Private_Dirty: 1860 before any query; after 10,000, 6860 with 100 percent, 4140 with 25.
const gcPercent = 25

// Server answers DNS for one container.
type Server struct {
	store   *names.Store
	forward *forwarder
	udp     *net.UDPConn
	tcp     *net.TCPListener
	pending chan struct{} // a token for each forwarded query under way
	conns   chan struct{} // a token for each TCP connection
	turn4   atomic.Uint32 // of the round robin
	turn6   atomic.Uint32

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Start starts the server that the spec in bundle asks for, before anything runs in the
// container; nil if it asks for none. Close it.
//
// Errors are of class ErrInvalidArgument for a names file or spec that is none, and those of
// the kernel.
func Start(ctx context.Context, bundle string) (*Server, error) {
	file, ns, err := wanted(bundle)
	if err != nil || file == "" {
		return nil, err
	}
	f, err := names.Read(file)
	if errors.Is(err, os.ErrNotExist) { // its engine has forgotten the container
		ctxlog.From(ctx).Warn("container has no names file, and no DNS", "path", file)
		return nil, nil //nolint:nilnil // documented
	}
	if err != nil {
		return nil, err
	}
	store, err := names.Open(file)
	if err != nil {
		return nil, err
	}
	s := &Server{store: store, forward: newForwarder(), pending: make(chan struct{}, maxPending), conns: make(chan struct{}, maxConns)}
	if err := netns.DoPath(ns, func() error { return s.listen(f.Listen) }); err != nil {
		return nil, fmt.Errorf("listen for DNS: %w", err)
	}
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.wg.Go(func() { s.serveUDP(ctx) })
	s.wg.Go(func() { s.serveTCP(ctx) })
	return s, nil
}

// listen opens the sockets in the netns of the calling thread.
func (s *Server) listen(at netip.AddrPort) (err error) {
	if !at.Addr().IsLoopback() {
		return fmt.Errorf("address %s is not a loopback one: %w", at, errdefs.ErrInvalidArgument)
	}
	if s.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err != nil {
		return err
	}
	if s.tcp, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)); err != nil {
		return errors.Join(err, s.udp.Close())
	}
	return nil
}

// Close ends the server and returns when its address is free. A nil server is closed.
func (s *Server) Close() {
	if s == nil {
		return
	}
	s.cancel()
	_ = s.udp.Close()
	_ = s.tcp.Close()
	s.wg.Wait()
}

// maxSpec bounds what is read of a spec, in bytes.
const maxSpec = 16 << 20

// wanted returns the names file that a bundle's spec names, and the path of the netns that
// the container joins.
func wanted(bundle string) (file, ns string, err error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return "", "", fmt.Errorf("read spec: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSpec))
	if err != nil {
		return "", "", fmt.Errorf("read spec: %w", err)
	}
	if !bytes.Contains(data, []byte(`"`+names.Annotation+`"`)) {
		return "", "", nil // saves most starts the time to parse
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
		Linux       struct {
			Namespaces []struct {
				Type string `json:"type"`
				Path string `json:"path"`
			} `json:"namespaces"`
		} `json:"linux"`
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return "", "", fmt.Errorf("decode spec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	file = spec.Annotations[names.Annotation]
	for _, n := range spec.Linux.Namespaces {
		if n.Type == "network" {
			ns = n.Path
		}
	}
	if file != "" && ns == "" {
		return "", "", fmt.Errorf("annotation %s without a network namespace that has a path: %w", names.Annotation, errdefs.ErrInvalidArgument)
	}
	return file, ns, nil
}

// serveUDP answers until the socket is closed. Our own names are answered in place; what has
// to wait for others does so in a goroutine of its own.
func (s *Server) serveUDP(ctx context.Context) {
	buf := make([]byte, maxQuery)
	saving := sync.OnceFunc(func() { debug.SetGCPercent(gcPercent) })
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // of one packet: a client that is gone
		}
		saving()
		q, reply := s.local(buf[:n], true)
		if reply != nil {
			_, _ = s.udp.WriteToUDPAddrPort(reply, from) // a client that is gone asks no more
		}
		if q == nil {
			continue
		}
		select {
		case s.pending <- struct{}{}:
		default:
			_, _ = s.udp.WriteToUDPAddrPort(q.failure(rcodeServFail), from)
			continue
		}
		q.own()
		s.wg.Go(func() {
			defer func() { <-s.pending }()
			_, _ = s.udp.WriteToUDPAddrPort(s.forward.ask(ctx, q, s.store.View().Upstreams), from)
		})
	}
}

// serveTCP accepts connections until the listener is closed.
func (s *Server) serveTCP(ctx context.Context) {
	for {
		c, err := s.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select { // out of descriptors, perhaps
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case s.conns <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.conns }()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			defer c.Close()
			s.serveConn(ctx, c)
		})
	}
}

// serveConn answers one query after the other.
func (s *Server) serveConn(ctx context.Context, c net.Conn) {
	for {
		if c.SetDeadline(time.Now().Add(idleConn)) != nil {
			return
		}
		query, err := readTCP(c, maxQuery)
		if err != nil {
			return
		}
		q, reply := s.local(query, false)
		if q != nil {
			select {
			case s.pending <- struct{}{}:
				reply = s.forward.ask(ctx, q, s.store.View().Upstreams)
				<-s.pending
			default:
				reply = q.failure(rcodeServFail)
			}
		}
		if reply == nil || writeTCP(c, reply) != nil {
			return
		}
	}
}

// readTCP reads a message behind its length. Source: RFC 1035, 4.2.2.
func readTCP(r io.Reader, limit int) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > limit {
		return nil, fmt.Errorf("message of %d bytes is longer than %d: %w", n, limit, errdefs.ErrInvalidArgument)
	}
	msg := make([]byte, n)
	_, err := io.ReadFull(r, msg)
	return msg, err
}

func writeTCP(w io.Writer, msg []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	return err
}
