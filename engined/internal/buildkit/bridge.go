package buildkit

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/metadata"

	"strata/engined/internal/build/files"
	"strata/pkg/buildkit"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/buildkit/gatewaypb"
)

// bridge lets a client run a frontend by itself, within a Solve that waits for its result.
// Methods that are not here are answered with Unimplemented.
type bridge struct {
	gatewaypb.UnimplementedLLBBridgeServer
	s *Service
}

// job returns the job that a call belongs to.
func (b bridge) job(ctx context.Context) (*job, error) {
	md, _ := metadata.FromIncomingContext(ctx) // none is no metadata
	ids := md.Get(buildkit.KeyBuildID)
	if len(ids) == 0 {
		return nil, fmt.Errorf("call without the id of a build: %w", errdefs.ErrInvalidArgument)
	}
	return b.s.job(ctx, ids[0])
}

// Capabilities of the bridge, and of the definitions and options that are understood. A
// client refuses by itself what needs others.
var (
	bridgeCaps = []string{
		"solve.base", "solve.inlinereturn", "resolveimage", "resolveimage.resolvemode", "readfile", "return", "returnmap", "readdir", "statfile",
		"importcaches", "proto.refarray", "reference.output", "frontend.inputs", "gateway.solve.metadata", "frontend.caps",
		"gateway.evaluate.solve", "gateway.evaluate", "gateway.warnings", "reference.attestations",
	}
	llbCaps = []string{
		"source.image", "source.image.resolvemode", "source.local", "source.local.unique", "source.local.sessionid", "source.local.includepatterns",
		"source.local.followpaths", "source.local.excludepatterns", "source.local.sharedkeyhint", "source.local.differ", "source.ocilayout",
		"source.git", "source.git.keepgitdir", "source.git.fullurl", "source.git.httpauth", "source.git.knownsshhosts", "source.git.mountsshsock",
		"source.git.checksum", "source.git.skipsubmodules", "source.git.fetchbycommit", "source.http", "platform", "constraints", "meta.ignorecache", "meta.description", "meta.exportcache", "meta.progressgroup",
		"exec.meta.base", "exec.mount.bind", "exec.mount.cache", "exec.mount.tmpfs", "exec.mount.secret", "exec.mount.ssh", "file.base",
		"gc.freespacefilter", "exporter.multiple", "exporter.image.annotations", "exporter.sourcedateepoch", "exporter.image.attestations",
	}
)

func caps(list []string) []*controlpb.APICap {
	var out []*controlpb.APICap
	for _, id := range list {
		out = append(out, &controlpb.APICap{ID: id, Enabled: true})
	}
	return out
}

// Ping implements gatewaypb.LLBBridgeServer.
func (b bridge) Ping(ctx context.Context, _ *gatewaypb.PingRequest) (*gatewaypb.PongResponse, error) {
	if _, err := b.job(ctx); err != nil {
		return nil, err
	}
	return &gatewaypb.PongResponse{FrontendAPICaps: caps(bridgeCaps), LLBCaps: caps(llbCaps), Workers: b.s.workers(ctx)}, nil
}

// Solve implements gatewaypb.LLBBridgeServer.
func (b bridge) Solve(ctx context.Context, req *gatewaypb.SolveRequest) (*gatewaypb.SolveResponse, error) {
	j, err := b.job(ctx)
	if err != nil {
		return nil, err
	}
	if def := req.GetDefinition(); len(def.GetDef()) > 0 {
		r, err := b.solveRemote(ctx, j, def, req.Evaluate)
		if err != nil {
			return nil, j.explain(ctx, err)
		}
		return &gatewaypb.SolveResponse{Result: &gatewaypb.Result{Result: &gatewaypb.Result_Ref{Ref: &gatewaypb.Ref{Id: j.keep(r), Def: def}}}}, nil
	}
	if req.Frontend == "" { // an empty definition: nothing
		return &gatewaypb.SolveResponse{Result: &gatewaypb.Result{Result: &gatewaypb.Result_Ref{Ref: &gatewaypb.Ref{}}}}, nil
	}
	if err := j.attach(ctx); err != nil {
		return nil, err
	}
	inputs, err := j.inputs(ctx, req.FrontendInputs)
	if err != nil {
		return nil, err
	}
	r, err := j.frontend(ctx, req.Frontend, req.FrontendOpt, inputs)
	if err != nil {
		return nil, j.explain(ctx, err)
	}
	if r.metadata != nil {
		return &gatewaypb.SolveResponse{Result: &gatewaypb.Result{Result: &gatewaypb.Result_Ref{Ref: &gatewaypb.Ref{}}, Metadata: r.metadata}}, nil
	}
	if req.Evaluate {
		if _, err := j.solved(ctx, r); err != nil {
			return nil, j.explain(ctx, err)
		}
	}
	ref := &gatewaypb.Ref{Id: j.keep(r)}
	if ref.Def, err = resultDefinition(ref.Id); err != nil {
		return nil, err
	}
	return &gatewaypb.SolveResponse{Result: &gatewaypb.Result{Result: &gatewaypb.Result_Ref{Ref: ref}}}, nil
}

// Evaluate implements gatewaypb.LLBBridgeServer.
func (b bridge) Evaluate(ctx context.Context, req *gatewaypb.EvaluateRequest) (*gatewaypb.EvaluateResponse, error) {
	j, r, err := b.result(ctx, req.Ref)
	if err != nil {
		return nil, err
	}
	if r.remote != nil {
		_, err = j.fetch(ctx, r)
	} else {
		_, err = j.solved(ctx, r)
	}
	if err != nil {
		return nil, j.explain(ctx, err)
	}
	return &gatewaypb.EvaluateResponse{}, nil
}

func (b bridge) result(ctx context.Context, ref string) (*job, *result, error) {
	j, err := b.job(ctx)
	if err != nil {
		return nil, nil, err
	}
	r, err := j.find(ref)
	return j, r, err
}

// Return implements gatewaypb.LLBBridgeServer.
func (b bridge) Return(ctx context.Context, req *gatewaypb.ReturnRequest) (*gatewaypb.ReturnResponse, error) {
	j, err := b.job(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case j.returned <- req:
		return &gatewaypb.ReturnResponse{}, nil
	default:
		return nil, fmt.Errorf("build %s has a result: %w", j.ref, errdefs.ErrFailedPrecondition)
	}
}

// Inputs implements gatewaypb.LLBBridgeServer: there are none of Solve's own.
func (b bridge) Inputs(ctx context.Context, _ *gatewaypb.InputsRequest) (*gatewaypb.InputsResponse, error) {
	j, err := b.job(ctx)
	if err != nil {
		return nil, err
	}
	return &gatewaypb.InputsResponse{Definitions: j.req.FrontendInputs}, nil
}

// Warn implements gatewaypb.LLBBridgeServer.
func (b bridge) Warn(ctx context.Context, req *gatewaypb.WarnRequest) (*gatewaypb.WarnResponse, error) {
	j, err := b.job(ctx)
	if err != nil {
		return nil, err
	}
	j.story.mu.Lock()
	defer j.story.mu.Unlock()
	j.story.warnings++
	j.story.tell(&controlpb.StatusResponse{Warnings: []*controlpb.VertexWarning{{
		Vertex: req.Digest, Level: req.Level, Short: req.Short, Detail: req.Detail, Url: req.Url, Info: req.Info, Ranges: req.Ranges,
	}}})
	return &gatewaypb.WarnResponse{}, nil
}

// withTree calls fn with the files of a result.
func (b bridge) withTree(ctx context.Context, ref string, fn func(files.Tree) error) error {
	j, r, err := b.result(ctx, ref)
	if err != nil {
		return err
	}
	if r.remote != nil {
		t, err := j.fetch(ctx, r)
		if err == nil {
			err = fn(t)
		}
		return j.explain(ctx, err)
	}
	v, err := j.solved(ctx, r)
	if err == nil {
		err = v.Look(ctx, fn)
	}
	return j.explain(ctx, err)
}

// maxRead bounds what ReadFile answers, in bytes.
const maxRead = 8 << 20

// ReadFile implements gatewaypb.LLBBridgeServer.
func (b bridge) ReadFile(ctx context.Context, req *gatewaypb.ReadFileRequest) (*gatewaypb.ReadFileResponse, error) {
	out := &gatewaypb.ReadFileResponse{}
	return out, b.withTree(ctx, req.Ref, func(t files.Tree) error {
		data, err := files.ReadFile(t, req.FilePath, maxRead)
		if err != nil {
			return err
		}
		if r := req.Range; r != nil {
			data = data[min(max(r.Offset, 0), int64(len(data))):]
			if r.Length > 0 {
				data = data[:min(r.Length, int64(len(data)))]
			}
		}
		out.Data = data
		return nil
	})
}

// ReadDir implements gatewaypb.LLBBridgeServer.
func (b bridge) ReadDir(ctx context.Context, req *gatewaypb.ReadDirRequest) (*gatewaypb.ReadDirResponse, error) {
	out := &gatewaypb.ReadDirResponse{}
	return out, b.withTree(ctx, req.Ref, func(t files.Tree) error {
		dir, _, err := files.Resolve(t, req.DirPath)
		if err != nil {
			return err
		}
		list, err := t.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, base := range list {
			if ok, err := path.Match(req.IncludePattern, base); req.IncludePattern != "" && (err != nil || !ok) {
				continue
			}
			n, err := t.Lstat(path.Join(dir, base))
			if err != nil {
				return err
			}
			out.Entries = append(out.Entries, statOf(base, n))
		}
		return nil
	})
}

// StatFile implements gatewaypb.LLBBridgeServer.
func (b bridge) StatFile(ctx context.Context, req *gatewaypb.StatFileRequest) (*gatewaypb.StatFileResponse, error) {
	out := &gatewaypb.StatFileResponse{}
	return out, b.withTree(ctx, req.Ref, func(t files.Tree) error {
		n, err := t.Lstat(path.Clean("/" + req.Path))
		if err == nil {
			out.Stat = statOf(strings.TrimPrefix(path.Clean(req.Path), "/"), n)
		}
		return err
	})
}
