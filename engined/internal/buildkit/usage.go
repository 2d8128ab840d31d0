package buildkit

import (
	"context"
	"slices"
	"strings"

	"strata/engined/internal/build"
)

// contextType is BuildKit's word for what was received of a client's directory.
const contextType = "source.local"

// Usage lists the build cache: what steps have made, and what is kept of contexts.
func (s *Service) Usage(ctx context.Context) ([]build.Usage, error) {
	out, err := s.builds.DiskUsage(ctx)
	if err != nil {
		return nil, err
	}
	list, err := s.contexts.Usage()
	for _, u := range list {
		out = append(out, build.Usage{ID: u.ID, Type: contextType, Description: u.Description, InUse: u.InUse, Size: u.Size, CreatedAt: u.LastUsed, LastUsedAt: u.LastUsed})
	}
	return out, err
}

// Prune removes build cache, and returns what went. Kept contexts go only if nothing is to
// stay: they have a limit of their own.
func (s *Service) Prune(ctx context.Context, r build.PruneRequest) ([]build.Usage, error) {
	before, err := s.Usage(ctx)
	if err != nil {
		return nil, err
	}
	done, err := s.builds.Prune(ctx, r)
	if err != nil {
		return nil, err
	}
	var out []build.Usage
	for _, u := range before {
		gone := slices.Contains(done.IDs, u.ID)
		if u.Type == contextType && r.Whole() && wanted(r, u) {
			if gone, err = s.contexts.Remove(u.ID); err != nil {
				return out, err
			}
		}
		if gone {
			out = append(out, u)
		}
	}
	return out, nil
}

// wanted reports whether a request means a record.
func wanted(r build.PruneRequest, u build.Usage) bool {
	return (r.Until.IsZero() || u.LastUsedAt.Before(r.Until)) &&
		(len(r.Types) == 0 || slices.Contains(r.Types, u.Type)) &&
		(len(r.IDs) == 0 || slices.ContainsFunc(r.IDs, func(p string) bool { return strings.HasPrefix(u.ID, p) }))
}
