package dockerfile

import (
	"bytes"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Targets lists the stages of a Dockerfile. Errors are as those of Compile.
func Targets(source []byte) ([]Target, error) {
	ast, err := parser.Parse(bytes.NewReader(source))
	if err != nil {
		return nil, mistake(nil, err)
	}
	stages, _, err := instructions.Parse(ast.AST, nil)
	if err != nil {
		return nil, mistake(nil, err)
	}
	var out []Target
	for i, s := range stages {
		out = append(out, Target{
			Name: s.Name, Description: s.DocComment, Base: s.BaseName, Platform: s.Platform, Default: i == len(stages)-1, Lines: lines(s.Location),
		})
	}
	return out, nil
}
