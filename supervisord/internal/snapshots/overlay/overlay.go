package overlay

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"strata/pkg/linux/mount"
	"strata/pkg/linux/tree"
	"strata/supervisord/internal/snapshots"
)

// Driver makes overlays. Use New.
type Driver struct {
	options []string // of every overlay
}

var _ snapshots.Driver = (*Driver)(nil)

// New looks at the kernel and returns the driver.
func New() (*Driver, error) {
	// With index=on an upper directory could be mounted only above the very lower
	// directories that it saw first.
	d := &Driver{options: []string{"index=off"}}
	userns, err := inUserNamespace()
	if err != nil {
		return nil, err
	}
	if userns {
		d.options = append(d.options, "userxattr") // Linux 5.11: trusted.* is not ours
		return d, nil
	}
	// A renamed directory and a changed mode are copied whole, so that an upper
	// directory means something without its lower ones.
	for _, feature := range []string{"redirect_dir", "metacopy"} {
		value, err := os.ReadFile("/sys/module/overlay/parameters/" + feature)
		if err == nil && strings.HasPrefix(string(value), "Y") {
			d.options = append(d.options, feature+"=off")
		}
	}
	return d, nil
}

// inUserNamespace reports whether this process sees anything but the whole range of
// user ids as the kernel does (user_namespaces(7)).
func inUserNamespace() (bool, error) {
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false, fmt.Errorf("read uid map: %w", err)
	}
	var inside, outside, length uint64
	if _, err := fmt.Sscan(string(data), &inside, &outside, &length); err != nil {
		return true, nil //nolint:nilerr // an empty map: a namespace that is being made
	}
	return inside != 0 || outside != 0 || length != 1<<32-1, nil
}

// Name is "overlayfs".
func (*Driver) Name() string { return "overlayfs" }

func files(dir string) string { return filepath.Join(dir, "fs") }
func work(dir string) string  { return filepath.Join(dir, "work") }

// Make makes the upper directory with the mode and the owner of the parent's, which the
// root of the overlay takes from it.
func (*Driver) Make(_ context.Context, dir string, kind snapshots.Kind, parents []string) error {
	if err := os.Mkdir(files(dir), 0o755); err != nil {
		return err
	}
	if len(parents) > 0 {
		if err := tree.CopyAttributes(files(dir), files(parents[0])); err != nil {
			return err
		}
	}
	if kind == snapshots.KindActive {
		return os.Mkdir(work(dir), 0o711)
	}
	return nil
}

// Rebase gives the upper directory the attributes of the parent's, as Make does, unless it was
// given others meanwhile. Nothing else in it depends on parents: it has no whiteouts and no
// opaque directories, as there was nothing to hide.
func (*Driver) Rebase(dir string, parents []string) error {
	info, err := os.Stat(files(dir))
	if err != nil || len(parents) == 0 {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || info.Mode() != fs.ModeDir|0o755 || st.Uid != 0 || st.Gid != 0 {
		return nil
	}
	return tree.CopyAttributes(files(dir), files(parents[0]))
}

// Mounts returns a bind mount where one directory is all there is, else an overlay.
func (d *Driver) Mounts(dir string, kind snapshots.Kind, parents []string) []mount.Mount {
	bind := func(dir, mode string) []mount.Mount {
		return []mount.Mount{{Type: "bind", Source: files(dir), Options: []string{mode, "rbind"}}}
	}
	options := append([]string(nil), d.options...)
	switch {
	case kind == snapshots.KindActive && len(parents) == 0:
		return bind(dir, "rw")
	case kind == snapshots.KindActive:
		options = append(options, "workdir="+work(dir), "upperdir="+files(dir))
	case len(parents) == 0:
		return bind(dir, "ro")
	case len(parents) == 1:
		return bind(parents[0], "ro")
	}
	lower := make([]string, len(parents))
	for i, p := range parents {
		lower[i] = escape(files(p))
	}
	options = append(options, "lowerdir="+strings.Join(lower, ":"))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}
}

// escape protects what separates the directories of lowerdir.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(path)
}

// Usage measures the upper directory.
func (*Driver) Usage(ctx context.Context, dir string) (snapshots.Usage, error) {
	inodes, size, err := tree.Usage(ctx, files(dir))
	return snapshots.Usage{Inodes: inodes, Size: size}, err
}
