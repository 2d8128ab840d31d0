package buildkit

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strata/engined/internal/build"
	"strata/pkg/buildkit/controlpb"
)

// inputs finds out what the inputs of the frontend are. The results of other builds are made
// now, and kept until j ends: j may be exported when the client of the other build has gone.
func (j *job) inputs(ctx context.Context, defs map[string]*controlpb.Definition) (map[string]input, error) {
	out := map[string]input{}
	for key, def := range defs {
		if from, ok := remoteOf(def); ok {
			out[key] = input{remote: &from}
			continue
		}
		scheme, name, err := sourceOf(def)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", key, err)
		}
		if scheme == schemeLocal {
			out[key] = input{dir: name}
			continue
		}
		other, r, err := j.s.result(name)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", key, err)
		}
		l, err := other.link(ctx, r)
		if err != nil {
			return nil, err // it says which step of the other build
		}
		j.hold(l.Close)
		out[key] = input{linked: l}
	}
	return out, nil
}

// result finds a result by the reference that the bridge gave it, of whatever job that runs.
// A reference cannot be guessed: who has it was given it by the client of that job.
func (s *Service) result(id string) (*job, *result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		if j.ended {
			continue
		}
		if r, err := j.find(id); err == nil {
			return j, r, nil
		}
	}
	return nil, nil, fmt.Errorf("result %s of another build, which may have ended: %w", id, errdefs.ErrNotFound)
}

// link makes a result for builds to be built upon it; its steps are told in j's story.
func (j *job) link(ctx context.Context, r *result) (*build.Linked, error) {
	if r.metadata != nil {
		return nil, fmt.Errorf("the answer to a subrequest has no files to build upon: %w", errdefs.ErrInvalidArgument)
	}
	v, err := j.solved(ctx, r)
	if err != nil {
		return nil, j.explain(ctx, err)
	}
	l, err := v.Link(ctx)
	return l, j.explain(ctx, err)
}
