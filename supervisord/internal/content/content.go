package content

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Info describes a committed blob as one namespace sees it.
type Info struct {
	Digest    digest.Digest
	Size      int64 // bytes
	CreatedAt time.Time
	UpdatedAt time.Time
	Labels    map[string]string
}

// Status describes an ingest.
type Status struct {
	Ref       string
	Offset    int64 // bytes written so far
	Total     int64 // bytes expected; zero if unknown
	Expected  digest.Digest
	StartedAt time.Time
	UpdatedAt time.Time
}

// ReaderAt reads a blob. Close it.
type ReaderAt interface {
	io.ReaderAt
	io.Closer
	// Size returns the length of the blob in bytes.
	Size() int64
}

// Writer appends to an ingest and commits it. It holds the lock of its ref until
// Close; Close keeps what was written, so that a later Writer goes on from there.
type Writer interface {
	io.WriteCloser
	// Digest returns the digest of what has been written so far.
	Digest() digest.Digest
	// Status returns where the ingest stands.
	Status() (Status, error)
	// Truncate cuts the ingest to size bytes, which must not exceed the offset.
	Truncate(size int64) error
	// Commit makes the ingest a blob with the given labels, durably. A size of zero
	// or an empty digest is not checked. A mismatch is of class
	// ErrFailedPrecondition and keeps nothing; a blob that exists already is of class
	// ErrAlreadyExists, which callers treat as success.
	Commit(ctx context.Context, size int64, expected digest.Digest, labels map[string]string) error
}

// WriterOptions says what a Writer is for. Descriptor is optional: its digest makes
// OpenWriter answer ErrAlreadyExists early, its size is the expected total.
type WriterOptions struct {
	Ref        string
	Descriptor ocispec.Descriptor
}

// Store keeps blobs for the namespace of the context. All methods return an error of
// class ErrFailedPrecondition without a namespace and ErrNotFound for what is not
// there, and are safe for concurrent use.
type Store interface {
	// Info returns what is known of a blob.
	Info(ctx context.Context, dgst digest.Digest) (Info, error)
	// Walk calls fn for each blob that matches one of the filters (containerd's
	// syntax; none matches all).
	Walk(ctx context.Context, fn func(Info) error, filters ...string) error
	// UpdateLabels applies info.Labels: only the keys named by fieldpaths
	// ("labels.KEY"; an empty value deletes), or all labels without fieldpaths or
	// with "labels".
	UpdateLabels(ctx context.Context, info Info, fieldpaths ...string) (Info, error)
	// Delete hides a blob from the namespace; the bytes go with the next garbage
	// collection if no other namespace has it.
	Delete(ctx context.Context, dgst digest.Digest) error
	// OpenReader opens a blob.
	OpenReader(ctx context.Context, dgst digest.Digest) (ReaderAt, error)
	// OpenWriter opens or resumes the ingest of opts.Ref. ErrUnavailable: another
	// writer holds the ref. ErrAlreadyExists: the described blob is there (or was
	// linked from another namespace).
	OpenWriter(ctx context.Context, opts WriterOptions) (Writer, error)
	// Status returns one ingest.
	Status(ctx context.Context, ref string) (Status, error)
	// ListStatuses returns the ingests that match one of the filters.
	ListStatuses(ctx context.Context, filters ...string) ([]Status, error)
	// Abort removes an ingest.
	Abort(ctx context.Context, ref string) error
}
