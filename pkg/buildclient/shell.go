package buildclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"google.golang.org/grpc/metadata"

	"strata/pkg/buildkit"
	"strata/pkg/buildkit/gatewaypb"
)

// Process is a shell at the daemon in the place of a step that has failed: with its mounts,
// variables, user and network, on the files as it found them (Build.AsLeft: left them). Reading gives what it prints,
// writing is its input; both may be done side by side.
type Process struct {
	Step    string
	Failure string // what the step ended with

	stream gatewaypb.LLBBridge_ExecProcessClient
	left   []byte
	exit   error // why there was no shell

	mu sync.Mutex // of sending
}

// shell waits for a step to fail, and lets the caller use a shell in its place.
func (b *Build) shell(ctx context.Context, conn *Conn, ref string) error {
	ctx, stop := context.WithCancel(metadata.AppendToOutgoingContext(ctx, buildkit.KeyBuildID, ref))
	defer stop()
	stream, err := gatewaypb.NewLLBBridgeClient(conn.cc).ExecProcess(ctx)
	if err != nil {
		return err
	}
	p := &Process{stream: stream}
	if err := p.send(&gatewaypb.ExecMessage{Input: &gatewaypb.ExecMessage_Init{Init: &gatewaypb.InitMessage{
		ContainerID: buildkit.ContainerOnFailure, Fds: []uint32{0, 1, 2}, Tty: true,
	}}}); err != nil && !errors.Is(err, io.EOF) { // EOF: receiving says why
		return err
	}
	m, err := stream.Recv()
	switch {
	case err != nil:
		return err
	case m.GetDone() != nil: // no step has failed
		return nil
	case m.GetStarted() == nil:
		return fmt.Errorf("a shell does not begin, but the daemon says %v", m)
	}
	h, err := stream.Header()
	if err != nil {
		return err
	}
	p.Step, p.Failure = strings.Join(h.Get(buildkit.KeyFailedStep), ""), strings.Join(h.Get(buildkit.KeyFailure), "")
	return b.OnFailure(ctx, p)
}

// processID names the one process.
const processID = "shell"

func (p *Process) send(m *gatewaypb.ExecMessage) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.ProcessID = processID
	return p.stream.Send(m)
}

// Read implements io.Reader. If there was no shell it says why.
func (p *Process) Read(b []byte) (int, error) {
	for len(p.left) == 0 {
		m, err := p.stream.Recv()
		if err != nil {
			return 0, err
		}
		switch x := m.Input.(type) {
		case *gatewaypb.ExecMessage_File:
			p.left = x.File.Data
		case *gatewaypb.ExecMessage_Exit:
			if e := x.Exit.Error; e != nil {
				p.exit = errors.New(e.Message)
			}
		case *gatewaypb.ExecMessage_Done:
			if p.exit != nil {
				return 0, p.exit
			}
			return 0, io.EOF
		}
	}
	n := copy(b, p.left)
	p.left = p.left[n:]
	return n, nil
}

// Write implements io.Writer.
func (p *Process) Write(b []byte) (int, error) {
	if err := p.send(&gatewaypb.ExecMessage{Input: &gatewaypb.ExecMessage_File{File: &gatewaypb.FdMessage{Data: b}}}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Resize tells the size of the caller's terminal.
func (p *Process) Resize(height, width uint) error {
	return p.send(&gatewaypb.ExecMessage{Input: &gatewaypb.ExecMessage_Resize{Resize: &gatewaypb.ResizeMessage{Rows: uint32(height), Cols: uint32(width)}}}) //nolint:gosec // of a terminal
}
