package buildkit

import (
	"context"
	"fmt"
	"io"
	"maps"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"

	"strata/engined/internal/build"
	"strata/engined/internal/build/files"
	"strata/engined/internal/buildkit/session"
	"strata/engined/internal/images"
	"strata/pkg/buildkit/transfer"
)

// outputs are what Solve's exporters ask for.
func (j *job) outputs() ([]build.Output, []string, []build.Annotation, error) {
	list := j.req.Exporters
	if len(list) == 0 && j.req.ExporterDeprecated != "" {
		return j.oneOutput(0, j.req.ExporterDeprecated, j.req.ExporterAttrsDeprecated)
	}
	if len(list) == 0 {
		return []build.Output{{Type: build.OutputCacheOnly}}, nil, nil, nil
	}
	var outputs []build.Output
	var tags []string
	var annotations []build.Annotation
	for i, e := range list {
		o, t, a, err := j.oneOutput(i, e.Type, e.Attrs)
		if err != nil {
			return nil, nil, nil, err
		}
		outputs, tags, annotations = append(outputs, o...), append(tags, t...), append(annotations, a...)
	}
	return outputs, tags, annotations, nil
}

// noise are attributes that ask for what is done anyway.
var noise = []string{"prefer-image-digest", "unpack", "store", "buildinfo", "buildinfo-attrs", "dest", "mode", "context"}

// oneOutput is the exporter of number id.
func (j *job) oneOutput(id int, kind string, attrs map[string]string) ([]build.Output, []string, []build.Annotation, error) {
	o := build.Output{Type: kind, Attrs: maps.Clone(attrs)}
	for _, k := range noise {
		delete(o.Attrs, k)
	}
	var tags []string
	switch kind {
	case "image", "moby":
		o.Type = build.OutputImage
		for name := range strings.SplitSeq(o.Attrs["name"], ",") {
			if name == "" {
				continue
			}
			named, err := images.ParseName(name, "")
			if err != nil {
				return nil, nil, nil, err
			}
			tags = append(tags, named.String())
		}
		delete(o.Attrs, "name")
	case build.OutputDocker, build.OutputOCI, build.OutputTar, build.OutputLocal:
		if j.session == nil {
			return nil, nil, nil, errNoSession
		}
		o.Sink = sink{j.session, id}
	default:
		return nil, nil, nil, fmt.Errorf("exporter %q: %w", kind, errdefs.ErrNotImplemented)
	}
	annotations, err := takeAnnotations(o.Attrs)
	return []build.Output{o}, tags, annotations, err
}

// annotationKey is an attribute that is an annotation: its level, its platform, its key.
var annotationKey = regexp.MustCompile(`^annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)$`)

// takeAnnotations removes the annotations from attrs.
func takeAnnotations(attrs map[string]string) ([]build.Annotation, error) {
	var out []build.Annotation
	for k, v := range attrs {
		m := annotationKey.FindStringSubmatch(k)
		if m == nil {
			continue
		}
		level := m[1]
		switch level {
		case "":
			level = "manifest"
		case "manifest", "index", "manifest-descriptor", "index-descriptor":
		default:
			return nil, fmt.Errorf("unrecognized annotation type %s: %w", level, errdefs.ErrInvalidArgument)
		}
		p, err := platformOf(m[2])
		if err != nil {
			return nil, err
		}
		out = append(out, build.Annotation{Level: level, Platform: p, Key: m[3], Value: v})
		delete(attrs, k)
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
