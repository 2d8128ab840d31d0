package buildclient

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/pkg/buildkit"
)

// contentServer serves the blobs of OCI layouts. The methods that are not here answer
// Unimplemented.
type contentServer struct {
	contentapi.UnimplementedContentServer
	stores map[string]string // directories, by name
}

// blob returns the layout that a call is for, and the path of a blob in it.
func (s contentServer) blob(ctx context.Context, sum string) (dir, path string, err error) {
	md, _ := metadata.FromIncomingContext(ctx) // none is no metadata
	name := strings.Join(md.Get(buildkit.KeyStoreID), "")
	dir, ok := s.stores[name]
	if !ok {
		return "", "", status.Errorf(codes.NotFound, "no content store is called %q", name)
	}
	d, err := digest.Parse(sum)
	if err != nil {
		return "", "", status.Errorf(codes.InvalidArgument, "digest %q: %v", sum, err)
	}
	return dir, filepath.Join(dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

// fileError gives an error of a file a class.
func fileError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return status.Error(codes.NotFound, err.Error())
	}
	return err
}

// Info implements contentapi.ContentServer.
func (s contentServer) Info(ctx context.Context, req *contentapi.InfoRequest) (*contentapi.InfoResponse, error) {
	_, path, err := s.blob(ctx, req.Digest)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fileError(err)
	}
	return &contentapi.InfoResponse{Info: &contentapi.Info{Digest: req.Digest, Size: info.Size()}}, nil
}

// pieceSize is how much of a blob one message has, in bytes.
const pieceSize = 1 << 20

// Read implements contentapi.ContentServer.
func (s contentServer) Read(req *contentapi.ReadContentRequest, stream contentapi.Content_ReadServer) error {
	_, path, err := s.blob(stream.Context(), req.Digest)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return fileError(err)
	}
	defer func() { _ = f.Close() }() // only read
	if _, err := f.Seek(req.Offset, io.SeekStart); err != nil {
		return status.Errorf(codes.OutOfRange, "offset %d: %v", req.Offset, err)
	}
	var r io.Reader = f
	if req.Size > 0 {
		r = io.LimitReader(f, req.Size)
	}
	buf, offset := make([]byte, pieceSize), req.Offset
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := stream.Send(&contentapi.ReadContentResponse{Offset: offset, Data: buf[:n]}); err != nil {
				return err
			}
			offset += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Abort implements contentapi.ContentServer: what is half written goes with its stream.
func (s contentServer) Abort(context.Context, *contentapi.AbortRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

// Write implements contentapi.ContentServer. A blob is written from its beginning, by one
// stream, and is there when it is complete.
func (s contentServer) Write(stream contentapi.Content_WriteServer) error {
	w := &blobWriter{}
	defer w.drop()
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && w.f == nil {
			err = s.begin(stream.Context(), w, req)
		}
		if err != nil {
			return err
		}
		resp := &contentapi.WriteContentResponse{Action: req.Action, Total: req.Total}
		if err := w.write(req); err != nil {
			return err
		}
		if req.Action == contentapi.WriteAction_COMMIT {
			if err := w.commit(req.Total); err != nil {
				return err
			}
			resp.Digest = w.sum.String()
		}
		resp.Offset = w.offset
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// begin makes a blob's file. AlreadyExists if it is there.
func (s contentServer) begin(ctx context.Context, w *blobWriter, req *contentapi.WriteContentRequest) error {
	dir, path, err := s.blob(ctx, req.Expected)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		return status.Errorf(codes.AlreadyExists, "content %s", req.Expected)
	}
	w.path, w.sum = path, digest.Digest(req.Expected) // it has been parsed
	w.verifier = w.sum.Verifier()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a result for the user
		return err
	}
	w.f, err = os.CreateTemp(dir, ".ingest-*")
	return err
}

type blobWriter struct {
	f        *os.File
	path     string // where it is to be
	sum      digest.Digest
	verifier digest.Verifier
	offset   int64
}

func (w *blobWriter) write(req *contentapi.WriteContentRequest) error {
	if len(req.Data) == 0 {
		return nil
	}
	if req.Offset != w.offset {
		return status.Errorf(codes.OutOfRange, "offset %d, but %d bytes are there", req.Offset, w.offset)
	}
	n, err := io.MultiWriter(w.f, w.verifier).Write(req.Data)
	w.offset += int64(n)
	return err
}

func (w *blobWriter) commit(total int64) error {
	if total > 0 && total != w.offset || !w.verifier.Verified() {
		return status.Errorf(codes.FailedPrecondition, "%d bytes are not %s", w.offset, w.sum)
	}
	return errors.Join(w.f.Chmod(0o644), w.f.Close(), os.Rename(w.f.Name(), w.path))
}

// drop removes what was not committed.
func (w *blobWriter) drop() {
	if w.f != nil {
		_, _ = w.f.Close(), os.Remove(w.f.Name()) // neither is there after commit
	}
}
