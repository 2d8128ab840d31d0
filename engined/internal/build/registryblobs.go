package build

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/manifest"
	"strata/pkg/registry"
)

// registryBlobs is a repository as Blobs.
type registryBlobs struct {
	repo *registry.Repository
	tmp  string // directory for what is on its way
}

// Resolve implements Blobs; the tag is that of the repository's reference.
func (r registryBlobs) Resolve(ctx context.Context, _ string) (ocispec.Descriptor, error) {
	return r.repo.Resolve(ctx)
}

// Open implements Blobs.
func (r registryBlobs) Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	f, err := unnamedFile(r.tmp)
	if err != nil {
		return nil, err
	}
	if manifest.IsManifest(d.MediaType) || manifest.IsIndex(d.MediaType) {
		raw, err := r.repo.Manifest(ctx, d)
		if err == nil {
			_, err = f.Write(raw)
		}
		if err != nil {
			_ = f.Close() // the first error says more
			return nil, err
		}
	} else if err := r.repo.Fetch(ctx, d, fileSink{f}, nil); err != nil {
		_ = f.Close() // the first error says more
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		_ = f.Close() // the first error says more
		return nil, err
	}
	return f, nil
}

// Write implements Blobs. A reader that can be read at any offset is not copied first.
func (r registryBlobs) Write(ctx context.Context, d ocispec.Descriptor, src io.Reader) error {
	if manifest.IsManifest(d.MediaType) || manifest.IsIndex(d.MediaType) {
		raw, err := io.ReadAll(io.LimitReader(src, manifest.MaxSize))
		if err != nil {
			return err
		}
		return r.repo.PushManifest(ctx, d, raw, r.repo.Tag())
	}
	at, ok := src.(io.ReaderAt)
	if !ok {
		f, err := unnamedFile(r.tmp)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // nobody needs it any more
		if _, err := io.Copy(f, src); err != nil {
			return err
		}
		at = f
	}
	_, err := r.repo.PushBlob(ctx, d, at, nil, nil)
	return err
}

// Tag implements Blobs: Write has done it.
func (registryBlobs) Tag(context.Context, string, ocispec.Descriptor) error { return nil }

// fileSink is a file as the registry's client wants it.
type fileSink struct{ *os.File }

// Offset implements registry.Sink.
func (f fileSink) Offset() (int64, error) { return f.Seek(0, io.SeekCurrent) }

// Truncate implements registry.Sink.
func (f fileSink) Truncate(size int64) error {
	if err := f.File.Truncate(size); err != nil {
		return err
	}
	_, err := f.Seek(size, io.SeekStart)
	return err
}

// unnamedFile makes a file that vanishes when it is closed.
func unnamedFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "blob-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close() // the first error says more
		return nil, err
	}
	return f, nil
}

// repository opens the repository of a reference with the client's credentials, for actions
// beyond reading.
func (b *builder) repository(ref string, actions ...string) (registryBlobs, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return registryBlobs{}, fmt.Errorf("reference %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	repo, err := b.s.images.Repository(named.String(), b.auth(named.String(), actions...))
	if err != nil {
		return registryBlobs{}, err
	}
	return registryBlobs{repo, b.s.tmpDir()}, nil
}
