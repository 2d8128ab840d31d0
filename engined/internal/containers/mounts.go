package containers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"

	"strata/engined/internal/spec"
	"strata/engined/internal/store"
	"strata/engined/internal/volumes"
	"strata/pkg/identifiers"
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// collectMounts returns the mounts of a new container in the order in which later ones
// win over earlier ones: VolumesFrom, Mounts, Binds; then the image's and the user's
// anonymous volumes and tmpfs where nothing else is. Volumes have no Source yet.
func (s *Service) collectMounts(d *store.Definition) ([]store.Mount, error) {
	byDest := map[string]store.Mount{}
	for _, ref := range d.Host.VolumesFrom {
		if err := s.addVolumesFrom(byDest, ref); err != nil {
			return nil, err
		}
	}
	explicit := map[string]bool{}
	add := func(m store.Mount) error {
		if explicit[m.Destination] {
			return invalid("Duplicate mount point: %s", m.Destination)
		}
		explicit[m.Destination] = true
		byDest[m.Destination] = m
		return nil
	}
	for _, b := range d.Host.Binds {
		m, err := ParseBind(b)
		if err != nil {
			return nil, err
		}
		if m.Type == "volume" && m.Driver == "" {
			m.Driver = d.Host.VolumeDriver
		}
		if err := add(m); err != nil {
			return nil, err
		}
	}
	for _, spec := range d.Host.Mounts {
		m, err := fromAPIMount(spec)
		if err != nil {
			return nil, invalid("invalid mount config for type %q: %v", spec.Type, err)
		}
		if err := add(m); err != nil {
			return nil, err
		}
	}
	for dest, opts := range d.Host.Tmpfs {
		if explicit[path.Clean(dest)] {
			return nil, invalid("Duplicate mount point: %s", dest)
		}
		words, err := spec.TmpfsOptions(opts)
		if err != nil {
			return nil, err
		}
		delete(byDest, path.Clean(dest))
		byDest[path.Clean(dest)] = store.Mount{Type: "tmpfs", Destination: path.Clean(dest), Mode: opts, RW: !slices.Contains(words, "ro"), Options: words, Driver: "hostconfig"}
	}
	for dest := range d.Config.Volumes {
		clean := path.Clean(dest)
		if !path.IsAbs(clean) || clean == "/" {
			return nil, invalid("invalid volume specification: '%s': invalid mount config for type \"volume\": invalid mount path: '%s' mount path must be absolute", dest, dest)
		}
		if _, ok := byDest[clean]; !ok {
			byDest[clean] = store.Mount{Type: "volume", Destination: clean, RW: true, Anonymous: true, Driver: d.Host.VolumeDriver}
		}
	}
	out := make([]store.Mount, 0, len(byDest))
	for _, m := range byDest {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b store.Mount) int { return strings.Compare(a.Destination, b.Destination) })
	return out, nil
}

func (s *Service) addVolumesFrom(byDest map[string]store.Mount, ref string) error {
	name, mode, _ := strings.Cut(ref, ":")
	if name == "" {
		return invalid("volumes-from specification cannot be an empty string")
	}
	readOnly := false
	if mode != "" {
		for word := range strings.SplitSeq(mode, ",") {
			switch word {
			case "ro":
				readOnly = true
			case "rw", "z", "Z":
			default:
				return invalid("invalid mode for volumes-from: %s", mode)
			}
		}
	}
	c, err := s.Get(name)
	if errdefs.IsNotFound(err) {
		return invalid("No such container: %s", name) // clients take a 404 here for an image to be pulled
	}
	if err != nil {
		return err
	}
	for _, m := range c.Definition().Mounts {
		if m.Type == "tmpfs" {
			continue
		}
		m.Anonymous = false // it belongs to the other container
		if readOnly {
			m.RW = false
		}
		byDest[m.Destination] = m
	}
	return nil
}

// ParseBind reads "[SOURCE:]DESTINATION[:MODE]". A source that is not a path names a
// volume. The error is of class ErrInvalidArgument, with dockerd's words.
func ParseBind(text string) (store.Mount, error) {
	bad := func() (store.Mount, error) { return store.Mount{}, invalid("invalid volume specification: '%s'", text) }
	parts := strings.Split(text, ":")
	m := store.Mount{RW: true}
	switch len(parts) {
	case 1:
		if !path.IsAbs(parts[0]) || path.Clean(parts[0]) == "/" {
			return store.Mount{}, invalid("invalid volume specification: '%s': invalid mount config for type \"volume\": invalid mount path: '%s' mount path must be absolute", text, parts[0])
		}
		return store.Mount{Type: "volume", Destination: path.Clean(parts[0]), RW: true, Anonymous: true}, nil
	case 2, 3:
	default:
		return bad()
	}
	if parts[0] == "" || parts[1] == "" {
		return bad()
	}
	if len(parts) == 3 {
		m.Mode = parts[2]
	}
	m.Destination = path.Clean(parts[1])
	if path.IsAbs(parts[0]) {
		m.Type, m.Source = "bind", path.Clean(parts[0])
	} else {
		if !identifiers.ValidName(parts[0]) {
			return store.Mount{}, invalid("create %s: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", parts[0], parts[0])
		}
		m.Type, m.Name = "volume", parts[0]
	}
	if !path.IsAbs(parts[1]) {
		return store.Mount{}, invalid("invalid volume specification: '%s': invalid mount config for type %q: invalid mount path: '%s' mount path must be absolute", text, m.Type, parts[1])
	}
	if m.Destination == "/" {
		return store.Mount{}, invalid("invalid volume specification: '%s': invalid mount config for type %q: invalid specification: destination can't be '/'", text, m.Type)
	}
	if err := applyMode(&m, m.Mode); err != nil {
		return store.Mount{}, err
	}
	if m.Type == "bind" && m.Propagation == "" {
		m.Propagation = string(mount.PropagationRPrivate)
	}
	return m, nil
}

func applyMode(m *store.Mount, mode string) error {
	if mode == "" {
		return nil
	}
	for word := range strings.SplitSeq(mode, ",") {
		switch word {
		case "ro":
			m.RW = false
		case "rw", "z", "Z", "cached", "delegated", "consistent", "volume":
		case "nocopy":
			if m.Type != "volume" {
				return invalid("invalid mode: %s", mode)
			}
			m.NoCopy = true
		case "shared", "rshared", "slave", "rslave", "private", "rprivate":
			if m.Type != "bind" {
				return invalid("invalid mode: %s", mode)
			}
			m.Propagation = word
		default:
			return invalid("invalid mode: %s", mode)
		}
	}
	return nil
}

func fromAPIMount(a mount.Mount) (store.Mount, error) {
	if a.Target == "" {
		return store.Mount{}, errors.New("field Target must not be empty")
	}
	if !path.IsAbs(a.Target) {
		return store.Mount{}, fmt.Errorf("invalid mount path: '%s' mount path must be absolute", a.Target)
	}
	if path.Clean(a.Target) == "/" {
		return store.Mount{}, errors.New("invalid specification: destination can't be '/'")
	}
	m := store.Mount{Type: string(a.Type), Destination: path.Clean(a.Target), RW: !a.ReadOnly, FromMounts: true}
	switch a.Type {
	case mount.TypeBind:
		return m, fillBind(&m, a)
	case mount.TypeVolume:
		return m, fillVolume(&m, a)
	case mount.TypeTmpfs:
		return m, fillTmpfs(&m, a)
	case mount.TypeImage:
		return m, fmt.Errorf("image mounts: %w", errdefs.ErrNotImplemented)
	default:
		return m, errors.New("mount type unknown")
	}
}

func fillBind(m *store.Mount, a mount.Mount) error {
	switch {
	case a.Source == "":
		return errors.New("field Source must not be empty")
	case a.VolumeOptions != nil:
		return errors.New("field VolumeOptions must not be specified")
	case !path.IsAbs(a.Source):
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", a.Source)
	}
	m.Source, m.Propagation = path.Clean(a.Source), string(mount.PropagationRPrivate)
	create := false
	if o := a.BindOptions; o != nil {
		if o.Propagation != "" {
			if !slices.Contains(mount.Propagations, o.Propagation) {
				return fmt.Errorf("invalid propagation mode: %s", o.Propagation)
			}
			m.Propagation = string(o.Propagation)
		}
		m.NonRecursive, m.ReadOnlyNonRecursive, create = o.NonRecursive, o.ReadOnlyNonRecursive, o.CreateMountpoint
	}
	if _, err := os.Stat(m.Source); errors.Is(err, fs.ErrNotExist) && !create {
		return fmt.Errorf("bind source path does not exist: %s", m.Source)
	}
	m.FromMounts = !create
	return nil
}

func fillVolume(m *store.Mount, a mount.Mount) error {
	if a.BindOptions != nil {
		return errors.New("field BindOptions must not be specified")
	}
	if a.Source != "" && !identifiers.ValidName(a.Source) {
		return fmt.Errorf("invalid volume name %q", a.Source)
	}
	m.Name, m.Anonymous = a.Source, a.Source == ""
	if o := a.VolumeOptions; o != nil {
		m.NoCopy, m.Subpath = o.NoCopy, o.Subpath
		if o.Subpath != "" && (path.IsAbs(o.Subpath) || !filepath.IsLocal(o.Subpath)) {
			return errors.New("subpath must be a relative path within the volume")
		}
		if o.DriverConfig != nil {
			m.Driver = o.DriverConfig.Name
		}
	}
	return nil
}

func fillTmpfs(m *store.Mount, a mount.Mount) error {
	if a.Source != "" {
		return errors.New("field Source must not be specified")
	}
	var words []string
	if a.ReadOnly {
		words = append(words, "ro")
	}
	if o := a.TmpfsOptions; o != nil {
		if o.SizeBytes > 0 {
			words = append(words, "size="+strconv.FormatInt(o.SizeBytes, 10))
		}
		if o.Mode != 0 {
			words = append(words, fmt.Sprintf("mode=%o", o.Mode))
		}
		for _, kv := range o.Options {
			words = append(words, strings.Join(kv, "="))
		}
	}
	opts, err := spec.TmpfsOptions(strings.Join(words, ","))
	m.Options = opts
	return err
}

// makeVolumes creates the volumes of a new container, or finds those that are there, and
// gives each its source and driver. Anonymous ones get their names here.
func (s *Service) makeVolumes(ctx context.Context, d *store.Definition) error {
	for i := range d.Mounts {
		m := &d.Mounts[i]
		if m.Type != "volume" {
			continue
		}
		if m.Source == "" {
			v, err := s.makeVolume(ctx, d, m)
			if err != nil {
				return err
			}
			m.Name, m.Driver, m.Source = v.Name, v.Driver, v.Mountpoint
		}
		if _, err := s.Volumes.Refer(ctx, m.Name, d.ID); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) makeVolume(ctx context.Context, d *store.Definition, m *store.Mount) (volumes.Volume, error) {
	r := volumes.CreateRequest{Name: m.Name, Driver: m.Driver}
	for _, a := range d.Host.Mounts {
		if a.Type == mount.TypeVolume && path.Clean(a.Target) == m.Destination && a.VolumeOptions != nil {
			r.Labels = a.VolumeOptions.Labels
			if a.VolumeOptions.DriverConfig != nil {
				r.Options = a.VolumeOptions.DriverConfig.Options
			}
		}
	}
	if m.Name != "" && m.Driver == "" {
		if v, err := s.Volumes.Get(m.Name); err == nil {
			return v, nil
		}
	}
	return s.Volumes.Create(ctx, r)
}

// acquireMounts makes the mounts of a container ready and returns them for its spec. The
// volumes that want the image's content are returned too.
func (s *Service) acquireMounts(ctx context.Context, d *store.Definition) ([]spec.Mount, []copyUp, error) {
	var out []spec.Mount
	var fresh []copyUp
	for _, m := range d.Mounts {
		sm := spec.Mount{Type: "bind", Source: m.Source, Destination: m.Destination, ReadOnly: !m.RW, Propagation: m.Propagation, NonRecursive: m.NonRecursive}
		switch m.Type {
		case "tmpfs":
			sm = spec.Mount{Type: "tmpfs", Destination: m.Destination, ReadOnly: !m.RW, Options: m.Options}
		case "bind":
			sm.RecursiveReadOnly = !m.ReadOnlyNonRecursive
			if err := ensureBindSource(m); err != nil {
				return nil, nil, err
			}
		case "volume":
			dir, isFresh, err := s.Volumes.Acquire(ctx, m.Name, d.ID)
			if err != nil {
				return nil, nil, fmt.Errorf("mount volume %q: %w", m.Name, err)
			}
			if isFresh && !m.NoCopy && m.Subpath == "" {
				fresh = append(fresh, copyUp{from: m.Destination, to: dir})
			}
			if sm.Source, err = subpath(dir, m.Subpath); err != nil {
				return nil, nil, err
			}
		}
		out = append(out, sm)
	}
	return out, fresh, nil
}

// subpath returns sub below dir with its links resolved; leaving dir is refused.
func subpath(dir, sub string) (string, error) {
	if sub == "" {
		return dir, nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("volume subpath %q: %w", sub, err)
	}
	defer func() { _ = root.Close() }() // only a descriptor
	if _, err := root.Stat(sub); err != nil {
		return "", invalid("cannot access path %s: %v", path.Join(dir, sub), err)
	}
	resolved, err := filepath.EvalSymlinks(path.Join(dir, sub))
	if err != nil {
		return "", fmt.Errorf("volume subpath %q: %w", sub, err)
	}
	return resolved, nil
}

// ensureBindSource makes the directory of a bind in the style of Binds, and insists on
// its being there for one in the style of Mounts.
func ensureBindSource(m store.Mount) error {
	_, err := os.Stat(m.Source)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return invalid("invalid mount config for type \"bind\": %v", err)
	case m.FromMounts:
		return invalid("invalid mount config for type \"bind\": bind source path does not exist: %s", m.Source)
	}
	if err := os.MkdirAll(m.Source, 0o755); err != nil {
		return fmt.Errorf("error while creating mount source path '%s': %w", m.Source, err)
	}
	return nil
}
