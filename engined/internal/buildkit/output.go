package buildkit

import (
	"context"
	"io"
	"strconv"

	"strata/engined/internal/build"
	"strata/engined/internal/build/files"
	"strata/engined/internal/buildkit/session"
	"strata/pkg/buildkit"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/buildkit/transfer"
)

// outputs are what Solve's exporters ask for.
func (j *job) outputs() ([]build.Output, error) {
	list := j.req.Exporters
	if len(list) == 0 && j.req.ExporterDeprecated != "" {
		list = []*controlpb.Exporter{{Type: j.req.ExporterDeprecated, Attrs: j.req.ExporterAttrsDeprecated}}
	}
	if len(list) == 0 {
		return []build.Output{{Type: build.OutputCacheOnly}}, nil
	}
	var out []build.Output
	for i, e := range list {
		o := build.Output{Type: e.Type, Attrs: e.Attrs}
		switch e.Type {
		case build.OutputDocker, build.OutputOCI, build.OutputTar, build.OutputLocal:
			if j.session == nil {
				return nil, errNoSession
			}
			if tar, err := strconv.ParseBool(e.Attrs["tar"]); err == nil && !tar && (e.Type == build.OutputDocker || e.Type == build.OutputOCI) {
				o.Blobs = j.blobs(buildkit.StoreExport)
			} else {
				o.Sink = sink{j.session, i}
			}
		}
		out = append(out, o)
	}
	return out, nil
}

// sink is the place that the client has for the output of an exporter. It implements
// build.Sink.
type sink struct {
	s  *session.Session
	id int
}

// Stream implements build.Sink.
func (k sink) Stream(ctx context.Context, meta map[string]string) (io.WriteCloser, error) {
	return k.s.SendFile(ctx, k.id, meta)
}

// Tree implements build.Sink.
func (k sink) Tree(ctx context.Context, t files.Tree) error {
	return k.s.SendTree(ctx, k.id, func(p session.PacketStream) error {
		return transfer.Send(ctx, p, treeFiles{t}, nil)
	})
}
