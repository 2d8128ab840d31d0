package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"strata/engined/internal/build"
	"strata/pkg/buildkit"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/buildkit/gatewaypb"
)

// shell is the client's wish for a shell in the place of a step that fails. The first step
// that does takes the process that the client asks for, which may be about to come.
type shell struct {
	asLeft bool          // with the files as the step has left them
	calls  chan *process // nobody else takes them
	once   sync.Once
	over   chan struct{} // closed when the build has ended
}

// newShell returns nil if a build does not ask for one.
func newShell(attrs map[string]string) *shell {
	if attrs[buildkit.AttrOnFailure] == "" {
		return nil
	}
	return &shell{asLeft: attrs[buildkit.AttrOnFailure] == buildkit.OnFailureAsLeft, calls: make(chan *process), over: make(chan struct{})}
}

func (s *shell) end() {
	if s != nil {
		close(s.over)
	}
}

// checkShell refuses what nobody knows to do about a failure.
func checkShell(attrs map[string]string) error {
	switch v := attrs[buildkit.AttrOnFailure]; v {
	case "", buildkit.OnFailureShell, buildkit.OnFailureAsLeft:
		return nil
	default:
		return fmt.Errorf("%s %q: must be %s or %s: %w", buildkit.AttrOnFailure, v, buildkit.OnFailureShell, buildkit.OnFailureAsLeft, errdefs.ErrInvalidArgument)
	}
}

// failed is build.Request's Failed.
func (s *shell) failed(ctx context.Context, f *build.Failure) {
	s.once.Do(func() {
		select {
		case p := <-s.calls:
			defer close(p.done)
			p.err = p.run(ctx, f, s.asLeft)
		case <-time.After(patience): // a client that did not come
		case <-ctx.Done():
		}
	})
}

// process is one ExecProcess.
type process struct {
	stream gatewaypb.LLBBridge_ExecProcessServer
	id     string
	init   *gatewaypb.InitMessage
	done   chan struct{} // closed when run has ended
	err    error         // of run; after done
}

// ExecProcess implements gatewaypb.LLBBridgeServer for the one container that there is:
// buildkit.ContainerOnFailure, whose process begins when a step has failed. If none does,
// it is done without having begun.
func (b bridge) ExecProcess(stream gatewaypb.LLBBridge_ExecProcessServer) error {
	ctx := stream.Context()
	j, err := b.job(ctx)
	if err != nil {
		return err
	}
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	p := &process{stream: stream, id: m.ProcessID, init: m.GetInit(), done: make(chan struct{})}
	switch {
	case p.init == nil:
		return fmt.Errorf("a process does not begin with its Init: %w", errdefs.ErrInvalidArgument)
	case p.init.ContainerID != buildkit.ContainerOnFailure:
		return unimplemented("containers of a client's frontend")
	case j.shell == nil:
		return fmt.Errorf("build %s was asked for without %s: %w", j.ref, buildkit.AttrOnFailure, errdefs.ErrFailedPrecondition)
	}
	select {
	case j.shell.calls <- p:
		if <-p.done; p.err != nil {
			return p.err
		}
	case <-j.shell.over:
	case <-ctx.Done():
		return ctx.Err()
	}
	return p.send(&gatewaypb.ExecMessage{Input: &gatewaypb.ExecMessage_Done{Done: &gatewaypb.DoneMessage{}}})
}

func (p *process) send(m *gatewaypb.ExecMessage) error {
	m.ProcessID = p.id
	return p.stream.Send(m)
}

// run runs the shell until it exits, the build is given up, or the client goes. The error is
// the stream's: what the shell came to the client is told.
func (p *process) run(ctx context.Context, f *build.Failure, asLeft bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.stream.Context(), func() { cancel(p.stream.Context().Err()) })()
	if err := p.stream.SendHeader(metadata.Pairs(buildkit.KeyFailedStep, f.Step, buildkit.KeyFailure, errorText(f.Err))); err != nil {
		return err
	}
	if err := p.send(&gatewaypb.ExecMessage{Input: &gatewaypb.ExecMessage_Started{Started: &gatewaypb.StartedMessage{}}}); err != nil {
		return err
	}
	stdin, keys := io.Pipe()
	defer func() { _ = stdin.Close() }() // lets go of both ends
	sizes := make(chan build.Size)
	go func() { // ends with the stream, which ends after this method
		if err := p.receive(ctx, keys, sizes); err != nil {
			cancel(err)
		}
	}()
	code, err := f.Shell(ctx, build.ShellRequest{Args: p.init.GetMeta().GetArgs(), AsLeft: asLeft, Streams: build.Streams{
		Stdin: stdin, Stdout: output{p, 1}, Stderr: output{p, 2}, Terminal: p.init.Tty, Resize: sizes,
	}})
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	exit := &gatewaypb.ExitMessage{Code: uint32(code)} //nolint:gosec // an exit code
	if err != nil {
		st := status.Convert(err)
		exit.Error = &controlpb.Status{Code: int32(st.Code()), Message: st.Message()} //nolint:gosec // a code
	}
	return p.send(&gatewaypb.ExecMessage{Input: &gatewaypb.ExecMessage_Exit{Exit: exit}})
}

// receive passes on what the client says, until it says nothing any more.
func (p *process) receive(ctx context.Context, keys *io.PipeWriter, sizes chan<- build.Size) error {
	for {
		m, err := p.stream.Recv()
		if errors.Is(err, io.EOF) {
			return keys.Close()
		}
		if err != nil {
			return err
		}
		switch x := m.Input.(type) {
		case *gatewaypb.ExecMessage_File:
			if len(x.File.Data) > 0 {
				_, _ = keys.Write(x.File.Data) // the shell may read no more
			}
			if x.File.EOF {
				_ = keys.Close() // never fails
			}
		case *gatewaypb.ExecMessage_Resize:
			select {
			case sizes <- build.Size{Width: int(x.Resize.Cols), Height: int(x.Resize.Rows)}:
			case <-ctx.Done():
				return nil
			}
		default:
			return unimplemented(fmt.Sprintf("%T for a shell", x))
		}
	}
}

// output is a file descriptor of a process at the client.
type output struct {
	p  *process
	fd uint32
}

// Write implements io.Writer.
func (o output) Write(b []byte) (int, error) {
	err := o.p.send(&gatewaypb.ExecMessage{Input: &gatewaypb.ExecMessage_File{File: &gatewaypb.FdMessage{Fd: o.fd, Data: b}}})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}
