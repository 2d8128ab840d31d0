package runspec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
)

// hostConfig reads what concerns the host. It completes conf with ports and anonymous volumes.
func (p *parser) hostConfig(conf *container.Config) *container.HostConfig {
	f := p.f
	h := &container.HostConfig{
		ContainerIDFile: f.String("cidfile"),
		OomScoreAdj:     int(f.Int64("oom-score-adj")),
		AutoRemove:      f.Bool("rm"),
		Privileged:      f.Bool("privileged"),
		PublishAllPorts: f.Bool("publish-all"),
		ReadonlyRootfs:  f.Bool("read-only"),
		DNS:             p.addresses("dns"),
		DNSSearch:       orEmpty(p.dnsSearch()),
		DNSOptions:      orEmpty(f.StringSlice("dns-option")),
		ExtraHosts:      p.extraHosts(),
		VolumesFrom:     f.StringSlice("volumes-from"),
		VolumeDriver:    f.String("volume-driver"),
		CapAdd:          capabilities(f.StringSlice("cap-add")),
		CapDrop:         capabilities(f.StringSlice("cap-drop")),
		GroupAdd:        f.StringSlice("group-add"),
		Links:           f.StringSlice("link"),
		Isolation:       container.Isolation(f.String("isolation")),
		ShmSize:         p.bytes("shm-size"),
		Sysctls:         Pairs(f.StringSlice("sysctl")),
		StorageOpt:      p.storageOpt(),
		Annotations:     Pairs(f.StringSlice("annotation")),
		Runtime:         f.String("runtime"),
		Resources:       p.resources(),
	}
	if f.IsSet("init") {
		v := f.Bool("init")
		h.Init = &v
	}
	p.namespaces(h)
	p.security(h)
	h.RestartPolicy = try(ParseRestartPolicy(f.String("restart"))).in(p)
	h.LogConfig = p.logging()
	ports := try(ParsePorts(f.StringSlice("publish"))).in(p)
	conf.ExposedPorts = try(ParseExpose(f.StringSlice("expose"), ports)).in(p)
	h.PortBindings = ports
	p.volumes(conf, h)
	return h
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// bytes reads a size such as 64m; empty is 0.
func (p *parser) bytes(name string) int64 {
	s := p.f.String(name)
	if s == "" {
		return 0
	}
	return try(units.RAMInBytes(s)).in(p)
}

func (p *parser) addresses(name string) []netip.Addr {
	out := []netip.Addr{}
	for _, s := range p.f.StringSlice(name) {
		a, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			p.fail(CheckAddress(s))
			continue
		}
		out = append(out, a)
	}
	return out
}

// dnsSearch knows "." as the way to say that there is no search list.
func (p *parser) dnsSearch() []string {
	for _, d := range p.f.StringSlice("dns-search") {
		if d != "." && (strings.ContainsAny(d, " \t/:") || strings.HasPrefix(d, "-") || len(d) > 255 || d == "") {
			p.fail(invalid("%s is not a valid domain", d))
		}
	}
	return p.f.StringSlice("dns-search")
}

func (p *parser) extraHosts() []string {
	out := []string{}
	for _, h := range p.f.StringSlice("add-host") {
		name, ip, err := ParseExtraHost(h)
		if err != nil {
			p.fail(err)
			continue
		}
		out = append(out, name+":"+ip)
	}
	return out
}

// ParseExtraHost reads name:address or name=address; the address may be the word host-gateway.
func ParseExtraHost(s string) (name, address string, err error) {
	sep := strings.IndexAny(s, "=:")
	if sep <= 0 {
		return "", "", invalid("bad format for add-host: %q", s)
	}
	name, address = s[:sep], s[sep+1:]
	if len(address) > 2 && address[0] == '[' && address[len(address)-1] == ']' {
		address = address[1 : len(address)-1]
	}
	if address != "host-gateway" {
		if _, err := netip.ParseAddr(address); err != nil {
			return "", "", invalid("invalid IP address in add-host: %q", address)
		}
	}
	return name, address, nil
}

func (p *parser) storageOpt() map[string]string {
	out := map[string]string{}
	for _, o := range p.f.StringSlice("storage-opt") {
		k, v, ok := strings.Cut(o, "=")
		if !ok {
			p.fail(invalid("invalid storage option %q: want name=value", o))
			continue
		}
		out[k] = v
	}
	return out
}

func (p *parser) logging() container.LogConfig {
	driver, opts := p.f.String("log-driver"), p.f.StringSlice("log-opt")
	if driver == "none" && len(opts) > 0 {
		p.fail(invalid("invalid logging opts for driver %s", driver))
	}
	return container.LogConfig{Type: driver, Config: Pairs(opts)}
}

func (p *parser) namespaces(h *container.HostConfig) {
	f := p.f
	h.IpcMode = container.IpcMode(f.String("ipc"))
	h.PidMode = container.PidMode(f.String("pid"))
	h.UTSMode = container.UTSMode(f.String("uts"))
	h.UsernsMode = container.UsernsMode(f.String("userns"))
	h.CgroupnsMode = container.CgroupnsMode(f.String("cgroupns"))
	for _, c := range []struct {
		flag string
		ok   bool
		name string
	}{
		{"pid", h.PidMode.Valid(), "PID"},
		{"uts", h.UTSMode.Valid(), "UTS"},
		{"userns", h.UsernsMode.Valid(), "USER"},
		{"cgroupns", h.CgroupnsMode.Valid(), "CGROUP"},
	} {
		if !c.ok {
			p.fail(invalid("--%s: invalid %s mode", c.flag, c.name))
		}
	}
}

// security reads --security-opt. A seccomp profile is read here, since its file is on our side.
func (p *parser) security(h *container.HostConfig) {
	for _, opt := range p.f.StringSlice("security-opt") {
		if opt == "systempaths=unconfined" {
			h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{}
			continue
		}
		k, v, ok := strings.Cut(opt, "=")
		if !ok && k != "no-new-privileges" {
			if k, v, ok = strings.Cut(opt, ":"); !ok {
				p.fail(invalid("invalid --security-opt: %q", opt))
				continue
			}
		}
		if k == "seccomp" && v != "unconfined" && v != "builtin" {
			profile, err := os.ReadFile(v)
			if err != nil {
				p.fail(fmt.Errorf("opening seccomp profile (%s) failed: %w", v, err))
				continue
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, profile); err != nil {
				p.fail(fmt.Errorf("compacting json for seccomp profile (%s) failed: %w", v, err))
				continue
			}
			opt = "seccomp=" + compact.String()
		}
		h.SecurityOpt = append(h.SecurityOpt, opt)
	}
}

// capabilities writes names as the kernel has them: CAP_NET_ADMIN for net_admin; ALL stays.
func capabilities(names []string) []string {
	var out []string
	for _, n := range names {
		n = strings.ToUpper(strings.TrimSpace(n))
		if n != "ALL" && !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// ParseRestartPolicy reads no, always, unless-stopped or on-failure[:N].
func ParseRestartPolicy(s string) (container.RestartPolicy, error) {
	if s == "" {
		return container.RestartPolicy{}, nil
	}
	name, count, hasCount := strings.Cut(s, ":")
	if hasCount && name == "" {
		return container.RestartPolicy{}, invalid("invalid restart policy format: no policy provided before colon")
	}
	p := container.RestartPolicy{Name: container.RestartPolicyMode(name)}
	if hasCount && count != "" {
		n, err := strconv.Atoi(count)
		if err != nil {
			return container.RestartPolicy{}, invalid("invalid restart policy format: maximum retry count must be an integer")
		}
		p.MaximumRetryCount = n
	}
	return p, nil
}

// ParseCPUs reads a decimal number of CPUs into 10⁻⁹ CPUs.
func ParseCPUs(s string) (int64, error) {
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return 0, invalid("failed to parse %v as a rational number", s)
	}
	n := r.Mul(r, big.NewRat(1e9, 1))
	if !n.IsInt() {
		return 0, invalid("value is too precise")
	}
	return n.Num().Int64(), nil
}
