package buildkit

import (
	"io"
	"net"
	"sync"
	"time"

	"strata/pkg/buildkit"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/buildkit/sessionpb"
)

// streamConn makes a stream of bytes a connection. Its end is that of the stream: closing it
// ends reads and writes here, and the handler's return ends the stream.
type streamConn struct {
	io.Reader
	io.Writer
	once   sync.Once
	closed chan struct{}
}

// controlStream speaks one kind of message for another: they are the same bytes.
type controlStream struct {
	controlpb.Control_SessionServer
}

func (s controlStream) Send(m *sessionpb.BytesMessage) error {
	return s.Control_SessionServer.Send(&controlpb.BytesMessage{Data: m.Data})
}

func (s controlStream) Recv() (*sessionpb.BytesMessage, error) {
	m, err := s.Control_SessionServer.Recv()
	return &sessionpb.BytesMessage{Data: m.GetData()}, err
}

func newStreamConn(s controlpb.Control_SessionServer) *streamConn {
	return &streamConn{Reader: buildkit.NewReader(controlStream{s}), Writer: buildkit.Chunks(controlStream{s}), closed: make(chan struct{})}
}

func (c *streamConn) Write(p []byte) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
		return c.Writer.Write(p)
	}
}

func (c *streamConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *streamConn) LocalAddr() net.Addr              { return address{} }
func (c *streamConn) RemoteAddr() net.Addr             { return address{} }
func (c *streamConn) SetDeadline(time.Time) error      { return nil }
func (c *streamConn) SetReadDeadline(time.Time) error  { return nil }
func (c *streamConn) SetWriteDeadline(time.Time) error { return nil }
