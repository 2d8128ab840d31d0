package client

import (
	"context"
	"net"
	"net/http"
	"time"
)

// Upgrade opens a connection for another protocol (h2c) at a path of the daemon, as
// BuildKit's session and control API have it. h are further headers. Close the connection.
func (c *Client) Upgrade(ctx context.Context, path, protocol string, h http.Header) (net.Conn, error) {
	s, err := c.hijackAs(ctx, protocol, request{method: http.MethodPost, path: path, header: h})
	if err != nil {
		return nil, err
	}
	return streamConn{s}, nil
}

// streamConn is a Stream with the rest of net.Conn.
type streamConn struct{ *Stream }

func (s streamConn) LocalAddr() net.Addr                { return s.conn.LocalAddr() }
func (s streamConn) RemoteAddr() net.Addr               { return s.conn.RemoteAddr() }
func (s streamConn) SetDeadline(t time.Time) error      { return s.conn.SetDeadline(t) }
func (s streamConn) SetReadDeadline(t time.Time) error  { return s.conn.SetReadDeadline(t) }
func (s streamConn) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }
