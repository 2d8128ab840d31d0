package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	"github.com/containerd/containerd/api/types"
	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/identifiers"
	"strata/pkg/registry"
)

// Windows of data streams, in bytes.
const (
	dataWindow = 4 << 20
	dataChunk  = 256 << 10
)

// Progress is one step of a transfer, in containerd's words.
type Progress struct {
	Event    string
	Name     string
	Parents  []string
	Progress int64
	Total    int64
	Desc     ocispec.Descriptor
}

// RegistryAuth answers a registry's question for credentials. The zero value is
// anonymous.
type RegistryAuth struct {
	Username, Password string
	IdentityToken      string
	Header             string // a complete Authorization value
}

// AuthFunc answers a registry that asks who is there; nil is anonymous. challenges are the
// values of its WWW-Authenticate.
type AuthFunc func(ctx context.Context, challenges []string) (RegistryAuth, error)

// RegistryAccess says how to reach a registry.
type RegistryAccess struct {
	// Ask is for Host ("docker.io", "localhost:5000") only; its mirrors are anonymous.
	Ask  AuthFunc
	Host string
	// HostDir is a directory of HOST/hosts.toml files that comes before the
	// supervisor's own; "" for none.
	HostDir string
	Headers map[string]string
}

// PullRequest says what to pull.
type PullRequest struct {
	Reference   string // full
	Platform    ocispec.Platform
	Snapshotter string // to unpack to
	Access      RegistryAccess
}

// Pull fetches and unpacks an image and gives it its name. progress is called in order,
// from one goroutine. ErrNotImplemented if the supervisor has no transfer service
// (containerd before 1.7).
func (c *Client) Pull(ctx context.Context, r PullRequest, progress func(Progress)) error {
	t := c.transfer(ctx)
	defer t.end()
	if err := t.listen(progress); err != nil {
		return err
	}
	resolver, err := t.resolver(r.Access)
	if err != nil {
		return err
	}
	platform := platformToWire(r.Platform)
	return t.run(
		&transfertypes.OCIRegistry{Reference: r.Reference, Resolver: resolver},
		&transfertypes.ImageStore{
			Name: r.Reference, Platforms: []*types.Platform{platform},
			Unpacks: []*transfertypes.UnpackConfiguration{{Platform: platform, Snapshotter: r.Snapshotter}},
		})
}

// PushRequest says what to push and where to.
type PushRequest struct {
	Name      string            // of the image
	Reference string            // where to: a name with a tag or a digest
	Platform  *ocispec.Platform // picks one manifest of an index; nil for all
	Access    RegistryAccess
}

// Push sends an image to a registry.
func (c *Client) Push(ctx context.Context, r PushRequest, progress func(Progress)) error {
	t := c.transfer(ctx)
	defer t.end()
	if err := t.listen(progress); err != nil {
		return err
	}
	resolver, err := t.resolver(r.Access)
	if err != nil {
		return err
	}
	src := &transfertypes.ImageStore{Name: r.Name}
	if r.Platform != nil {
		src.Platforms = []*types.Platform{platformToWire(*r.Platform)}
	}
	return t.run(src, &transfertypes.OCIRegistry{Reference: r.Reference, Resolver: resolver})
}

// LoadRequest says what to do with an archive of images.
type LoadRequest struct {
	Archive     io.Reader
	Unnamed     string // prefix of the names PREFIX@DIGEST for images without one
	Platform    ocispec.Platform
	Snapshotter string // to unpack to; "" for not
}

// Load imports an archive; progress event "saved" names each image.
func (c *Client) Load(ctx context.Context, r LoadRequest, progress func(Progress)) error {
	t := c.transfer(ctx)
	defer t.end()
	if err := t.listen(progress); err != nil {
		return err
	}
	id, stream, err := t.open("import")
	if err != nil {
		return err
	}
	sent := make(chan error, 1) // one result
	go func() { sent <- sendBytes(stream, r.Archive) }()
	dst := &transfertypes.ImageStore{ExtraReferences: []*transfertypes.ImageReference{
		{Name: r.Unnamed, IsPrefix: true, AddDigest: true, SkipNamedDigest: true},
	}}
	if r.Snapshotter != "" {
		dst.Unpacks = []*transfertypes.UnpackConfiguration{{Platform: platformToWire(r.Platform), Snapshotter: r.Snapshotter}}
	}
	err = t.run(&transfertypes.ImageImportStream{Stream: id}, dst)
	t.cancel() // ends the sender if the supervisor did not want all of it
	if serr := <-sent; err == nil && serr != nil && !errdefs.IsCanceled(serr) {
		err = fmt.Errorf("send archive: %w", serr)
	}
	return err
}

// Save writes the images called names as one archive to w. A bare digest stands for the
// image of that target, without a name.
func (c *Client) Save(ctx context.Context, names []string, platform *ocispec.Platform, w io.Writer) error {
	t := c.transfer(ctx)
	defer t.end()
	id, stream, err := t.open("export")
	if err != nil {
		return err
	}
	received := make(chan error, 1) // one result
	go func() {
		err := receiveBytes(stream, w)
		if err != nil {
			t.cancel() // nobody takes the rest
		}
		received <- err
	}()
	src := &transfertypes.ImageStore{Name: names[0]}
	for _, n := range names[1:] {
		src.ExtraReferences = append(src.ExtraReferences, &transfertypes.ImageReference{Name: n})
	}
	dst := &transfertypes.ImageExportStream{Stream: id, AllPlatforms: platform == nil}
	if platform != nil {
		dst.Platforms = []*types.Platform{platformToWire(*platform)}
	}
	err = t.run(src, dst)
	if err != nil {
		t.cancel()
	}
	if rerr := <-received; err == nil || errdefs.IsCanceled(err) && rerr != nil {
		err = rerr
	}
	return err
}

func platformToWire(p ocispec.Platform) *types.Platform {
	return &types.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion}
}

// transfer is one call with its streams.
type transfer struct {
	c        *Client
	ctx      context.Context //nolint:containedctx // of the call that owns it
	cancel   context.CancelFunc
	progress string
	ended    []chan struct{} // of the goroutines of streams

	unanswered atomic.Pointer[error] // why a registry was answered as nobody
}

func (c *Client) transfer(ctx context.Context) *transfer {
	ctx, cancel := context.WithCancel(c.scope(ctx))
	return &transfer{c: c, ctx: ctx, cancel: cancel}
}

// end closes the streams and waits for those who read them.
func (t *transfer) end() {
	t.cancel()
	for _, e := range t.ended {
		<-e
	}
}

// open opens a stream and returns its id.
func (t *transfer) open(kind string) (string, streamingapi.Streaming_StreamClient, error) {
	id := kind + "-" + identifiers.Short(identifiers.New())
	stream, err := streamingapi.NewStreamingClient(t.c.conn).Stream(t.ctx)
	if err != nil {
		return "", nil, fmt.Errorf("open %s stream: %w", kind, err)
	}
	if err := sendMessage(stream, &streamingapi.StreamInit{ID: id}); err != nil && !errors.Is(err, io.EOF) {
		return "", nil, fmt.Errorf("open %s stream: %w", kind, err)
	}
	if _, err := stream.Recv(); err != nil { // the acknowledgement, or why Send failed
		if errdefs.IsNotImplemented(err) {
			return "", nil, fmt.Errorf("the supervisor has no image transfer service, containerd has it from 1.7 on: %w", errdefs.ErrNotImplemented)
		}
		return "", nil, fmt.Errorf("open %s stream: %w", kind, err)
	}
	return id, stream, nil
}

// listen passes progress on.
func (t *transfer) listen(progress func(Progress)) error {
	id, stream, err := t.open("progress")
	if err != nil {
		return err
	}
	t.progress = id
	ended := make(chan struct{})
	t.ended = append(t.ended, ended)
	go func() {
		defer close(ended)
		for {
			var p transfertypes.Progress
			if err := receiveMessage(stream, &p); err != nil {
				return // the supervisor closes it after the last step
			}
			if progress != nil {
				progress(Progress{Event: p.Event, Name: p.Name, Parents: p.Parents, Progress: p.Progress, Total: p.Total, Desc: descriptorFromWire(p.Desc)})
			}
		}
	}()
	return nil
}

// resolver opens a stream that answers for credentials, if there are any.
func (t *transfer) resolver(a RegistryAccess) (*transfertypes.RegistryResolver, error) {
	r := &transfertypes.RegistryResolver{HostDir: a.HostDir, Headers: a.Headers}
	if a.Ask == nil {
		return r, nil
	}
	id, stream, err := t.open("auth")
	if err != nil {
		return nil, err
	}
	r.AuthStream = id
	ended := make(chan struct{})
	t.ended = append(t.ended, ended)
	go func() {
		defer close(ended)
		for {
			var req transfertypes.AuthRequest
			if receiveMessage(stream, &req) != nil {
				return
			}
			answer, err := a.answer(t.ctx, req.Host, req.Wwwauthenticate)
			if err != nil {
				t.unanswered.Store(&err)
			}
			if sendMessage(stream, answer) != nil {
				return
			}
		}
	}()
	return r, nil
}

// answer returns the credential for a host that asks: none for mirrors, and none with an
// error.
func (a RegistryAccess) answer(ctx context.Context, host string, challenges []string) (*transfertypes.AuthResponse, error) {
	none := &transfertypes.AuthResponse{AuthType: transfertypes.AuthType_NONE}
	if registry.ServerName(host) != registry.ServerName(a.Host) {
		return none, nil
	}
	auth, err := a.Ask(ctx, challenges)
	if err != nil || auth == (RegistryAuth{}) {
		return none, err
	}
	return auth.wire(), nil
}

func (a RegistryAuth) wire() *transfertypes.AuthResponse {
	switch {
	case a.Header != "":
		return &transfertypes.AuthResponse{AuthType: transfertypes.AuthType_HEADER, Secret: a.Header}
	case a.IdentityToken != "":
		return &transfertypes.AuthResponse{AuthType: transfertypes.AuthType_REFRESH, Secret: a.IdentityToken}
	default:
		return &transfertypes.AuthResponse{AuthType: transfertypes.AuthType_CREDENTIALS, Username: a.Username, Secret: a.Password}
	}
}

// run calls Transfer and waits for the last step of its progress.
func (t *transfer) run(src, dst proto.Message) error {
	s, err := toAny(src)
	if err != nil {
		return err
	}
	d, err := toAny(dst)
	if err != nil {
		return err
	}
	_, err = transferapi.NewTransferClient(t.c.conn).Transfer(t.ctx, &transferapi.TransferRequest{
		Source: s, Destination: d, Options: &transferapi.TransferOptions{ProgressStream: t.progress},
	})
	if err == nil && t.progress != "" {
		select {
		case <-t.ended[0]:
		case <-t.ctx.Done():
		}
	}
	if cause := t.unanswered.Load(); err != nil && cause != nil {
		return fmt.Errorf("%w: %w", *cause, err) // the registry has been asked as nobody
	}
	return err
}

func toAny(m proto.Message) (*anypb.Any, error) {
	a, err := typeurl.MarshalAny(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: a.GetTypeUrl(), Value: a.GetValue()}, nil
}

func sendMessage(s streamingapi.Streaming_StreamClient, m proto.Message) error {
	a, err := toAny(m)
	if err != nil {
		return err
	}
	return s.Send(a)
}

func receiveMessage(s streamingapi.Streaming_StreamClient, m proto.Message) error {
	a, err := s.Recv()
	if err != nil {
		return err
	}
	return typeurl.UnmarshalTo(a, m)
}

// sendBytes sends r within the windows that the supervisor opens.
func sendBytes(s streamingapi.Streaming_StreamClient, r io.Reader) error {
	buf := make([]byte, dataChunk)
	left := int32(0)
	for {
		n, rerr := r.Read(buf)
		for part := buf[:n]; len(part) > 0; {
			for left <= 0 {
				var u transfertypes.WindowUpdate
				if err := receiveMessage(s, &u); err != nil {
					if errors.Is(err, io.EOF) {
						return nil // the supervisor has what it wants
					}
					return err
				}
				left += u.Update
			}
			k := min(len(part), int(left))
			if err := sendMessage(s, &transfertypes.Data{Data: part[:k]}); err != nil {
				if errors.Is(err, io.EOF) {
					return nil // the call itself has the error
				}
				return err
			}
			left -= int32(k)
			part = part[k:]
		}
		if errors.Is(rerr, io.EOF) {
			return s.CloseSend()
		}
		if rerr != nil {
			return rerr
		}
	}
}

// receiveBytes copies a data stream to w.
func receiveBytes(s streamingapi.Streaming_StreamClient, w io.Writer) error {
	left := int32(0)
	for {
		if left <= dataWindow/2 {
			if err := sendMessage(s, &transfertypes.WindowUpdate{Update: dataWindow - left}); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			left = dataWindow
		}
		var d transfertypes.Data
		if err := receiveMessage(s, &d); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		left -= int32(len(d.Data))
		if _, err := w.Write(d.Data); err != nil {
			return err
		}
	}
}
