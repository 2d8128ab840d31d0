package dockerconfig

import (
	"maps"
	"slices"
)

// Servers returns the registries that the file says something about, sorted. Those that
// only a store for all knows are not among them.
func (f *File) Servers() []string {
	all := map[string]bool{}
	for s := range f.auths {
		all[s] = true
	}
	for s := range f.CredHelpers {
		all[s] = true
	}
	return slices.Sorted(maps.Keys(all))
}
