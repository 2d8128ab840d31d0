package native

import (
	"context"
	"os"
	"path/filepath"

	"strata/pkg/linux/mount"
	"strata/pkg/linux/tree"
	"strata/supervisord/internal/snapshots"
)

// Driver copies. The zero value is ready.
type Driver struct{}

var _ snapshots.Driver = Driver{}

// Name is "native".
func (Driver) Name() string { return "native" }

func files(dir string) string { return filepath.Join(dir, "fs") }

// Make copies the parent; a view of one needs no copy.
func (Driver) Make(ctx context.Context, dir string, kind snapshots.Kind, parents []string) error {
	if err := os.Mkdir(files(dir), 0o755); err != nil {
		return err
	}
	if len(parents) == 0 || kind == snapshots.KindView {
		return nil
	}
	return tree.Copy(ctx, files(dir), files(parents[0]))
}

// Mounts returns a bind mount.
func (Driver) Mounts(dir string, kind snapshots.Kind, parents []string) []mount.Mount {
	m := mount.Mount{Type: "bind", Source: files(dir), Options: []string{"rbind", "rw"}}
	if kind == snapshots.KindView {
		m.Options[1] = "ro"
		if len(parents) > 0 {
			m.Source = files(parents[0])
		}
	}
	return []mount.Mount{m}
}

// Usage measures the copy.
func (Driver) Usage(ctx context.Context, dir string) (snapshots.Usage, error) {
	inodes, size, err := tree.Usage(ctx, files(dir))
	return snapshots.Usage{Inodes: inodes, Size: size}, err
}
