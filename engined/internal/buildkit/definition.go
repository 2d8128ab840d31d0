package buildkit

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"strata/pkg/buildkit/controlpb"
)

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
