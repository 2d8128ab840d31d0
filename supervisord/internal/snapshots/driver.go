package snapshots

import (
	"context"

	"strata/pkg/linux/mount"
)

// Driver makes states out of directories. dir and parents are directories of snapshots
// (ROOT/ID); parents are listed from the nearest to the base. A Driver keeps nothing
// between calls and is safe for concurrent use.
type Driver interface {
	// Name is how clients name the snapshotter: "overlayfs".
	Name() string
	// Make fills the empty directory dir of a new snapshot.
	Make(ctx context.Context, dir string, kind Kind, parents []string) error
	// Mounts returns how to mount an active snapshot or a view. Clients hand it to
	// mount(2) themselves.
	Mounts(dir string, kind Kind, parents []string) []mount.Mount
	// Usage returns what the snapshot takes on disk.
	Usage(ctx context.Context, dir string) (Usage, error)
}

// rebaser is a Driver for which what was made without parents means the same as a change
// above some.
type rebaser interface {
	// Rebase makes dir, which was made without parents, a child of parents.
	Rebase(dir string, parents []string) error
}
