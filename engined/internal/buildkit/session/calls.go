package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"strata/pkg/buildkit"
	"strata/pkg/buildkit/sessionpb"
)

// maxSecret bounds a secret, in bytes, as BuildKit does.
const maxSecret = 500 << 10

// Secret returns a secret; ErrNotFound if the client has none of that id, or none at all.
func (s *Session) Secret(ctx context.Context, id string) ([]byte, error) {
	if !s.Offers(sessionpb.Secrets_GetSecret_FullMethodName) {
		return nil, fmt.Errorf("secret %s: %w", id, errdefs.ErrNotFound)
	}
	ctx, stop := s.bind(ctx)
	defer stop()
	r, err := sessionpb.NewSecretsClient(s.cc).GetSecret(ctx, &sessionpb.GetSecretRequest{ID: id})
	if err != nil {
		return nil, s.wrap(ctx, "secret "+id, err)
	}
	if len(r.Data) > maxSecret {
		return nil, fmt.Errorf("secret %s is larger than %d bytes: %w", id, maxSecret, errdefs.ErrInvalidArgument)
	}
	return r.Data, nil
}

// Dial connects to an SSH agent of the client ("" for the default one); ErrNotFound if it
// forwards none of that id. The connection lives as long as ctx and the session.
func (s *Session) Dial(ctx context.Context, id string) (net.Conn, error) {
	if id == "" {
		id = "default"
	}
	what := "ssh agent " + id
	if !s.Offers(sessionpb.SSH_ForwardAgent_FullMethodName) {
		return nil, fmt.Errorf("%s: %w", what, errdefs.ErrNotFound)
	}
	ctx, stop := s.bind(ctx)
	client := sessionpb.NewSSHClient(s.cc)
	if _, err := client.CheckAgent(ctx, &sessionpb.CheckAgentRequest{ID: id}); err != nil {
		defer stop()
		err = s.wrap(ctx, what, err)
		if ctx.Err() == nil {
			// The reference client's answer for an unknown id has no class.
			err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
		}
		return nil, err
	}
	stream, err := client.ForwardAgent(metadata.AppendToOutgoingContext(ctx, buildkit.KeySSHID, id))
	if err != nil {
		defer stop()
		return nil, s.wrap(ctx, what, err)
	}
	near, far := net.Pipe()
	go func() { // ends with the stream, which ends with near, ctx or the session
		_, _ = io.Copy(far, buildkit.NewReader(stream)) // an agent that breaks off says so by its end
		_ = far.Close()
		stop()
	}()
	go func() { // ends when either end of the pipe is closed
		_, _ = io.Copy(buildkit.Chunks(stream), far)
		_ = stream.CloseSend()
	}()
	return near, nil
}

// Upload returns a context that the client gives in one piece: a tar, or a Dockerfile.
// path is that of the context's URL. Close it.
func (s *Session) Upload(ctx context.Context, path string) (io.ReadCloser, error) {
	if !s.Offers(sessionpb.Upload_Pull_FullMethodName) {
		return nil, fmt.Errorf("build context %s: the client sends none: %w", path, errdefs.ErrInvalidArgument)
	}
	ctx, stop := s.bind(ctx)
	ctx = metadata.AppendToOutgoingContext(ctx, buildkit.KeyUploadPath, path, buildkit.KeyUploadHost, buildkit.UploadHost)
	stream, err := sessionpb.NewUploadClient(s.cc).Pull(ctx)
	if err != nil {
		defer stop()
		return nil, s.wrap(ctx, "build context", err)
	}
	return &upload{buildkit.NewReader(stream), stream, stop, func(err error) error { return s.wrap(ctx, "build context", err) }}, nil
}

type upload struct {
	io.Reader
	stream grpc.ClientStream
	stop   func()
	wrap   func(error) error
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = u.wrap(err)
	}
	return n, err
}

func (u *upload) Close() error {
	err := u.stream.CloseSend()
	u.stop()
	return err
}

// FilesRequest says which files of a directory of the client are wanted.
type FilesRequest struct {
	Dir     string   // "context", "dockerfile", a name of --build-context
	Follow  []string // paths and patterns, with what symlinks on their way point to; none for all
	Exclude []string // patterns of .dockerignore
}

// Packets is a stream of files.
type Packets = grpc.BidiStreamingClient[sessionpb.Packet, sessionpb.Packet]

// Files calls receive with the packets of a directory of the client.
func (s *Session) Files(ctx context.Context, r FilesRequest, receive func(ctx context.Context, p Packets) error) error {
	if !s.Offers(sessionpb.FileSync_DiffCopy_FullMethodName) {
		return fmt.Errorf("directory %q: the client sends no files: %w", r.Dir, errdefs.ErrInvalidArgument)
	}
	ctx, stop := s.bind(ctx)
	defer stop()
	md := metadata.MD{}
	buildkit.EncodeMetadata(md, buildkit.KeyDirName, []string{r.Dir})
	buildkit.EncodeMetadata(md, buildkit.KeyFollow, r.Follow)
	buildkit.EncodeMetadata(md, buildkit.KeyExclude, r.Exclude)
	stream, err := sessionpb.NewFileSyncClient(s.cc).DiffCopy(metadata.NewOutgoingContext(ctx, md))
	if err == nil {
		err = receive(ctx, stream)
	}
	return s.wrap(ctx, "files of "+r.Dir, err)
}

// SendFile returns a writer to the place that the client has for the output of an exporter;
// meta is what the exporter says about it. Close ends it well, and returns the client's
// verdict. ErrAlreadyExists if the client does not want it.
func (s *Session) SendFile(ctx context.Context, exporter int, meta map[string]string) (io.WriteCloser, error) {
	ctx, stop := s.bind(ctx)
	md := metadata.Pairs(buildkit.KeyExporterID, strconv.Itoa(exporter))
	for k, v := range meta {
		md.Set(buildkit.PrefixExporterMeta+k, v)
	}
	stream, err := s.fileSend(ctx, md)
	if err != nil {
		defer stop()
		return nil, err
	}
	w := buildkit.NewWriter(stream)
	return &sending{ctx: ctx, s: s, Writer: w, flush: w.Flush, stream: stream, stop: stop}, nil
}

func (s *Session) fileSend(ctx context.Context, md metadata.MD) (grpc.BidiStreamingClient[sessionpb.BytesMessage, sessionpb.BytesMessage], error) {
	if !s.Offers(sessionpb.FileSend_DiffCopy_FullMethodName) {
		return nil, fmt.Errorf("output: the client takes none: %w", errdefs.ErrInvalidArgument)
	}
	stream, err := sessionpb.NewFileSendClient(s.cc).DiffCopy(metadata.NewOutgoingContext(ctx, md))
	return stream, s.wrap(ctx, "output", err)
}

type sending struct {
	io.Writer
	ctx    context.Context //nolint:containedctx // the stream's
	s      *Session
	flush  func() error
	stream grpc.BidiStreamingClient[sessionpb.BytesMessage, sessionpb.BytesMessage]
	stop   func()
}

func (w *sending) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	return n, w.verdict(err)
}

// verdict replaces the end of the stream, which is all that a writer sees of an error at the
// other side, by that error.
func (w *sending) verdict(err error) error {
	if errors.Is(err, io.EOF) {
		_, err = w.stream.Recv()
	}
	return w.s.wrap(w.ctx, "output", err)
}

func (w *sending) Close() error {
	defer w.stop()
	if err := w.flush(); err != nil {
		return w.verdict(err)
	}
	if err := w.stream.CloseSend(); err != nil {
		return w.verdict(err)
	}
	_, err := w.stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return w.s.wrap(w.ctx, "output", err)
}

// SendTree calls send with the stream of the place that the client has for the files of an
// exporter: packets are spoken there, whatever the method says.
func (s *Session) SendTree(ctx context.Context, exporter int, send func(p PacketStream) error) error {
	ctx, stop := s.bind(ctx)
	defer stop()
	stream, err := s.fileSend(ctx, metadata.Pairs(buildkit.KeyExporterID, strconv.Itoa(exporter), buildkit.KeyExporterMulti, "1"))
	if err != nil {
		return err
	}
	return s.wrap(ctx, "output", send(PacketStream{stream}))
}

// PacketStream speaks packets on a stream that is declared for bytes.
type PacketStream struct{ grpc.ClientStream }

// Send sends a packet.
func (p PacketStream) Send(m *sessionpb.Packet) error { return p.SendMsg(m) }

// Recv receives a packet.
func (p PacketStream) Recv() (*sessionpb.Packet, error) {
	m := &sessionpb.Packet{}
	return m, p.RecvMsg(m)
}
