package diff

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/compression"
	"strata/pkg/linux/layer"
	"strata/pkg/linux/mount"
	"strata/supervisord/internal/content"
)

// labelUncompressed names a layer's diffID on its blob.
const labelUncompressed = "containerd.io/uncompressed"

// The Docker media types that Diff writes as well.
const (
	dockerLayer     = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// compressor returns a writer for the media type; Close ends the stream, not w.
func compressor(mediaType string, w io.Writer) (io.WriteCloser, error) {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, dockerLayer:
		return compression.NewWriter(w, compression.None, compression.DefaultLevel)
	case ocispec.MediaTypeImageLayerGzip, dockerLayerGzip:
		return compression.NewWriter(w, compression.Gzip, compression.DefaultLevel)
	case ocispec.MediaTypeImageLayerZstd:
		return compression.NewWriter(w, compression.Zstd, compression.DefaultLevel)
	}
	return nil, fmt.Errorf("media type %q: %w", mediaType, errdefs.ErrNotImplemented)
}

// Diff writes what upper changed above lower as a layer.
func (a *Applier) Diff(ctx context.Context, lower, upper []mount.Mount, opts Options) (ocispec.Descriptor, error) {
	if opts.MediaType == "" {
		opts.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	if opts.Ref == "" {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails: crypto/rand.Read, Go 1.24
		opts.Ref = "diff-" + hex.EncodeToString(b[:])
	}
	if _, err := compressor(opts.MediaType, io.Discard); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("diff: %w", err)
	}
	w, err := a.content.OpenWriter(ctx, content.WriterOptions{Ref: opts.Ref})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("diff: %w", err)
	}
	defer func() { _ = w.Close() }()
	if err := w.Truncate(0); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("diff: %w", err)
	}
	diffID, err := a.write(ctx, w, lower, upper, opts)
	if err != nil {
		return ocispec.Descriptor{}, errors.Join(fmt.Errorf("diff: %w", err), w.Close(), a.content.Abort(ctx, opts.Ref))
	}
	return a.commit(ctx, w, diffID, opts)
}

// write writes the compressed layer and returns the digest of the uncompressed one.
func (a *Applier) write(ctx context.Context, w io.Writer, lower, upper []mount.Mount, opts Options) (digest.Digest, error) {
	cw, err := compressor(opts.MediaType, w)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	err = withSource(ctx, lower, upper, func(s layer.Source) error {
		s.Epoch = opts.Epoch
		return layer.Diff(ctx, io.MultiWriter(cw, h), s)
	})
	if err := errors.Join(err, cw.Close()); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// commit makes the layer a blob that says what it is uncompressed.
func (a *Applier) commit(ctx context.Context, w content.Writer, diffID digest.Digest, opts Options) (ocispec.Descriptor, error) {
	st, err := w.Status()
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("diff: %w", err)
	}
	labels := maps.Clone(opts.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelUncompressed] = diffID.String()
	desc := ocispec.Descriptor{MediaType: opts.MediaType, Digest: w.Digest(), Size: st.Offset}
	err = w.Commit(ctx, st.Offset, desc.Digest, labels)
	if errdefs.IsAlreadyExists(err) {
		paths := make([]string, 0, len(labels))
		for k := range labels {
			paths = append(paths, "labels."+k)
		}
		_, err = a.content.UpdateLabels(ctx, content.Info{Digest: desc.Digest, Labels: labels}, paths...)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("diff: %w", err)
	}
	desc.Annotations = map[string]string{labelUncompressed: diffID.String()}
	return desc, nil
}

// withSource calls fn with what to compare: the upper directory alone where lower is
// what lies below it, else both trees.
func withSource(ctx context.Context, lower, upper []mount.Mount, fn func(layer.Source) error) error {
	if dir, ok := upperAbove(lower, upper); ok {
		return withMerged(ctx, lower[0], dirs(lower), func(root string) error {
			return fn(layer.Source{Lower: root, Upper: dir, Overlay: true, UserXattr: slices.Contains(upper[0].Options, "userxattr")})
		})
	}
	return mount.WithTemp(ctx, upper, func(up string) error {
		if len(lower) == 0 {
			return fn(layer.Source{Upper: up})
		}
		return mount.WithTemp(ctx, lower, func(low string) error { return fn(layer.Source{Lower: low, Upper: up}) })
	})
}

// dirs returns the directories that a read-only mount shows, top first; none if it is
// not one of ours.
func dirs(mounts []mount.Mount) []string {
	switch {
	case len(mounts) != 1:
	case mounts[0].Type == "overlay":
		return mounts[0].LowerDirs()
	case mounts[0].Type == "bind":
		return []string{mounts[0].Source}
	}
	return nil
}

// upperAbove returns the one directory by which upper differs from lower: its upper
// directory, or the top one of a view.
func upperAbove(lower, upper []mount.Mount) (string, bool) {
	below := dirs(lower)
	if len(below) == 0 || len(upper) != 1 || upper[0].Type != "overlay" {
		return "", false
	}
	if _, writable := lower[0].UpperDir(); writable && lower[0].Type == "overlay" {
		return "", false
	}
	own := upper[0].LowerDirs()
	if dir, ok := upper[0].UpperDir(); ok {
		return dir, slices.Equal(own, below)
	}
	if len(own) > 0 {
		return own[0], slices.Equal(own[1:], below)
	}
	return "", false
}
