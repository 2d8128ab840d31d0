package plan

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mounts adds the mounts of the spec in their order. rootProp is what the copies of the
// host's mounts start with.
func (c *compiler) mounts(rootProp uint64) error {
	for _, m := range c.s.Mounts {
		if m.Destination == "" {
			return fmt.Errorf("mount without a destination: %w", errdefs.ErrInvalidArgument)
		}
		o := parseOptions(m.Options)
		dest := clean(m.Destination)
		if rest, ok := strings.CutPrefix(dest+"/", c.rootfs()+"/"); ok {
			dest = clean(rest) // a destination that begins with the rootfs is taken to be below it, as by runc
		}
		isBind := o.bind || m.Type == "bind"
		if !isBind && !o.remount && m.Type == "" {
			return fmt.Errorf("mount on %q has no type: %w", dest, errdefs.ErrInvalidArgument)
		}
		idmap, err := c.idmap(m, o, isBind)
		if err != nil {
			return err
		}
		switch {
		case o.remount:
			c.add(Remount{Dest: dest, Attrs: o.attrs, Data: o.data, Bind: o.bind})
		case isBind:
			src := m.Source
			if !filepath.IsAbs(src) {
				src = filepath.Join(c.h.Bundle, src)
			}
			c.add(Bind{Source: src, Dest: dest, Recursive: o.rec, Attrs: o.attrs, Propagation: rootProp, IDMap: idmap})
		case m.Type == "cgroup" || m.Type == "cgroup2":
			c.cgroupMount(m, o, dest)
		default:
			c.filesystem(m, o, dest)
		}
	}
	return nil
}

func (c *compiler) idmap(m specs.Mount, o mountOptions, isBind bool) (*IDMap, error) {
	want := o.idmap || o.ridmap || len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0
	if !want {
		return nil, nil
	}
	if !isBind {
		return nil, fmt.Errorf("mount on %q: id mappings are for bind mounts: %w", m.Destination, errdefs.ErrInvalidArgument)
	}
	im := &IDMap{UID: m.UIDMappings, GID: m.GIDMappings, Recursive: o.ridmap}
	if len(im.UID) == 0 && len(im.GID) == 0 {
		im.UID, im.GID = c.s.Linux.UIDMappings, c.s.Linux.GIDMappings
	}
	if len(im.UID) == 0 || len(im.GID) == 0 {
		return nil, fmt.Errorf("id-mapped mount on %q needs uid and gid mappings: %w", m.Destination, errdefs.ErrInvalidArgument)
	}
	return im, nil
}

func (c *compiler) filesystem(m specs.Mount, o mountOptions, dest string) {
	fs := Filesystem{Type: m.Type, Source: m.Source, Dest: dest, Attrs: o.attrs, Data: o.data}
	if fs.Source == "" {
		fs.Source = m.Type
	}
	ro := o.attrs.Set&unix.MOUNT_ATTR_RDONLY != 0
	switch {
	case ro && dest == "/dev" && m.Type == "tmpfs":
		// Device nodes are still to come.
		fs.Attrs.Set &^= unix.MOUNT_ATTR_RDONLY
		c.late = append(c.late, Remount{Dest: dest, Bind: true, Attrs: Attrs{Set: unix.MOUNT_ATTR_RDONLY}})
	case ro && m.Type != "tmpfs":
		fs.Attrs.SB = append(slices.Clone(fs.Attrs.SB), "ro")
	}
	if m.Type == "sysfs" && c.h.Unprivileged && !c.has(specs.NetworkNamespace) {
		// Only the owner of the network namespace may mount its sysfs.
		fs.Fallback = "/sys"
	}
	if o.copyUp && m.Type == "tmpfs" {
		c.add(CopyUp{fs})
		return
	}
	c.add(fs)
}

// cgroupMount shows the container its cgroup where cgroups are expected. On v1 that is
// a tmpfs with one directory per hierarchy.
func (c *compiler) cgroupMount(m specs.Mount, o mountOptions, dest string) {
	if !slices.ContainsFunc(c.p.Ops, func(op Op) bool { _, ok := op.(CgroupNamespace); return ok }) {
		c.cgroupNamespace()
	}
	attrs := o.attrs
	own := c.has(specs.CgroupNamespace)
	if c.h.Unprivileged && !own {
		// CVE-2023-25809: the host's hierarchy would be the caller's to write.
		attrs.Set |= unix.MOUNT_ATTR_RDONLY
	}
	if c.h.CgroupV2 || m.Type == "cgroup2" {
		c.add(Filesystem{Type: "cgroup2", Source: "cgroup", Dest: dest, Attrs: attrs, Data: o.data, Fallback: c.h.CgroupDir})
		return
	}
	const base = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	c.add(Filesystem{Type: "tmpfs", Source: "tmpfs", Dest: dest, Attrs: Attrs{Set: base}, Data: []string{"mode=755"}})
	sub := attrs
	sub.Set |= base
	sub.Propagation, sub.SB = 0, nil
	for _, h := range c.h.Hierarchies {
		if own {
			c.add(Filesystem{Type: "cgroup", Source: "cgroup", Dest: dest + "/" + h.Name, Attrs: sub, Data: strings.Split(h.Data, ",")})
		} else {
			c.add(Bind{Source: h.Dir, Dest: dest + "/" + h.Name, Recursive: true, Attrs: sub, Propagation: unix.MS_SLAVE})
		}
		if parts := strings.Split(h.Name, ","); len(parts) > 1 {
			for _, p := range parts {
				c.add(Link{Path: dest + "/" + p, Target: h.Name})
			}
		}
	}
	if attrs.Set&unix.MOUNT_ATTR_RDONLY != 0 || attrs.Propagation != 0 {
		c.add(Remount{Dest: dest, Bind: true, Attrs: Attrs{
			Set: attrs.Set & unix.MOUNT_ATTR_RDONLY, Propagation: attrs.Propagation, PropagationRec: attrs.PropagationRec,
		}})
	}
}

// defaultDevices are those of the runtime-spec (config-linux.md, default devices).
var defaultDevices = []struct {
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"tty", 5, 0}, {"random", 1, 8}, {"urandom", 1, 9},
}

// devices fills /dev.
func (c *compiler) devices() error {
	bind := c.h.BindDevices || c.has(specs.UserNamespace)
	listed := map[string]bool{}
	var specified []Op
	for _, d := range c.s.Linux.Devices {
		dev, err := device(d)
		if err != nil {
			return err
		}
		dev.Bind = bind
		listed[dev.Path] = true
		if dev.Path == "/dev/ptmx" {
			continue // it is always the container's own
		}
		specified = append(specified, dev)
	}
	for _, d := range defaultDevices {
		if path := "/dev/" + d.name; !listed[path] {
			c.add(Device{Path: path, Type: "c", Major: d.major, Minor: d.minor, Mode: 0o666, Bind: bind})
		}
	}
	c.add(specified...)
	c.add(Link{"/dev/ptmx", "pts/ptmx", true})
	for _, l := range [][2]string{
		{"/dev/fd", "/proc/self/fd"},
		{"/dev/stdin", "/proc/self/fd/0"},
		{"/dev/stdout", "/proc/self/fd/1"},
		{"/dev/stderr", "/proc/self/fd/2"},
	} {
		c.add(Link{Path: l[0], Target: l[1]})
	}
	if c.h.Kcore {
		c.add(Link{Path: "/dev/core", Target: "/proc/kcore"})
	}
	return nil
}

func device(d specs.LinuxDevice) (Device, error) {
	out := Device{Path: clean(d.Path), Type: d.Type, Major: uint32(d.Major), Minor: uint32(d.Minor), Mode: 0o666}
	if !slices.Contains([]string{"c", "u", "b", "p"}, d.Type) {
		return out, fmt.Errorf("device %q has type %q: %w", d.Path, d.Type, errdefs.ErrInvalidArgument)
	}
	if d.FileMode != nil {
		out.Mode = uint32(*d.FileMode) & 0o7777
	}
	if d.UID != nil {
		out.UID = *d.UID
	}
	if d.GID != nil {
		out.GID = *d.GID
	}
	return out, nil
}
