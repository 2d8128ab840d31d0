package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	"github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/pkg/namespaces"
)

// Flow control of data streams: the receiver opens windows, in bytes, and the sender stays
// within them. Source: containerd docs/transfer.md and the streams of its client.
const (
	streamWindow = 4 << 20 // what we let a sender send ahead
	streamChunk  = 256 << 10
)

// Streams is the streaming service: clients open a stream under an id, and a later call
// names the id of the stream to use. A stream belongs to a namespace.
type Streams struct {
	streamingapi.UnimplementedStreamingServer

	mu      sync.Mutex
	streams map[string]*stream // by namespace and id
}

// NewStreams returns a service without streams.
func NewStreams() *Streams { return &Streams{streams: map[string]*stream{}} }

// RegisterStreaming adds the service to a server.
func RegisterStreaming(s *grpc.Server, streams *Streams) {
	streamingapi.RegisterStreamingServer(s, streams)
}

// stream is one open stream. One goroutine may send while another one receives.
type stream struct {
	grpc streamingapi.Streaming_StreamServer
	once sync.Once
	done chan struct{} // closed by close: the stream's handler returns
}

// Stream implements containerd.services.streaming.v1.Streaming: it lends the stream to
// whoever names its id, until that one closes it or the client goes away.
func (s *Streams) Stream(srv streamingapi.Streaming_StreamServer) error {
	ns, err := namespaces.Required(srv.Context())
	if err != nil {
		return err
	}
	first, err := srv.Recv()
	if err != nil {
		return err
	}
	var start streamingapi.StreamInit
	if err := unmarshal(first, &start); err != nil {
		return err
	}
	if start.ID == "" {
		return fmt.Errorf("stream without an id: %w", errdefs.ErrInvalidArgument)
	}
	st := &stream{grpc: srv, done: make(chan struct{})}
	key := ns + "/" + start.ID
	s.mu.Lock()
	_, taken := s.streams[key]
	if !taken {
		s.streams[key] = st
	}
	s.mu.Unlock()
	if taken {
		return fmt.Errorf("stream %q: %w", start.ID, errdefs.ErrAlreadyExists)
	}
	defer func() {
		s.mu.Lock()
		delete(s.streams, key)
		s.mu.Unlock()
	}()
	if err := st.send(&emptypb.Empty{}); err != nil {
		return err
	}
	select {
	case <-st.done:
		return nil
	case <-srv.Context().Done():
		return srv.Context().Err()
	}
}

// get returns the stream id of the namespace of ctx.
func (s *Streams) get(ctx context.Context, id string) (*stream, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.streams[ns+"/"+id]
	if !ok {
		return nil, fmt.Errorf("stream %q: %w", id, errdefs.ErrNotFound)
	}
	return st, nil
}

func (st *stream) send(m proto.Message) error {
	a, err := toAny(m)
	if err != nil {
		return err
	}
	return st.grpc.Send(a)
}

func (st *stream) recv(m proto.Message) error {
	a, err := st.grpc.Recv()
	if err != nil {
		return err
	}
	return unmarshal(a, m)
}

// close ends the stream; what was sent is delivered. It may be called twice.
func (st *stream) close() { st.once.Do(func() { close(st.done) }) }

// toAny packs m under its bare name, as containerd does.
func toAny(m proto.Message) (*anypb.Any, error) {
	a, err := typeurl.MarshalAny(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: a.GetTypeUrl(), Value: a.GetValue()}, nil
}

// unmarshal unpacks a into m, under its bare name or with a prefix. Errors are of class
// ErrInvalidArgument.
func unmarshal(a *anypb.Any, m proto.Message) error {
	if err := typeurl.UnmarshalTo(a, m); err != nil {
		return fmt.Errorf("want a %s: %w: %w", m.ProtoReflect().Descriptor().FullName(), err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// byteReader reads the bytes that a client sends in Data messages.
type byteReader struct {
	st     *stream
	window int32
	rest   []byte
}

// Read implements io.Reader; the end of the stream is io.EOF.
func (r *byteReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.window <= streamWindow/2 {
			if err := r.st.send(&transfer.WindowUpdate{Update: streamWindow - r.window}); err != nil {
				return 0, err
			}
			r.window = streamWindow
		}
		var d transfer.Data
		if err := r.st.recv(&d); err != nil {
			return 0, err // io.EOF once the client has closed its side
		}
		r.window -= int32(len(d.Data))
		r.rest = d.Data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// byteWriter sends bytes in Data messages, as far as the client opens its window.
type byteWriter struct {
	st     *stream
	window chan int32 // updates; closed when the client is gone

	left int32
}

// newByteWriter listens for the client's windows until ctx or the stream ends. wait
// returns when the listener has.
func newByteWriter(ctx context.Context, st *stream) (w *byteWriter, wait func()) {
	w = &byteWriter{st: st, window: make(chan int32)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(w.window)
		for {
			var u transfer.WindowUpdate
			if err := st.recv(&u); err != nil {
				return // the client or the handler is gone
			}
			select {
			case w.window <- u.Update:
			case <-ctx.Done():
				return
			case <-st.done:
				return
			}
		}
	}()
	return w, func() { <-ended }
}

// Write implements io.Writer.
func (w *byteWriter) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		for w.left <= 0 {
			u, ok := <-w.window
			if !ok {
				return n, io.ErrClosedPipe
			}
			w.left += u
		}
		chunk := p[:min(len(p), streamChunk, int(w.left))]
		if err := w.st.send(&transfer.Data{Data: chunk}); err != nil {
			return n, errors.Join(io.ErrClosedPipe, err)
		}
		w.left -= int32(len(chunk))
		n += len(chunk)
		p = p[len(chunk):]
	}
	return n, nil
}
