package spec

import (
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultPath is PATH for a container whose image sets none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// initTarget is where the init is seen in the container.
const initTarget = "/sbin/docker-init"

func process(r Request) (*specs.Process, error) {
	caps, err := Capabilities(r.Host.Privileged, r.Host.CapAdd, r.Host.CapDrop)
	if err != nil {
		return nil, err
	}
	p := &specs.Process{
		Terminal:     r.Config.Tty,
		User:         r.User.Spec(),
		Args:         args(r),
		Env:          Env(r.Config, r.Net.Hostname, r.User.Home),
		Cwd:          cwd(r.Config.WorkingDir),
		Capabilities: caps,
		Rlimits:      rlimits(r),
	}
	p.User.Umask = r.Host.Umask
	if r.Config.Tty && r.Host.ConsoleSize != [2]uint{} {
		p.ConsoleSize = &specs.Box{Height: r.Host.ConsoleSize[0], Width: r.Host.ConsoleSize[1]}
	}
	adj := r.Host.OomScoreAdj
	p.OOMScoreAdj = &adj
	return p, nil
}

func args(r Request) []string {
	argv := slices.Concat(r.Config.Entrypoint, r.Config.Cmd)
	if r.InitPath != "" {
		argv = append([]string{initTarget, "--"}, argv...)
	}
	return argv
}

func cwd(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}

// Env returns the environment of the init process or of an exec: docker's defaults,
// then Config.Env over them, then HOME unless it is set.
func Env(c *container.Config, hostname, home string) []string {
	env := []string{"PATH=" + DefaultPath, "HOSTNAME=" + hostname}
	if c.Tty {
		env = append(env, "TERM=xterm")
	}
	env = MergeEnv(env, c.Env)
	if home != "" && !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") }) {
		env = append(env, "HOME="+home)
	}
	return env
}

// MergeEnv returns base with the variables of override replaced or added. "KEY" without
// "=" removes KEY.
func MergeEnv(base, override []string) []string {
	out := slices.Clone(base)
	for _, kv := range override {
		key, _, assigned := strings.Cut(kv, "=")
		i := slices.IndexFunc(out, func(have string) bool {
			k, _, _ := strings.Cut(have, "=")
			return k == key
		})
		switch {
		case i >= 0 && assigned:
			out[i] = kv
		case i >= 0:
			out = slices.Delete(out, i, i+1)
		case assigned:
			out = append(out, kv)
		}
	}
	return out
}

// rlimits are the daemon's defaults with the container's own over them.
func rlimits(r Request) []specs.POSIXRlimit {
	byName := map[string]*container.Ulimit{}
	maps.Copy(byName, r.Ulimits)
	for _, u := range r.Host.Ulimits {
		byName[u.Name] = u
	}
	var out []specs.POSIXRlimit
	for name, u := range byName {
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	slices.SortFunc(out, func(a, b specs.POSIXRlimit) int { return strings.Compare(a.Type, b.Type) })
	return out
}
