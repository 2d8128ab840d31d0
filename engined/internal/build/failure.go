package build

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"strata/pkg/identifiers"
	"strata/pkg/linux/mount"
)

// Failure is a RUN that has failed, as Request.Failed sees it: what was mounted for it is
// there still.
type Failure struct {
	Step  string
	Stage string
	Lines [2]int // of the Dockerfile
	Err   error  // a *CommandError

	b *builder
	w *work
	c *command
}

// ShellRequest asks for a command in the place of one that failed.
type ShellRequest struct {
	Args []string // nil for the stage's shell, /bin/sh as a rule
	// AsLeft shows the files as the failed command has left them, instead of as it found
	// them.
	AsLeft  bool
	Streams Streams
}

// Shell runs a command with the mounts, variables, user and network of the failed one, and
// returns its exit code. What it changes is lost. It ends with ctx.
func (f *Failure) Shell(ctx context.Context, r ShellRequest) (int, error) {
	c := *f.c
	c.id, c.args, c.streams = identifiers.New(), r.Args, r.Streams
	if len(c.args) == 0 {
		c.args = f.w.v.Run.Shell[:1]
	}
	if !r.AsLeft {
		mounts, drop, err := f.b.s.scratch(ctx, f.w.parent.Snapshot)
		if err != nil {
			return 0, err
		}
		defer drop()
		c.rootfs = mounts
	}
	if c.streams.Stdout == nil || c.streams.Stderr == nil && !c.streams.Terminal {
		return 0, fmt.Errorf("a shell needs streams for its output: %w", errdefs.ErrInvalidArgument)
	}
	err := c.run(ctx)
	if ce, ok := errors.AsType[*CommandError](err); ok {
		return ce.Code, nil
	}
	return 0, err
}

// failed lets the client look at a command that has failed, one at a time. It returns err.
func (b *builder) failed(ctx context.Context, w *work, c *command, err error) error {
	if _, ok := errors.AsType[*CommandError](err); !ok || b.r.Failed == nil {
		return err
	}
	b.failing.Lock()
	defer b.failing.Unlock()
	if ctx.Err() == nil {
		b.r.Failed(ctx, &Failure{Step: w.v.Name, Stage: w.v.Stage, Lines: w.v.Lines, Err: err, b: b, w: w, c: c})
	}
	return err
}

// scratch makes an active snapshot that nobody commits; drop removes it.
func (s *Service) scratch(ctx context.Context, parent string) (mounts []mount.Mount, drop func(), err error) {
	k := "build-" + identifiers.Short(identifiers.New())
	release := s.hold(k)
	mounts, err = s.sup.PrepareSnapshot(ctx, s.images.Snapshotter(), k, parent, rootLabels())
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("prepare snapshot: %w", err)
	}
	return mounts, func() { s.dropSnapshot(ctx, k); release() }, nil
}
