package buildkit

import (
	"context"
	"io"

	"strata/engined/internal/build"
	"strata/engined/internal/build/files"
)

// look builds a result and calls fn with its files.
func (j *job) look(ctx context.Context, r *result, fn func(files.Tree) error) error {
	_, err := j.build(ctx, r, func(req *build.Request) {
		req.Outputs = []build.Output{{Type: build.OutputLocal, Sink: glance(fn)}}
	})
	return err
}

// glance is a build.Sink that looks at files where they are.
type glance func(files.Tree) error

// Tree implements build.Sink.
func (g glance) Tree(_ context.Context, t files.Tree) error { return g(t) }

// Stream implements build.Sink: a local output has none.
func (glance) Stream(context.Context, map[string]string) (io.WriteCloser, error) {
	return nil, unimplemented("an archive of a local output")
}
