package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/status"

	"strata/engined/internal/build"
	"strata/engined/internal/build/files"
	"strata/engined/internal/buildkit/session"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/buildkit/gatewaypb"
	"strata/pkg/cleanup"
	"strata/pkg/identifiers"
)

// job is one build, from Solve to its answer.
type job struct {
	s        *Service
	ref      string
	began    time.Time
	ended    bool // guarded by the Service's mu
	req      *controlpb.SolveRequest
	story    *story
	cancel   context.CancelCauseFunc
	attached sync.Once
	session  *session.Session              // after attach; nil if the client has none
	noClient error                         // why there is no session; after attach
	body     io.Reader                     // the context, if it came with the request
	shell    *shell                        // nil if the client wants none
	returned chan *gatewaypb.ReturnRequest // what the client's frontend ends with; room for one

	mu      sync.Mutex
	results map[string]*result  // by the reference that the bridge gave them
	cache   *ocispec.Descriptor // that was exported to the client; nil for none
	held    cleanup.Stack       // what is let go of when the job ends
	over    bool                // held was let go of
}

// result is a build that the bridge was asked for. It is made when its files are asked for,
// or when Solve exports it.
type result struct {
	frontend string
	attrs    map[string]string
	inputs   map[string]input  // of the frontend
	metadata map[string][]byte // of a subrequest, which makes no image
	making   *making           // nil if nobody has asked; guarded by the job's mu

	remote   *remote    // of what is only looked into; nil for a build
	fetching sync.Mutex // held while fetched is made
	fetched  files.Tree
}

// solve is Control.Solve.
func (s *Service) solve(ctx context.Context, req *controlpb.SolveRequest) (*controlpb.SolveResponse, error) {
	j, ctx, err := s.begin(ctx, req)
	if err != nil {
		return nil, err
	}
	resp, err := s.finish(ctx, j)
	if err != nil {
		return nil, err
	}
	return &controlpb.SolveResponse{ExporterResponse: resp}, nil
}

// Solve is Control.Solve for who speaks no gRPC, and Status in one: tell is called with what
// happens. body, if not nil, is the context, a tar. Errors are for people.
func (s *Service) Solve(ctx context.Context, req *controlpb.SolveRequest, body io.Reader, tell func(*controlpb.StatusResponse) error) (map[string]string, error) {
	j, ctx, err := s.begin(ctx, req)
	if err != nil {
		return nil, err
	}
	j.body = body
	told := make(chan struct{})
	go func() { // ends with the job's story
		defer close(told)
		_ = j.story.follow(context.WithoutCancel(ctx), tell) // whom it tells has gone
	}()
	resp, err := s.finish(ctx, j)
	<-told
	if err != nil {
		err = errors.New(status.Convert(err).Message())
	}
	return resp, err
}

// finish runs a job to its end.
func (s *Service) finish(ctx context.Context, j *job) (map[string]string, error) {
	resp, attrs, err := j.run(ctx)
	err = j.explain(ctx, err)
	s.end(j)
	if !j.req.Internal {
		s.history.add(ctx, j.record(j.began, attrs, resp, err), j.story.all())
	}
	return resp, err
}

// run returns what the exporters say, and the attributes of what was built.
func (j *job) run(ctx context.Context) (map[string]string, map[string]string, error) {
	if len(j.req.GetDefinition().GetDef()) > 0 {
		return nil, nil, fmt.Errorf("a definition of the client's own (LLB): %w", errdefs.ErrNotImplemented)
	}
	if len(j.req.SourcePolicy) > 0 || j.req.SourcePolicySession != "" {
		return nil, nil, unimplemented("a source policy")
	}
	if err := checkShell(j.req.FrontendAttrs); err != nil {
		return nil, nil, err
	}
	if err := j.attach(ctx); err != nil {
		return nil, nil, err
	}
	if j.session != nil {
		ctx = j.untilGone(ctx)
	}
	if j.req.Frontend != "" {
		inputs, err := j.inputs(ctx, j.req.FrontendInputs)
		if err != nil {
			return nil, nil, err
		}
		r, err := j.frontend(ctx, j.req.Frontend, j.req.FrontendAttrs, inputs)
		if err != nil {
			return nil, nil, err
		}
		resp, err := j.export(ctx, r)
		return resp, r.attrs, err
	}
	return j.await(ctx)
}

// attach finds the client's session, which may be about to come. Solve and the bridge both
// need it.
func (j *job) attach(ctx context.Context) error {
	j.attached.Do(func() {
		if j.req.Session == "" {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		j.session, j.noClient = j.s.sessions.Get(ctx, j.req.Session)
	})
	return j.noClient
}

// errGone is why a build ends whose client does.
var errGone = errors.New("the client of the build has gone")

// untilGone returns a context that ends with the session.
func (j *job) untilGone(ctx context.Context) context.Context {
	go func() { // ends with the job
		select {
		case <-j.session.Done():
			j.cancel(errGone)
		case <-ctx.Done():
		}
	}()
	return ctx
}

// await lets the client run its frontend through the bridge, and exports what that returns.
func (j *job) await(ctx context.Context) (map[string]string, map[string]string, error) {
	var ret *gatewaypb.ReturnRequest
	select {
	case ret = <-j.returned:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	if e := ret.GetError(); e != nil {
		return nil, nil, returnedError(e)
	}
	id, err := soleRef(ret.GetResult())
	if err != nil {
		return nil, nil, err
	}
	if id == "" { // a subrequest, or nothing
		return metadataResponse(ret.GetResult().GetMetadata()), nil, nil
	}
	j.mu.Lock()
	r := j.results[id]
	j.mu.Unlock()
	if r == nil {
		return nil, nil, fmt.Errorf("result %s: %w", id, errdefs.ErrNotFound)
	}
	resp, err := j.export(ctx, r)
	return resp, r.attrs, err
}

// soleRef returns the reference of a result. Several, one for each platform, are one result
// here: the bridge gives one reference, whatever the platforms.
func soleRef(r *gatewaypb.Result) (string, error) {
	switch x := r.GetResult().(type) {
	case *gatewaypb.Result_Ref:
		return x.Ref.GetId(), nil
	case *gatewaypb.Result_RefDeprecated:
		return x.RefDeprecated, nil
	case *gatewaypb.Result_Refs:
		id := ""
		for _, ref := range x.Refs.GetRefs() {
			if id != "" && ref.GetId() != id {
				return "", fmt.Errorf("a result that the client has put together: %w", errdefs.ErrNotImplemented)
			}
			id = ref.GetId()
		}
		return id, nil
	}
	return "", nil
}

// metadataResponse is what Solve says of a result without files.
func metadataResponse(md map[string][]byte) map[string]string {
	out := map[string]string{}
	for k, v := range md {
		if strings.HasPrefix(k, "frontend.") || strings.HasPrefix(k, "result.") {
			out[k] = string(v)
		}
	}
	return out
}

// frontend takes a request for the built-in frontend. Nothing is made yet.
func (j *job) frontend(ctx context.Context, name string, attrs map[string]string, inputs map[string]input) (*result, error) {
	switch name {
	case frontendDockerfile, frontendGateway: // the latter is what a syntax line asks for
	default:
		return nil, fmt.Errorf("frontend %s: %w", name, errdefs.ErrNotImplemented)
	}
	r := &result{frontend: name, attrs: maps.Clone(attrs), inputs: inputs}
	if id := attrs[attrRequest]; id != "" {
		var err error
		r.metadata, err = j.subrequest(ctx, id, r)
		return r, err
	}
	return r, nil
}

// Names of the frontends that are answered.
const (
	frontendDockerfile = "dockerfile.v0"
	frontendGateway    = "gateway.v0"
)

// keep gives a result a reference.
func (j *job) keep(r *result) string {
	id := identifiers.New()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.results[id] = r
	return id
}

// hold runs letGo when the job ends; at once if it has ended.
func (j *job) hold(letGo func()) {
	j.mu.Lock()
	over := j.over
	if !over {
		j.held.Add(letGo)
	}
	j.mu.Unlock()
	if over {
		letGo()
	}
}

// letGo ends what hold was told of.
func (j *job) letGo() {
	j.mu.Lock()
	held := j.held
	j.held, j.over = cleanup.Stack{}, true
	j.mu.Unlock()
	held.Clean()
}

func (j *job) find(id string) (*result, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r, ok := j.results[id]; ok {
		return r, nil
	}
	return nil, fmt.Errorf("result %s: %w", id, errdefs.ErrNotFound)
}

// export builds a result with the outputs of Solve.
func (j *job) export(ctx context.Context, r *result) (map[string]string, error) {
	if r.metadata != nil {
		return metadataResponse(r.metadata), nil
	}
	outputs, err := j.outputs()
	if err != nil {
		return nil, err
	}
	v, err := j.solved(ctx, r)
	if err != nil {
		return nil, err
	}
	res, err := v.Export(ctx, outputs)
	if err != nil {
		return nil, err
	}
	return j.tellCache(res.Response)
}

// making is a result that somebody makes, while others may wait for it.
type making struct {
	done   chan struct{}
	solved *build.Solved
	err    error
}

// solved makes a result, once for all who ask; it stays until the job ends. One that was
// given up with the call that asked for it is made again.
func (j *job) solved(ctx context.Context, r *result) (*build.Solved, error) {
	for {
		j.mu.Lock()
		m := r.making
		mine := m == nil
		if mine {
			m = &making{done: make(chan struct{})}
			r.making = m
		}
		j.mu.Unlock()
		if mine {
			m.solved, m.err = j.solve(ctx, r)
			j.mu.Lock()
			if m.err != nil && ctx.Err() != nil {
				r.making = nil
			}
			j.mu.Unlock()
			close(m.done)
			return m.solved, m.err
		}
		select {
		case <-m.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		j.mu.Lock()
		again := r.making != m
		j.mu.Unlock()
		if !again {
			return m.solved, m.err
		}
	}
}

// solve is solved's work.
func (j *job) solve(ctx context.Context, r *result) (*build.Solved, error) {
	if r.remote != nil {
		return nil, unimplemented("the files of a source as a result")
	}
	var undo cleanup.Stack
	defer undo.Clean()
	req, err := j.request(ctx, r, &undo)
	if err != nil {
		return nil, err
	}
	if req.Outputs, err = j.outputs(); err != nil { // what cannot be made is refused before anything is
		return nil, err
	}
	if j.shell != nil {
		req.Failed = j.shell.failed
	}
	j.story.begin(req.Dockerfile)
	v, err := j.s.builds.Solve(ctx, req, j.story)
	if err != nil {
		return nil, err
	}
	undo.Add(v.Close)
	kept := undo
	undo.Release()
	j.hold(kept.Clean)
	return v, nil
}
