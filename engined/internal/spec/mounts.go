package spec

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Mount is one mount that the user asked for, resolved.
type Mount struct {
	Type        string // "bind" or "tmpfs"
	Source      string // host path
	Destination string // clean, absolute
	ReadOnly    bool
	// RecursiveReadOnly makes submounts of a read-only bind read-only too.
	RecursiveReadOnly bool
	NonRecursive      bool
	Propagation       string // "" means rprivate
	// Options of a tmpfs, in the order of their words.
	Options []string
}

// defaultMounts are what every container has unless the user mounts over it.
//
// Source: moby daemon/pkg/oci/defaults.go.
func defaultMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777"}},
	}
}

func mounts(r Request) []specs.Mount {
	user := userMounts(r)
	taken := func(dest string) bool {
		return slices.ContainsFunc(user, func(m specs.Mount) bool { return m.Destination == dest })
	}
	var out []specs.Mount
	for _, m := range defaultMounts() {
		if taken(m.Destination) || taken("/dev") && strings.HasPrefix(m.Destination, "/dev/") {
			continue
		}
		if m.Destination == "/dev/shm" {
			if r.Host.IpcMode.IsNone() {
				continue
			}
			m = shmMount(r, m)
		}
		if r.Host.Privileged {
			m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "ro" })
		}
		out = append(out, m)
	}
	out = append(out, user...)
	slices.SortStableFunc(out, func(a, b specs.Mount) int {
		return cmp.Compare(strings.Count(path.Clean(a.Destination), "/"), strings.Count(path.Clean(b.Destination), "/"))
	})
	return out
}

func shmMount(r Request, m specs.Mount) specs.Mount {
	source := r.ShmPath
	if r.Host.IpcMode.IsHost() {
		source = "/dev/shm"
	}
	if source != "" {
		return specs.Mount{Destination: m.Destination, Type: "bind", Source: source, Options: []string{"rbind", "rprivate"}}
	}
	m.Options = append(m.Options, "size="+strconv.FormatInt(r.Host.ShmSize, 10))
	return m
}

func userMounts(r Request) []specs.Mount {
	var out []specs.Mount
	for _, m := range r.Mounts {
		out = append(out, m.spec())
	}
	has := func(dest string) bool {
		return slices.ContainsFunc(out, func(m specs.Mount) bool { return m.Destination == dest })
	}
	for _, f := range []struct{ source, dest string }{
		{r.Net.ResolvConfPath, "/etc/resolv.conf"}, {r.Net.HostnamePath, "/etc/hostname"}, {r.Net.HostsPath, "/etc/hosts"},
	} {
		if f.source == "" || has(f.dest) {
			continue
		}
		opts := []string{"rbind", "rprivate"}
		if r.Host.ReadonlyRootfs {
			opts = append(opts, "ro")
		}
		out = append(out, specs.Mount{Destination: f.dest, Type: "bind", Source: f.source, Options: opts})
	}
	if r.InitPath != "" {
		out = append(out, specs.Mount{Destination: initTarget, Type: "bind", Source: r.InitPath, Options: []string{"bind", "ro"}})
	}
	return out
}

func (m Mount) spec() specs.Mount {
	if m.Type == "tmpfs" {
		return specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs", Options: m.Options}
	}
	opts := []string{"rbind"}
	if m.NonRecursive {
		opts = []string{"bind"}
	}
	if m.ReadOnly {
		opts = append(opts, "ro")
		if m.RecursiveReadOnly && !m.NonRecursive {
			opts = append(opts, "rro")
		}
	}
	opts = append(opts, cmp.Or(m.Propagation, "rprivate"))
	return specs.Mount{Destination: m.Destination, Type: "bind", Source: m.Source, Options: opts}
}

// TmpfsOptions merges a comma separated wish into docker's defaults for a tmpfs: the
// last of two words that contradict each other wins. Unknown words are of class
// ErrInvalidArgument.
func TmpfsOptions(wish string) ([]string, error) {
	opposite := map[string]string{
		"exec": "noexec", "noexec": "exec", "suid": "nosuid", "nosuid": "suid", "dev": "nodev", "nodev": "dev",
		"ro": "rw", "rw": "ro", "sync": "async", "async": "sync", "atime": "noatime", "noatime": "atime",
		"diratime": "nodiratime", "nodiratime": "diratime", "relatime": "norelatime", "norelatime": "relatime",
		"strictatime": "nostrictatime", "nostrictatime": "strictatime", "mand": "nomand", "nomand": "mand",
		"dirsync": "", "remount": "",
	}
	out := []string{"noexec", "nosuid", "nodev"}
	for w := range strings.SplitSeq(wish, ",") {
		if w == "" {
			continue
		}
		key, _, hasValue := strings.Cut(w, "=")
		if hasValue {
			switch key {
			case "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol":
			default:
				return nil, invalid("invalid tmpfs option [%q]", w)
			}
			out = slices.DeleteFunc(out, func(o string) bool { return strings.HasPrefix(o, key+"=") })
			out = append(out, w)
			continue
		}
		other, known := opposite[w]
		if !known {
			switch w {
			case "private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable", "defaults":
				continue
			}
			return nil, invalid("invalid tmpfs option [%q]", w)
		}
		out = slices.DeleteFunc(out, func(o string) bool { return o == other || o == w })
		out = append(out, w)
	}
	return out, nil
}
