package session

import (
	"context"
	"errors"
	"fmt"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/metadata"

	"strata/pkg/buildkit"
)

// Blobs is a store of content that the client serves with containerd's content API: an OCI
// layout. It knows no tags: the client looks them up before it asks for a build, and keeps
// its index itself.
type Blobs struct {
	s     *Session
	store string
}

// Blobs returns the store that the client calls so.
func (s *Session) Blobs(store string) *Blobs { return &Blobs{s, store} }

func (b *Blobs) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := b.s.bind(ctx)
	return metadata.AppendToOutgoingContext(ctx, buildkit.KeyStoreID, b.store), stop
}

func (b *Blobs) wrap(ctx context.Context, what string, err error) error {
	return b.s.wrap(ctx, "content store "+b.store+": "+what, err)
}

// Resolve finds a digest; a tag is ErrNotFound.
func (b *Blobs) Resolve(ctx context.Context, tag string) (ocispec.Descriptor, error) {
	d, err := digest.Parse(tag)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("content store %s: %q: %w", b.store, tag, errdefs.ErrNotFound)
	}
	ctx, stop := b.bind(ctx)
	defer stop()
	r, err := contentapi.NewContentClient(b.s.cc).Info(ctx, &contentapi.InfoRequest{Digest: d.String()})
	if err != nil {
		return ocispec.Descriptor{}, b.wrap(ctx, d.String(), err)
	}
	return ocispec.Descriptor{Digest: d, Size: r.GetInfo().GetSize()}, nil
}

// Open reads a blob; ErrNotFound if there is none.
func (b *Blobs) Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	ctx, stop := b.bind(ctx)
	client := contentapi.NewContentClient(b.s.cc)
	if _, err := client.Info(ctx, &contentapi.InfoRequest{Digest: d.Digest.String()}); err != nil {
		defer stop()
		return nil, b.wrap(ctx, d.Digest.String(), err)
	}
	stream, err := client.Read(ctx, &contentapi.ReadContentRequest{Digest: d.Digest.String()})
	if err != nil {
		defer stop()
		return nil, b.wrap(ctx, d.Digest.String(), err)
	}
	return &blob{recv: stream.Recv, stop: stop, wrap: func(err error) error { return b.wrap(ctx, d.Digest.String(), err) }}, nil
}

type blob struct {
	recv func() (*contentapi.ReadContentResponse, error)
	left []byte
	stop func()
	wrap func(error) error
}

func (r *blob) Read(p []byte) (int, error) {
	for len(r.left) == 0 {
		m, err := r.recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, r.wrap(err)
		}
		r.left = m.Data
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

func (r *blob) Close() error {
	r.stop()
	return nil
}

// writeSize is how much of a blob one message has, in bytes.
const writeSize = 1 << 20

// Write stores a blob, unless it is there.
func (b *Blobs) Write(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	ctx, stop := b.bind(ctx)
	defer stop()
	stream, err := contentapi.NewContentClient(b.s.cc).Write(ctx)
	if err != nil {
		return b.wrap(ctx, d.Digest.String(), err)
	}
	err = writeBlob(stream, d, r)
	if err = b.wrap(ctx, d.Digest.String(), err); errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func writeBlob(stream contentapi.Content_WriteClient, d ocispec.Descriptor, r io.Reader) error {
	exchange := func(m *contentapi.WriteContentRequest) error {
		if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, err := stream.Recv()
		return err
	}
	ref := "strata-" + d.Digest.String()
	if err := exchange(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_STAT, Ref: ref, Total: d.Size, Expected: d.Digest.String()}); err != nil {
		return err
	}
	buf := make([]byte, writeSize)
	var offset int64
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if werr := exchange(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Ref: ref, Data: buf[:n], Offset: offset, Total: d.Size, Expected: d.Digest.String()}); werr != nil {
				return werr
			}
			offset += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	return exchange(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_COMMIT, Ref: ref, Offset: offset, Total: d.Size, Expected: d.Digest.String()})
}
