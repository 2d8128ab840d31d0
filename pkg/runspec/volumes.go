package runspec

import (
	"encoding/csv"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

// volumes reads --volume, --mount and --tmpfs.
func (p *parser) volumes(conf *container.Config, h *container.HostConfig) {
	conf.Volumes = map[string]struct{}{}
	for _, v := range p.f.StringSlice("volume") {
		bind, path, err := ParseVolume(v)
		switch {
		case err != nil:
			p.fail(err)
		case bind != "":
			h.Binds = append(h.Binds, bind)
		default:
			conf.Volumes[path] = struct{}{}
		}
	}
	h.Tmpfs = map[string]string{}
	for _, t := range p.f.StringSlice("tmpfs") {
		path, opts, _ := strings.Cut(t, ":")
		h.Tmpfs[path] = opts
	}
	for _, m := range p.f.StringSlice("mount") {
		h.Mounts = append(h.Mounts, try(ParseMount(m)).in(p))
	}
}

// ParseVolume reads --volume: either a bind SOURCE:PATH[:MODE], where SOURCE is a volume or a path (a
// relative one is made absolute), or the path of an anonymous volume.
func ParseVolume(s string) (bind, path string, err error) {
	if strings.TrimSpace(s) == "" {
		return "", "", invalid("invalid empty volume spec")
	}
	source, rest, ok := strings.Cut(s, ":")
	if !ok {
		return "", s, nil
	}
	if source == "" || rest == "" {
		return "", "", invalid("invalid spec: %s: empty section between colons", s)
	}
	if slices.Contains(strings.Split(rest, ":"), "") {
		return "", "", invalid("invalid spec: %s: empty section between colons", s)
	}
	if strings.HasPrefix(source, ".") {
		if abs, err := filepath.Abs(source); err == nil {
			source = abs
		}
	}
	return source + ":" + rest, "", nil
}

// ParseMount reads --mount: comma-separated NAME[=VALUE] fields, quoted as in CSV.
func ParseMount(s string) (mount.Mount, error) {
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return mount.Mount{}, invalid("invalid mount %q: %v", s, err)
	}
	b := mountBuilder{m: mount.Mount{Type: mount.TypeVolume}}
	for _, field := range fields {
		key, value, hasValue := strings.Cut(field, "=")
		if err := b.set(strings.ToLower(key), value, hasValue, field); err != nil {
			return mount.Mount{}, err
		}
	}
	return b.m, b.check()
}

// mountBuilder fills a mount field by field; the options of each type are made when first set.
type mountBuilder struct{ m mount.Mount }

func (b *mountBuilder) bind() *mount.BindOptions {
	if b.m.BindOptions == nil {
		b.m.BindOptions = &mount.BindOptions{}
	}
	return b.m.BindOptions
}

func (b *mountBuilder) volume() *mount.VolumeOptions {
	if b.m.VolumeOptions == nil {
		b.m.VolumeOptions = &mount.VolumeOptions{}
	}
	return b.m.VolumeOptions
}

func (b *mountBuilder) driver() *mount.Driver {
	v := b.volume()
	if v.DriverConfig == nil {
		v.DriverConfig = &mount.Driver{}
	}
	return v.DriverConfig
}

func (b *mountBuilder) tmpfs() *mount.TmpfsOptions {
	if b.m.TmpfsOptions == nil {
		b.m.TmpfsOptions = &mount.TmpfsOptions{}
	}
	return b.m.TmpfsOptions
}

func (b *mountBuilder) set(key, value string, hasValue bool, field string) error {
	if done, err := b.setSwitch(key, value, hasValue); done {
		return err
	}
	if !hasValue {
		return invalid("invalid field '%s' must be a key=value pair", field)
	}
	switch key {
	case "type":
		b.m.Type = mount.Type(strings.ToLower(value))
	case "source", "src":
		b.m.Source = value
		if strings.HasPrefix(value, "."+string(filepath.Separator)) || value == "." {
			if abs, err := filepath.Abs(value); err == nil {
				b.m.Source = abs
			}
		}
	case "target", "dst", "destination":
		b.m.Target = value
	case "consistency":
		b.m.Consistency = mount.Consistency(strings.ToLower(value))
	case "bind-propagation":
		b.bind().Propagation = mount.Propagation(strings.ToLower(value))
	case "bind-recursive":
		return b.recursive(value)
	case "image-subpath":
		b.m.ImageOptions = &mount.ImageOptions{Subpath: value}
	default:
		return b.setVolume(key, value, field)
	}
	return nil
}

// setSwitch handles the fields that may stand without a value.
func (b *mountBuilder) setSwitch(key, value string, hasValue bool) (done bool, err error) {
	var target *bool
	switch key {
	case "readonly", "ro":
		target = &b.m.ReadOnly
	case "volume-nocopy":
		target = &b.volume().NoCopy
	case "bind-nonrecursive":
		target = &b.bind().NonRecursive
	case "bind-create-src":
		target = &b.bind().CreateMountpoint
	default:
		return false, nil
	}
	if !hasValue {
		*target = true
		return true, nil
	}
	v, err := strconv.ParseBool(value)
	if err != nil {
		return true, invalid("invalid value for %s: %s", key, value)
	}
	*target = v
	return true, nil
}

func (b *mountBuilder) recursive(value string) error {
	switch value {
	case "enabled":
	case "disabled":
		b.bind().NonRecursive = true
	case "writable":
		b.bind().ReadOnlyNonRecursive = true
	case "readonly":
		b.bind().ReadOnlyForceRecursive = true
	default:
		return invalid(`invalid value for bind-recursive: %s (must be "enabled", "disabled", "writable", or "readonly")`, value)
	}
	return nil
}

func (b *mountBuilder) setVolume(key, value, field string) error {
	switch key {
	case "volume-subpath":
		b.volume().Subpath = value
	case "volume-driver":
		b.driver().Name = value
	case "volume-label":
		k, v, _ := strings.Cut(value, "=")
		setPair(&b.volume().Labels, k, v)
	case "volume-opt":
		k, v, _ := strings.Cut(value, "=")
		setPair(&b.driver().Options, k, v)
	case "tmpfs-size":
		n, err := units.RAMInBytes(value)
		if err != nil {
			return invalid("invalid value for %s: %s", key, value)
		}
		b.tmpfs().SizeBytes = n
	case "tmpfs-mode":
		n, err := strconv.ParseUint(value, 8, 32)
		if err != nil {
			return invalid("invalid value for %s: %s", key, value)
		}
		b.tmpfs().Mode = fileMode(n)
	default:
		return invalid("unexpected key '%s' in '%s'", key, field)
	}
	return nil
}

func setPair(m *map[string]string, k, v string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[k] = v
}

// check refuses what belongs to another type of mount.
func (b *mountBuilder) check() error {
	m := &b.m
	switch {
	case m.Type == "":
		return invalid("type is required")
	case m.Target == "":
		return invalid("target is required")
	case m.VolumeOptions != nil && m.Type != mount.TypeVolume:
		return invalid("cannot mix 'volume-*' options with mount type '%s'", m.Type)
	case m.BindOptions != nil && m.Type != mount.TypeBind:
		return invalid("cannot mix 'bind-*' options with mount type '%s'", m.Type)
	case m.TmpfsOptions != nil && m.Type != mount.TypeTmpfs:
		return invalid("cannot mix 'tmpfs-*' options with mount type '%s'", m.Type)
	case m.ImageOptions != nil && m.Type != mount.TypeImage:
		return invalid("cannot mix 'image-*' options with mount type '%s'", m.Type)
	case m.BindOptions != nil && m.BindOptions.ReadOnlyNonRecursive && !m.ReadOnly:
		return invalid("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
	case m.BindOptions != nil && m.BindOptions.ReadOnlyForceRecursive && !m.ReadOnly:
		return invalid("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
	case m.BindOptions != nil && m.BindOptions.ReadOnlyForceRecursive && m.BindOptions.Propagation != mount.PropagationRPrivate:
		return invalid("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")
	}
	return nil
}
