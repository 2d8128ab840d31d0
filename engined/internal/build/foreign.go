package build

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/linux/binfmt"
)

// canRun reports, as an error of class ErrNotImplemented, that programs of a platform run
// neither by themselves nor by an interpreter.
func (s *Service) canRun(ctx context.Context, p ocispec.Platform) error {
	if p.OS == "" || platforms.Only(s.host).Match(p) || slices.Contains(binfmt.Architectures(ctx), p.Architecture) {
		return nil
	}
	return fmt.Errorf("programs for %s do not run on %s: no interpreter with flag F is registered in %s (Debian's package qemu-user-static registers them): %w",
		platforms.Format(p), platforms.Format(s.host), binfmt.Dir, errdefs.ErrNotImplemented)
}

// Platforms are those whose programs run here: the host's own, what that runs by itself, as
// amd64 does 386, and what is emulated.
func (s *Service) Platforms(ctx context.Context) []ocispec.Platform {
	out := []ocispec.Platform{s.host}
	own := platforms.Only(s.host)
	for _, arch := range []string{"386", "arm"} { // what processors of 64 bits run, too
		if p := platforms.Normalize(ocispec.Platform{OS: "linux", Architecture: arch}); arch != s.host.Architecture && own.Match(p) {
			out = append(out, p)
		}
	}
	for _, arch := range binfmt.Architectures(ctx) {
		if p := platforms.Normalize(ocispec.Platform{OS: "linux", Architecture: arch}); !own.Match(p) {
			out = append(out, p)
		}
	}
	return out
}
