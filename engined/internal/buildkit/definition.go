package buildkit

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"strata/engined/internal/build"
	"strata/pkg/buildkit/controlpb"
)

// resultDefinition is the definition of a result: a source that only this engine has. A
// client gives it back as the input of another build.
func resultDefinition(id string) (*controlpb.Definition, error) {
	source, err := proto.Marshal(&controlpb.Op{Source: &controlpb.SourceOp{Identifier: schemeResult + id}})
	if err != nil {
		return nil, err
	}
	name := digest.FromBytes(source).String()
	end, err := proto.Marshal(&controlpb.Op{Inputs: []*controlpb.Input{{Digest: name}}})
	// Without metadata a client takes it for nothing.
	return &controlpb.Definition{Def: [][]byte{source, end}, Metadata: map[string]*controlpb.OpMetadata{name: {}}}, err
}

// input is what a definition means that a client gives the frontend: a directory of the
// client, the result of a build, or what the engine is to fetch.
type input struct {
	dir    string
	linked *build.Linked // nil for none
	remote *remote       // nil for none
}

// Schemes of the sources that are understood.
const (
	schemeLocal  = "local://"
	schemeResult = "strata-result://"
)

// sourceOf returns the source that a definition consists of, schemeLocal or schemeResult and
// a name: there is nothing else in it but the operation that marks the end. Others are
// ErrNotImplemented.
func sourceOf(def *controlpb.Definition) (scheme, name string, err error) {
	for _, raw := range def.GetDef() {
		op := &controlpb.Op{}
		if err := proto.Unmarshal(raw, op); err != nil {
			return "", "", fmt.Errorf("definition: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if op.Source == nil && len(op.ProtoReflect().GetUnknown()) == 0 && len(op.Inputs) == 1 {
			continue // the end
		}
		id := op.GetSource().GetIdentifier()
		i := strings.Index(id, "://") + len("://")
		if scheme != "" || !strings.HasPrefix(id, schemeLocal) && !strings.HasPrefix(id, schemeResult) {
			return "", "", unimplemented("a definition of the client's own (LLB)")
		}
		scheme, name = id[:i], id[i:]
	}
	if name == "" {
		return "", "", unimplemented("an empty definition")
	}
	return scheme, name, nil
}
