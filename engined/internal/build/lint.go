package build

import (
	"context"

	"strata/engined/internal/build/dockerfile"
)

// Lint compiles what Build would build, and returns what the linter has to say. Errors are
// those of Build for a Dockerfile that cannot be compiled.
func (s *Service) Lint(ctx context.Context, r Request) ([]dockerfile.Warning, error) {
	b := &builder{s: s, r: r, o: silent{}}
	defer b.end()
	if err := b.plan(ctx); err != nil {
		return nil, err
	}
	return b.products[0].plan.Warnings, nil
}

// silent is an Observer that tells nobody.
type silent struct{}

func (silent) Planned([]*dockerfile.Plan)                   {}
func (silent) Added(*dockerfile.Vertex)                     {}
func (silent) Started(*dockerfile.Vertex, string)           {}
func (silent) Output(*dockerfile.Vertex, []byte, bool)      {}
func (silent) Ended(*dockerfile.Vertex, Ending)             {}
func (silent) Pulling(string, string, string, int64, int64) {}
