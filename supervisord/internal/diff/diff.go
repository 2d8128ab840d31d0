package diff

import (
	"context"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/linux/mount"
)

// Service applies and makes layers.
type Service interface {
	// Apply extracts the layer described by desc (tar; gzip, zstd or plain) into
	// mounts and returns the descriptor of the uncompressed tar: its digest is the
	// diffID. Errors: ErrInvalidArgument for an archive that is malformed or leaves
	// its root, ErrNotFound without the blob, ErrResourceExhausted on a full disk.
	Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount) (ocispec.Descriptor, error)
	// Diff writes what upper changed above lower as a layer of opts.MediaType
	// (default: OCI tar+gzip) with label containerd.io/uncompressed.
	Diff(ctx context.Context, lower, upper []mount.Mount, opts Options) (ocispec.Descriptor, error)
}

// Options says how Diff writes.
type Options struct {
	MediaType string
	Ref       string // of the ingest; random if empty
	Labels    map[string]string
	// Epoch, if not zero, is the latest modification time that the layer may say
	// (SOURCE_DATE_EPOCH).
	Epoch time.Time
}
