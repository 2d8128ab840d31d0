package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/supervisord/internal/content"
)

// readChunk is how much of a blob goes into one message, in bytes.
const readChunk = 1 << 20

// contentServer translates containerd.services.content.v1.Content.
type contentServer struct {
	contentapi.UnimplementedContentServer
	store content.Store
}

// Info implements Content.
func (s *contentServer) Info(ctx context.Context, r *contentapi.InfoRequest) (*contentapi.InfoResponse, error) {
	info, err := s.store.Info(ctx, digest.Digest(r.Digest))
	if err != nil {
		return nil, err
	}
	return &contentapi.InfoResponse{Info: wireContent(info)}, nil
}

// Update implements Content.
func (s *contentServer) Update(ctx context.Context, r *contentapi.UpdateRequest) (*contentapi.UpdateResponse, error) {
	if r.Info == nil {
		return nil, missing("info")
	}
	info, err := s.store.UpdateLabels(ctx, content.Info{Digest: digest.Digest(r.Info.Digest), Labels: r.Info.Labels}, r.GetUpdateMask().GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &contentapi.UpdateResponse{Info: wireContent(info)}, nil
}

// List implements Content.
func (s *contentServer) List(r *contentapi.ListContentRequest, stream contentapi.Content_ListServer) error {
	var infos []*contentapi.Info
	flush := func() error {
		if len(infos) == 0 {
			return nil
		}
		err := stream.Send(&contentapi.ListContentResponse{Info: infos})
		infos = nil
		return err
	}
	err := s.store.Walk(stream.Context(), func(info content.Info) error {
		if infos = append(infos, wireContent(info)); len(infos) < batch {
			return nil
		}
		return flush()
	}, r.Filters...)
	if err != nil {
		return err
	}
	return flush()
}

// Delete implements Content.
func (s *contentServer) Delete(ctx context.Context, r *contentapi.DeleteContentRequest) (*emptypb.Empty, error) {
	return done(s.store.Delete(ctx, digest.Digest(r.Digest)))
}

// Read implements Content.
func (s *contentServer) Read(r *contentapi.ReadContentRequest, stream contentapi.Content_ReadServer) (err error) {
	blob, err := s.store.OpenReader(stream.Context(), digest.Digest(r.Digest))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	size := r.Size
	if size == 0 {
		size = blob.Size() - r.Offset
	}
	if r.Offset < 0 || size < 0 || r.Offset > blob.Size()-size {
		return fmt.Errorf("read %d bytes at %d of %s, which has %d: %w", r.Size, r.Offset, r.Digest, blob.Size(), errdefs.ErrOutOfRange)
	}
	buf := make([]byte, min(size, readChunk))
	for offset := r.Offset; size > 0; {
		n, err := blob.ReadAt(buf[:min(size, readChunk)], offset)
		if n == 0 && err != nil {
			return fmt.Errorf("read %s at %d: %w: %w", r.Digest, offset, err, errdefs.ErrDataLoss)
		}
		if err := stream.Send(&contentapi.ReadContentResponse{Offset: offset, Data: buf[:n]}); err != nil {
			return err
		}
		offset += int64(n)
		size -= int64(n)
	}
	return nil
}

// Status implements Content.
func (s *contentServer) Status(ctx context.Context, r *contentapi.StatusRequest) (*contentapi.StatusResponse, error) {
	st, err := s.store.Status(ctx, r.Ref)
	if err != nil {
		return nil, err
	}
	return &contentapi.StatusResponse{Status: wireStatus(st)}, nil
}

// ListStatuses implements Content.
func (s *contentServer) ListStatuses(ctx context.Context, r *contentapi.ListStatusesRequest) (*contentapi.ListStatusesResponse, error) {
	list, err := s.store.ListStatuses(ctx, r.Filters...)
	if err != nil {
		return nil, err
	}
	out := &contentapi.ListStatusesResponse{}
	for _, st := range list {
		out.Statuses = append(out.Statuses, wireStatus(st))
	}
	return out, nil
}

// Abort implements Content.
func (s *contentServer) Abort(ctx context.Context, r *contentapi.AbortRequest) (*emptypb.Empty, error) {
	return done(s.store.Abort(ctx, r.Ref))
}

type writeStream = contentapi.Content_WriteServer

// Write implements Content. The first message opens the ingest and locks its ref until
// the stream ends; each message is answered; a commit ends the stream. Whatever ends it
// otherwise leaves the ingest to be resumed.
func (s *contentServer) Write(stream writeStream) (err error) {
	r, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	session := writeSession{total: r.Total, expected: digest.Digest(r.Expected)}
	session.writer, err = s.store.OpenWriter(stream.Context(), content.WriterOptions{
		Ref: r.Ref, Descriptor: ocispec.Descriptor{Digest: session.expected, Size: r.Total},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.writer.Close()) }()
	for {
		answer, err := session.handle(stream.Context(), r)
		if err != nil {
			return err
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
		if r.Action == contentapi.WriteAction_COMMIT {
			return nil
		}
		if r, err = stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// writeSession is what one Write stream knows.
type writeSession struct {
	writer   content.Writer
	total    int64
	expected digest.Digest
}

// handle does what one message asks for.
func (s *writeSession) handle(ctx context.Context, r *contentapi.WriteContentRequest) (*contentapi.WriteContentResponse, error) {
	st, err := s.writer.Status()
	if err != nil {
		return nil, err
	}
	if r.Total > 0 {
		s.total = r.Total
	}
	if r.Expected != "" {
		s.expected = digest.Digest(r.Expected)
	}
	answer := &contentapi.WriteContentResponse{Action: r.Action, Offset: st.Offset}
	switch r.Action {
	case contentapi.WriteAction_STAT:
		answer.StartedAt, answer.UpdatedAt, answer.Total = stamp(st.StartedAt), stamp(st.UpdatedAt), st.Total
		answer.Digest = s.writer.Digest().String()
		return answer, nil
	case contentapi.WriteAction_WRITE, contentapi.WriteAction_COMMIT:
	default:
		return nil, fmt.Errorf("write action %d: %w", r.Action, errdefs.ErrInvalidArgument)
	}
	switch {
	case r.Offset == 0 && st.Offset > 0:
		if err := s.writer.Truncate(0); err != nil {
			return nil, err
		}
		answer.Offset = 0
	case r.Offset != st.Offset:
		return nil, fmt.Errorf("write at %d, but the ingest %q ends at %d: %w", r.Offset, st.Ref, st.Offset, errdefs.ErrOutOfRange)
	}
	if len(r.Data) > 0 {
		n, err := s.writer.Write(r.Data)
		if err != nil {
			return nil, err
		}
		answer.Offset += int64(n)
	}
	if r.Action == contentapi.WriteAction_COMMIT {
		dgst := s.writer.Digest()
		if err := s.writer.Commit(ctx, s.total, s.expected, r.Labels); err != nil {
			return nil, err
		}
		if s.expected != "" {
			dgst = s.expected
		}
		answer.StartedAt, answer.UpdatedAt, answer.Total = stamp(st.StartedAt), stamp(st.UpdatedAt), st.Total
		answer.Digest = dgst.String()
	}
	return answer, nil
}
