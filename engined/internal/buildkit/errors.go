package buildkit

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"strata/engined/internal/build"
	"strata/engined/internal/build/dockerfile"
	"strata/pkg/buildkit"
	"strata/pkg/buildkit/controlpb"
)

// explain makes a gRPC status of an error of a build, with what a client shows of it: the
// lines of the Dockerfile, the vertex, the exit code. A code but Unknown would stand before
// the message.
func (j *job) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		return status.Error(codes.Canceled, cause.Error())
	}
	st := &spb.Status{Code: int32(codes.Unknown), Message: errorText(err)}
	if errdefs.IsNotImplemented(err) {
		st.Code = int32(codes.Unimplemented)
	}
	d := buildkit.Details{Vertex: j.story.failed()}
	if ce, ok := errors.AsType[*build.CommandError](err); ok {
		d.Exit = ce.Code
	}
	j.story.mu.Lock()
	def := j.story.def
	j.story.mu.Unlock()
	if lines := linesOf(err); lines[0] > 0 && len(def.Text) > 0 {
		r := buildkit.Range{Start: buildkit.Position{Line: lines[0]}, End: buildkit.Position{Line: lines[1]}}
		d.Sources = []buildkit.Source{{Info: &buildkit.SourceInfo{Filename: def.Name, Data: def.Text, Language: language}, Ranges: []buildkit.Range{r}}}
	}
	return status.FromProto(d.Attach(st)).Err()
}

// linesOf returns where in the Dockerfile an error is; zero if unknown.
func linesOf(err error) [2]int {
	if e, ok := errors.AsType[*build.StepError](err); ok {
		return e.Lines
	}
	if e, ok := errors.AsType[*dockerfile.Error](err); ok {
		return e.Lines
	}
	return [2]int{}
}

// returnedError is the error that the client's frontend ended with.
func returnedError(e *controlpb.Status) error {
	return status.FromProto(&spb.Status{Code: e.Code, Message: e.Message, Details: e.Details}).Err()
}

// unimplemented says what is not done here.
func unimplemented(what string) error { return fmt.Errorf("%s: %w", what, errdefs.ErrNotImplemented) }
