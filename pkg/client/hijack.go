package client

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/moby/moby/api/types"
)

// Stream is a connection taken over from HTTP: raw in both directions. Close it.
type Stream struct {
	conn net.Conn
	r    *bufio.Reader
	// MediaType is what the daemon said about its direction; empty before API 1.42.
	MediaType string
}

// Read returns what the daemon sends, including what arrived together with its headers.
func (s *Stream) Read(b []byte) (int, error) { return s.r.Read(b) }

// Write sends to the daemon.
func (s *Stream) Write(b []byte) (int, error) { return s.conn.Write(b) }

// Close ends both directions.
func (s *Stream) Close() error { return s.conn.Close() }

// CloseWrite tells the daemon that no more input comes; output goes on.
func (s *Stream) CloseWrite() error {
	if cw, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

// Multiplexed says whether the stream carries stdcopy frames; tty is used where the daemon is
// too old to say.
func (s *Stream) Multiplexed(tty bool) bool {
	switch s.MediaType {
	case types.MediaTypeMultiplexedStream:
		return true
	case types.MediaTypeRawStream:
		// Daemons before API 1.42 call every stream raw.
		return !tty
	}
	return !tty
}

// WriteTo copies the rest of the stream without an intermediate buffer.
func (s *Stream) WriteTo(w io.Writer) (int64, error) { return s.r.WriteTo(w) }

// hijack sends r on a connection of its own and takes the connection over.
func (c *Client) hijack(ctx context.Context, r request) (*Stream, error) {
	return c.hijackAs(ctx, "tcp", r)
}

// hijackAs is hijack for a protocol of another name.
func (c *Client) hijackAs(ctx context.Context, protocol string, r request) (*Stream, error) {
	version, err := c.Version(ctx)
	if err != nil {
		return nil, err
	}
	req, err := c.newRequest(ctx, r, version)
	if err != nil {
		return nil, err
	}
	if r.body == nil {
		req.Header.Set("Content-Type", "text/plain")
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	s, err := upgrade(conn, req)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

func upgrade(conn net.Conn, req *http.Request) (*Stream, error) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		// A firewall between us may forget a silent connection.
		_ = tcp.SetKeepAlive(true)
	}
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("send %s %s: %w", req.Method, req.URL.Path, err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return nil, fmt.Errorf("read answer to %s %s: %w", req.Method, req.URL.Path, err)
	}
	if err := checkStatus(resp); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols && resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("upgrade %s %s: unexpected status %s", req.Method, req.URL.Path, resp.Status)
	}
	return &Stream{conn: conn, r: br, MediaType: resp.Header.Get("Content-Type")}, nil
}
