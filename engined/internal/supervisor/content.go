package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"strata/pkg/linux/mount"
)

// contentChunk is how much of a blob goes into one message, in bytes.
const contentChunk = 1 << 20

// ContentInfo describes a blob.
type ContentInfo struct {
	Digest digest.Digest
	Size   int64 // bytes
	Labels map[string]string
}

func (c *Client) content() contentapi.ContentClient { return contentapi.NewContentClient(c.conn) }

func infoFromWire(i *contentapi.Info) ContentInfo {
	return ContentInfo{Digest: digest.Digest(i.GetDigest()), Size: i.GetSize(), Labels: i.GetLabels()}
}

// ContentInfo returns what is known of a blob. ErrNotFound if it is not there.
func (c *Client) ContentInfo(ctx context.Context, d digest.Digest) (ContentInfo, error) {
	resp, err := c.content().Info(c.scope(ctx), &contentapi.InfoRequest{Digest: d.String()})
	if err != nil {
		return ContentInfo{}, err
	}
	return infoFromWire(resp.GetInfo()), nil
}

// ContentInfos returns all blobs that match one of the filters; none matches all.
func (c *Client) ContentInfos(ctx context.Context, filters ...string) ([]ContentInfo, error) {
	stream, err := c.content().List(c.scope(ctx), &contentapi.ListContentRequest{Filters: filters})
	if err != nil {
		return nil, err
	}
	var out []ContentInfo
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		for _, i := range resp.GetInfo() {
			out = append(out, infoFromWire(i))
		}
	}
}

// LabelContent adds labels to a blob; an empty value removes one.
func (c *Client) LabelContent(ctx context.Context, d digest.Digest, labels map[string]string) error {
	mask := &fieldmaskpb.FieldMask{}
	for k := range labels {
		mask.Paths = append(mask.Paths, "labels."+k)
	}
	_, err := c.content().Update(c.scope(ctx), &contentapi.UpdateRequest{Info: &contentapi.Info{Digest: d.String(), Labels: labels}, UpdateMask: mask})
	return err
}

// ReadContent returns a blob of at most limit bytes and checks its digest.
func (c *Client) ReadContent(ctx context.Context, d digest.Digest, limit int64) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := c.content().Read(c.scope(ctx), &contentapi.ReadContentRequest{Digest: d.String()})
	if err != nil {
		return nil, err
	}
	var out []byte
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read content %s: %w", d, err)
		}
		if int64(len(out)+len(resp.GetData())) > limit {
			return nil, fmt.Errorf("content %s is larger than %d bytes: %w", d, limit, errdefs.ErrInvalidArgument)
		}
		out = append(out, resp.GetData()...)
	}
	if d.Algorithm().FromBytes(out) != d {
		return nil, fmt.Errorf("content %s is damaged: %w", d, errdefs.ErrDataLoss)
	}
	return out, nil
}

// Blob reads a blob at any offset. It has nothing to close.
type Blob struct {
	c    *Client
	ctx  context.Context //nolint:containedctx // of the call that opened it
	desc ocispec.Descriptor
	at   int64 // of Read
}

// OpenContent returns a reader of blob desc for as long as ctx lives. The digest is not
// checked.
func (c *Client) OpenContent(ctx context.Context, desc ocispec.Descriptor) *Blob {
	return &Blob{c: c, ctx: ctx, desc: desc}
}

// ReadAt implements io.ReaderAt.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) {
	if off >= b.desc.Size {
		return 0, io.EOF
	}
	want := min(int64(len(p)), b.desc.Size-off)
	n := 0
	err := b.c.copyContent(b.ctx, b.desc.Digest, off, want, func(data []byte) error {
		n += copy(p[n:], data)
		return nil
	})
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Read implements io.Reader. WriteTo is faster.
func (b *Blob) Read(p []byte) (int, error) {
	n, err := b.ReadAt(p, b.at)
	b.at += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// WriteTo implements io.WriterTo: the whole blob in one stream.
func (b *Blob) WriteTo(w io.Writer) (int64, error) {
	var n int64
	err := b.c.copyContent(b.ctx, b.desc.Digest, 0, 0, func(data []byte) error {
		m, err := w.Write(data)
		n += int64(m)
		return err
	})
	if err == nil && n != b.desc.Size {
		err = fmt.Errorf("content %s has %d bytes instead of %d: %w", b.desc.Digest, n, b.desc.Size, errdefs.ErrDataLoss)
	}
	return n, err
}

// copyContent hands size bytes (0: all) of a blob to fn.
func (c *Client) copyContent(ctx context.Context, d digest.Digest, offset, size int64, fn func([]byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := c.content().Read(c.scope(ctx), &contentapi.ReadContentRequest{Digest: d.String(), Offset: offset, Size: size})
	if err != nil {
		return fmt.Errorf("read content %s: %w", d, err)
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read content %s: %w", d, err)
		}
		if err := fn(resp.GetData()); err != nil {
			return err
		}
	}
}

// WriteContent stores what r gives as a blob with labels and returns its descriptor
// without a media type. With expected ("" for any), other bytes are an error of class
// ErrFailedPrecondition. A blob that is there keeps its labels and gets these. ref names
// the ingest.
func (c *Client) WriteContent(ctx context.Context, ref string, r io.Reader, expected digest.Digest, labels map[string]string) (ocispec.Descriptor, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := c.content().Write(c.scope(ctx))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	digester := digest.SHA256.Digester()
	var offset int64
	ask := func(req *contentapi.WriteContentRequest) error {
		req.Ref, req.Expected = ref, expected.String()
		if err := stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, err := stream.Recv() // after a failed Send it has the reason
		return err
	}
	err = ask(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_STAT})
	buf := make([]byte, contentChunk)
	for err == nil {
		n, rerr := io.ReadFull(r, buf)
		if n > 0 {
			_, _ = digester.Hash().Write(buf[:n]) // never fails
			err = ask(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Offset: offset, Data: buf[:n]})
			offset += int64(n)
		}
		if errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF) {
			break
		}
		if err == nil {
			err = rerr
		}
	}
	desc := ocispec.Descriptor{Digest: digester.Digest(), Size: offset}
	if err == nil {
		if expected == "" {
			expected = desc.Digest
		}
		err = ask(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_COMMIT, Offset: offset, Total: offset, Labels: labels})
	}
	if errdefs.IsAlreadyExists(err) {
		desc.Digest = expected
		info, ierr := c.ContentInfo(ctx, expected)
		desc.Size = info.Size
		if err = ierr; err == nil && len(labels) > 0 {
			err = c.LabelContent(ctx, expected, labels)
		}
	}
	if err != nil {
		return desc, fmt.Errorf("write content %s: %w", ref, err)
	}
	return desc, nil
}

// Diff writes what upper changed above lower as a layer of the media type, and returns its
// descriptor; the blob's label containerd.io/uncompressed is its diff id.
func (c *Client) Diff(ctx context.Context, lower, upper []mount.Mount, mediaType string) (ocispec.Descriptor, error) {
	resp, err := diffapi.NewDiffClient(c.conn).Diff(c.scope(ctx), &diffapi.DiffRequest{Left: mountsToWire(lower), Right: mountsToWire(upper), MediaType: mediaType})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("make layer: %w", err)
	}
	return descriptorFromWire(resp.GetDiff()), nil
}

// ApplyDiff extracts a layer into mounts and returns the descriptor of its tar: the digest
// is the diff id.
func (c *Client) ApplyDiff(ctx context.Context, layer ocispec.Descriptor, mounts []mount.Mount) (ocispec.Descriptor, error) {
	resp, err := diffapi.NewDiffClient(c.conn).Apply(c.scope(ctx), &diffapi.ApplyRequest{Diff: descriptorToWire(layer), Mounts: mountsToWire(mounts)})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("extract layer %s: %w", layer.Digest, err)
	}
	return descriptorFromWire(resp.GetApplied()), nil
}
