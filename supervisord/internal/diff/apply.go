package diff

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/compression"
	"strata/pkg/linux/layer"
	"strata/pkg/linux/mount"
	"strata/supervisord/internal/content"
)

// layerTypes are the prefixes of media types that Apply takes; how a layer is compressed
// is seen in its first bytes.
var layerTypes = []string{
	"application/vnd.oci.image.layer.v1.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.docker.image.rootfs.diff.tar",
	"application/vnd.docker.image.rootfs.foreign.diff.tar",
}

// Applier is the Service on a content store.
type Applier struct{ content content.Store }

var _ Service = (*Applier)(nil)

// New returns a Service that reads from and writes to store.
func New(store content.Store) *Applier { return &Applier{store} }

// Apply extracts a layer.
func (a *Applier) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount) (ocispec.Descriptor, error) {
	if !slices.ContainsFunc(layerTypes, func(t string) bool { return strings.HasPrefix(desc.MediaType, t) }) ||
		strings.HasSuffix(desc.MediaType, "+encrypted") {
		return ocispec.Descriptor{}, fmt.Errorf("apply %s: media type %q: %w", desc.Digest, desc.MediaType, errdefs.ErrNotImplemented)
	}
	blob, err := a.content.OpenReader(ctx, desc.Digest)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("apply: %w", err)
	}
	defer func() { _ = blob.Close() }()
	var out ocispec.Descriptor
	err = withTarget(ctx, mounts, func(t layer.Target) (err error) {
		out, err = Extract(ctx, io.NewSectionReader(blob, 0, blob.Size()), t)
		return err
	})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("apply %s: %w", desc.Digest, err)
	}
	return out, nil
}

// withTarget calls fn with the place that mounts write to.
func withTarget(ctx context.Context, mounts []mount.Mount, fn func(layer.Target) error) error {
	if len(mounts) == 0 {
		return fmt.Errorf("no mounts: %w", errdefs.ErrInvalidArgument)
	}
	m := mounts[0]
	upper, ok := m.UpperDir()
	if len(mounts) > 1 || !ok || m.Target != "" {
		return mount.WithTemp(ctx, mounts, func(root string) error { return fn(layer.Target{Dir: root}) })
	}
	if m.Type != "overlay" {
		return fn(layer.Target{Dir: upper})
	}
	t := layer.Target{Dir: upper, Overlay: true, UserXattr: slices.Contains(m.Options, "userxattr")}
	return withMerged(ctx, m, m.LowerDirs(), func(lower string) error {
		t.Lower = lower
		return fn(t)
	})
}

// withMerged calls fn with a read-only view of lower directories, top first.
func withMerged(ctx context.Context, like mount.Mount, lower []string, fn func(root string) error) error {
	if len(lower) <= 1 {
		return fn(strings.Join(lower, ""))
	}
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{"ro"}}
	for _, word := range like.Options {
		if key, _, _ := strings.Cut(word, "="); key != "upperdir" && key != "workdir" && key != "rw" {
			m.Options = append(m.Options, word)
		}
	}
	return mount.WithTemp(ctx, []mount.Mount{m}, fn)
}

const (
	chunkSize = 512 << 10 // bytes between two stages of the pipe
	chunks    = 4         // in flight
)

// Extract inflates r, extracts it into t and returns the descriptor of the uncompressed
// stream.
func Extract(ctx context.Context, r io.Reader, t layer.Target) (ocispec.Descriptor, error) {
	inflated, err := compression.NewReader(r)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("inflate: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	p := newPipe(ctx, inflated)
	defer func() {
		cancel()
		p.wait()
		_ = inflated.Close()
	}()
	if err := layer.Apply(ctx, p, t); err != nil {
		return ocispec.Descriptor{}, err
	}
	// What follows the end marks is part of the layer's digest, and the checksum of the
	// compressed stream comes last.
	if _, err := io.Copy(io.Discard, p); err != nil {
		return ocispec.Descriptor{}, err
	}
	dgst, size := p.sum()
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: dgst, Size: size}, nil
}

// pipe reads ahead of its reader in one goroutine and hashes in another.
type pipe struct {
	ctx    context.Context //nolint:containedctx // of the Extract that owns the pipe
	hashed chan []byte     // to the reader; closed at the end
	free   chan []byte
	done   chan struct{} // closed when both goroutines are

	rest []byte // of the current chunk
	cur  []byte

	// Written by the goroutines before hashed is closed, read after.
	err  error
	size int64
	dgst digest.Digest
}

func newPipe(ctx context.Context, r io.Reader) *pipe {
	p := &pipe{ctx: ctx, hashed: make(chan []byte, chunks), free: make(chan []byte, chunks), done: make(chan struct{})}
	for range chunks {
		p.free <- make([]byte, chunkSize)
	}
	inflated := make(chan []byte, chunks)
	var readErr error
	go func() {
		defer close(inflated)
		readErr = p.inflate(r, inflated)
	}()
	go func() {
		defer close(p.done)
		defer close(p.hashed)
		h := sha256.New()
		for chunk := range inflated {
			h.Write(chunk)
			p.size += int64(len(chunk))
			select {
			case p.hashed <- chunk:
			case <-ctx.Done(): // keep draining: inflate ends by itself
			}
		}
		p.err = readErr
		p.dgst = digest.NewDigest(digest.SHA256, h)
	}()
	return p
}

// inflate fills chunks until the end of r.
func (p *pipe) inflate(r io.Reader, out chan<- []byte) error {
	for {
		var chunk []byte
		select {
		case chunk = <-p.free:
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
		n := 0
		var err error
		for n < chunkSize && err == nil {
			var k int
			k, err = r.Read(chunk[n:chunkSize])
			n += k
		}
		if n > 0 {
			out <- chunk[:n] // never blocks: there are no more chunks than places
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("inflate: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
}

// Read hands out what was inflated and hashed.
func (p *pipe) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.cur != nil {
			p.free <- p.cur[:chunkSize]
			p.cur = nil
		}
		select {
		case chunk, ok := <-p.hashed:
			if !ok {
				if p.err != nil {
					return 0, p.err
				}
				if err := p.ctx.Err(); err != nil {
					return 0, err
				}
				return 0, io.EOF
			}
			p.cur, p.rest = chunk, chunk
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// wait returns when the goroutines have ended. Preconditions: the context is done or
// Read has returned io.EOF.
func (p *pipe) wait() { <-p.done }

// sum returns digest and size of all. Preconditions: Read has returned io.EOF.
func (p *pipe) sum() (digest.Digest, int64) { return p.dgst, p.size }
