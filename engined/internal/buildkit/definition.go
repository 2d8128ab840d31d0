package buildkit

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"strata/pkg/buildkit/controlpb"
)

// schemeResult is what the definition of a result consists of: clients want one, to make it
// the input of another build.
const schemeResult = "strata-result://"

// resultDefinition is the definition of a result: a source that only this engine has.
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

// localOf returns the client's directory that a definition consists of: one source
// local://NAME, and the operation that marks the end. Others are ErrNotImplemented.
func localOf(def *controlpb.Definition) (string, error) {
	dir := ""
	for _, raw := range def.GetDef() {
		op := &controlpb.Op{}
		if err := proto.Unmarshal(raw, op); err != nil {
			return "", fmt.Errorf("definition: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if op.Source == nil {
			if len(op.ProtoReflect().GetUnknown()) == 0 && len(op.Inputs) == 1 {
				continue // the end
			}
			return "", unimplemented("a definition of the client's own (LLB)")
		}
		if strings.HasPrefix(op.Source.Identifier, schemeResult) {
			return "", unimplemented("the result of another build as a context")
		}
		name, ok := strings.CutPrefix(op.Source.Identifier, "local://")
		if !ok || dir != "" {
			return "", unimplemented("a definition of the client's own (LLB)")
		}
		dir = name
	}
	if dir == "" {
		return "", unimplemented("an empty definition")
	}
	return dir, nil
}
