package manifest

import (
	"slices"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Select returns the entries of an index to use for the wanted platforms: of each the
// best that runs there, in the order of the index. No wanted platform means every entry.
// An entry without a platform is taken where nothing fits better.
func Select(entries []ocispec.Descriptor, wanted []ocispec.Platform) []ocispec.Descriptor {
	if len(wanted) == 0 {
		return entries
	}
	chosen := map[int]bool{}
	for _, p := range wanted {
		if i := best(entries, platforms.Only(p)); i >= 0 {
			chosen[i] = true
		}
	}
	var out []ocispec.Descriptor
	for i, e := range entries {
		if chosen[i] {
			out = append(out, e)
		}
	}
	return out
}

// best returns the index of the entry that m prefers, or -1.
func best(entries []ocispec.Descriptor, m platforms.MatchComparer) int {
	found := -1
	for i, e := range entries {
		switch {
		case IsAttestation(e):
		case e.Platform == nil:
			if found < 0 && (IsManifest(e.MediaType) || IsIndex(e.MediaType)) {
				found = i
			}
		case !m.Match(*e.Platform):
		case found < 0 || entries[found].Platform == nil || m.Less(*e.Platform, *entries[found].Platform):
			found = i
		}
	}
	return found
}

// Runs reports whether an image for platform p runs on one of wanted; no wanted platform
// means any.
func Runs(p ocispec.Platform, wanted []ocispec.Platform) bool {
	return len(wanted) == 0 || slices.ContainsFunc(wanted, func(w ocispec.Platform) bool {
		return p.OS == "" && p.Architecture == "" || platforms.Only(w).Match(platforms.Normalize(p))
	})
}
