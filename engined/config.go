package engined

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
)

// Config is daemon.json: its keys, and their meaning, are dockerd's. The zero value is
// not usable; see [Load].
type Config struct {
	Hosts     []string `json:"hosts"`
	DataRoot  string   `json:"data-root"`
	ExecRoot  string   `json:"exec-root"`
	Pidfile   string   `json:"pidfile"`
	Group     string   `json:"group"`
	Debug     bool     `json:"debug"`
	LogLevel  string   `json:"log-level"`
	LogFormat string   `json:"log-format"`

	Supervisor string `json:"containerd"` // its socket
	Namespace  string `json:"containerd-namespace"`

	TLS       *bool  `json:"tls"`
	TLSVerify *bool  `json:"tlsverify"`
	TLSCA     string `json:"tlscacert"`
	TLSCert   string `json:"tlscert"`
	TLSKey    string `json:"tlskey"`

	Labels             []string `json:"labels"`
	LiveRestore        bool     `json:"live-restore"`
	ShutdownTimeout    int      `json:"shutdown-timeout"` // seconds
	RegistryMirrors    []string `json:"registry-mirrors"`
	InsecureRegistries []string `json:"insecure-registries"`
	MetricsAddr        string   `json:"metrics-addr"`

	LogDriver string            `json:"log-driver"`
	LogOpts   map[string]string `json:"log-opts"`

	Runtimes       map[string]RuntimeConfig `json:"runtimes"`
	DefaultRuntime string                   `json:"default-runtime"`
	Init           bool                     `json:"init"`
	InitPath       string                   `json:"init-path"`
	ExecOpts       []string                 `json:"exec-opts"`
	CgroupParent   string                   `json:"cgroup-parent"`
	CgroupnsMode   string                   `json:"default-cgroupns-mode"`
	IpcMode        string                   `json:"default-ipc-mode"`
	ShmSize        Size                     `json:"default-shm-size"`
	Ulimits        map[string]Ulimit        `json:"default-ulimits"`
	NoNewPrivs     bool                     `json:"no-new-privileges"`
	SeccompProfile string                   `json:"seccomp-profile"`
	StorageDriver  string                   `json:"storage-driver"`

	NetworkConfig
	Builder BuilderConfig `json:"builder"`
	Unsupported
}

// NetworkConfig are the keys that networks listen to.
type NetworkConfig struct {
	Bridge              string        `json:"bridge"`
	Bip                 string        `json:"bip"`
	Bip6                string        `json:"bip6"`
	FixedCIDR           string        `json:"fixed-cidr"`
	IPv6                bool          `json:"ipv6"`
	MTU                 int           `json:"mtu"`
	ICC                 bool          `json:"icc"`
	IPMasq              bool          `json:"ip-masq"`
	IPForward           bool          `json:"ip-forward"`
	IPForwardNoDrop     bool          `json:"ip-forward-no-drop"`
	IPTables            bool          `json:"iptables"`
	BindIP              string        `json:"ip"`
	DNS                 []string      `json:"dns"`
	DNSSearch           []string      `json:"dns-search"`
	DNSOptions          []string      `json:"dns-opts"`
	HostGatewayIP       string        `json:"host-gateway-ip"`
	HostGatewayIPs      []string      `json:"host-gateway-ips"`
	DefaultAddressPools []AddressPool `json:"default-address-pools"`
	FirewallTable       string        `json:"strata-firewall-table"`
	Publish             string        `json:"publish"` // "" or respect-host
}

// Unsupported are keys that dockerd knows and that change nothing here, or nothing yet:
// those with a function that people rely on are refused by check.
type Unsupported struct {
	UserlandProxy       *bool             `json:"userland-proxy"` // the kernel does its work
	UserlandProxyPath   string            `json:"userland-proxy-path"`
	IP6Tables           *bool             `json:"ip6tables"` // follows iptables
	Features            map[string]any    `json:"features"`
	Experimental        bool              `json:"experimental"`
	SELinux             bool              `json:"selinux-enabled"`
	UsernsRemap         string            `json:"userns-remap"`
	AuthorizationPlugin []string          `json:"authorization-plugins"`
	StorageOpts         []string          `json:"storage-opts"`
	FixedCIDRv6         string            `json:"fixed-cidr-v6"`
	DefaultGateway      string            `json:"default-gateway"`
	DefaultGatewayV6    string            `json:"default-gateway-v6"`
	MaxDownloads        int               `json:"max-concurrent-downloads"`
	MaxUploads          int               `json:"max-concurrent-uploads"`
	MaxAttempts         int               `json:"max-download-attempts"`
	CDISpecDirs         []string          `json:"cdi-spec-dirs"`
	Proxies             map[string]string `json:"proxies"`
	OOMScoreAdjust      int               `json:"oom-score-adjust"`
	RawLogs             bool              `json:"raw-logs"`
	FirewallBackend     string            `json:"firewall-backend"`
	PluginNamespace     string            `json:"containerd-plugin-namespace"`
	MinAPIVersion       string            `json:"min-api-version"`
}

// RuntimeConfig is one of "runtimes".
type RuntimeConfig struct {
	Path        string         `json:"path"`
	RuntimeType string         `json:"runtimeType"`
	Args        []string       `json:"runtimeArgs"`
	Options     map[string]any `json:"options"`
}

// Ulimit is one of "default-ulimits".
type Ulimit struct {
	Name string `json:"Name"`
	Hard int64  `json:"Hard"`
	Soft int64  `json:"Soft"`
}

// AddressPool is one of "default-address-pools".
type AddressPool struct {
	Base netip.Prefix `json:"base"`
	Size int          `json:"size"`
}

// Size is a number of bytes, "64M" or 67108864.
type Size int64

// UnmarshalJSON reads both forms.
func (s *Size) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	n, err := units.RAMInBytes(text)
	if err != nil {
		return fmt.Errorf("size %q: %w", text, err)
	}
	*s = Size(n)
	return nil
}

// DefaultConfigFile is read if no other is named, and need not be there.
const DefaultConfigFile = "/etc/strata/engine.json"

// defaults is the configuration of an engine that is told nothing.
func defaults() Config {
	return Config{
		DataRoot: "/var/lib/strata/engine", ExecRoot: "/run/strata/engine", Supervisor: "/run/strata/supervisor.sock", Namespace: "moby",
		Hosts: []string{"unix:///run/strata/engine.sock"}, LogLevel: "info", LiveRestore: true, ShutdownTimeout: 15, LogDriver: "json-file",
		DefaultRuntime: "strata", IpcMode: string(container.IPCModePrivate), ShmSize: 64 << 20,
		NetworkConfig: NetworkConfig{ICC: true, IPMasq: true, IPForward: true, IPTables: true, FirewallTable: "strata"},
	}
}

// Load returns the configuration that the file and the flags, by their keys in daemon.json,
// make together. A key in both is an error, and so is one that nobody knows; a missing
// file is one only if it is named. Errors are of class ErrInvalidArgument.
func Load(file string, flags map[string]any) (Config, error) {
	named := file != ""
	if !named {
		file = DefaultConfigFile
	}
	keys := map[string]json.RawMessage{}
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named:
	case err != nil:
		return Config{}, fmt.Errorf("unable to configure the engine: %w", err)
	default:
		if err := json.Unmarshal(data, &keys); err != nil {
			return Config{}, fmt.Errorf("unable to configure the engine with file %s: %w: %w", file, err, errdefs.ErrInvalidArgument)
		}
	}
	if err := merge(file, keys, flags); err != nil {
		return Config{}, err
	}
	merged, err := json.Marshal(keys)
	if err != nil {
		return Config{}, fmt.Errorf("encode configuration: %w", err)
	}
	cfg := defaults()
	dec := json.NewDecoder(bytes.NewReader(merged))
	if err := dec.Decode(&cfg); err != nil {
		return Config{}, fmt.Errorf("unable to configure the engine with file %s: %w: %w", file, err, errdefs.ErrInvalidArgument)
	}
	return cfg, cfg.check()
}

// merge adds the flags to the keys of the file.
func merge(file string, keys map[string]json.RawMessage, flags map[string]any) error {
	known := knownKeys()
	var unknown, conflicts []string
	for k := range keys {
		if !slices.Contains(known, k) {
			unknown = append(unknown, k)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return fmt.Errorf("unable to configure the engine with file %s: the following directives don't match any configuration option: %s: %w", file, strings.Join(unknown, ", "), errdefs.ErrInvalidArgument)
	}
	for k, v := range flags {
		raw, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode flag %s: %w", k, err)
		}
		if have, ok := keys[k]; ok {
			conflicts = append(conflicts, fmt.Sprintf("%s: (from flag: %s, from file: %s)", k, strings.Trim(string(raw), `"`), strings.Trim(string(have), `"`)))
		}
		keys[k] = raw
	}
	if len(conflicts) > 0 {
		slices.Sort(conflicts)
		return fmt.Errorf("unable to configure the engine with file %s: the following directives are specified both as a flag and in the configuration file: %s: %w", file, strings.Join(conflicts, ", "), errdefs.ErrInvalidArgument)
	}
	return nil
}

// knownKeys are the keys of Config.
func knownKeys() []string {
	data, err := json.Marshal(Config{})
	if err != nil {
		panic("internal error: configuration cannot be encoded: " + err.Error())
	}
	keys := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &keys); err != nil {
		panic("internal error: configuration cannot be decoded: " + err.Error())
	}
	var out []string
	for k := range keys {
		out = append(out, k)
	}
	return out
}

// publishRespectHost leaves published ports to the host's own INPUT rules.
const publishRespectHost = "respect-host"

// check refuses what cannot be. Errors are of class ErrInvalidArgument or
// ErrNotImplemented.
func (c *Config) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("invalid configuration: %s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	if _, err := c.Level(); err != nil {
		return bad("invalid logging level: %s", c.LogLevel)
	}
	for _, l := range c.Labels {
		if !strings.Contains(l, "=") {
			return bad("bad attribute format: %s", l)
		}
	}
	switch c.LogDriver {
	case "json-file", "local", "none":
	default:
		return fmt.Errorf("log driver %q: %w", c.LogDriver, errdefs.ErrNotImplemented)
	}
	if m := container.IpcMode(c.IpcMode); !m.IsPrivate() && !m.IsShareable() {
		return bad("IPC mode %q is not supported as default", c.IpcMode)
	}
	if !container.CgroupnsMode(c.CgroupnsMode).Valid() {
		return bad("default cgroup namespace mode %q", c.CgroupnsMode)
	}
	if c.Publish != "" && c.Publish != publishRespectHost {
		return bad("publish %q: want %q or nothing", c.Publish, publishRespectHost)
	}
	if _, err := c.Builder.GC.policies(); err != nil {
		return fmt.Errorf("invalid configuration: %w", err)
	}
	for _, o := range c.ExecOpts {
		k, v, _ := strings.Cut(o, "=")
		if k != "native.cgroupdriver" || v != "cgroupfs" && v != "systemd" {
			return bad("exec-opt %q", o)
		}
	}
	switch {
	case c.UsernsRemap != "":
		return fmt.Errorf("userns-remap: %w", errdefs.ErrNotImplemented)
	case len(c.AuthorizationPlugin) > 0:
		return fmt.Errorf("authorization-plugins: %w", errdefs.ErrNotImplemented)
	case c.SELinux:
		return fmt.Errorf("selinux-enabled: %w", errdefs.ErrNotImplemented)
	case c.FirewallBackend != "" && c.FirewallBackend != "nftables":
		return fmt.Errorf("firewall-backend %q: only nftables: %w", c.FirewallBackend, errdefs.ErrNotImplemented)
	}
	for name, rt := range c.Runtimes {
		if rt.Path == "" && rt.RuntimeType == "" {
			return bad("runtime %q: either a runtimeType or a path must be configured", name)
		}
		if len(rt.Args) > 0 {
			return fmt.Errorf("runtime %q: runtimeArgs: %w", name, errdefs.ErrNotImplemented)
		}
	}
	if c.TLSVerify != nil && *c.TLSVerify && c.TLSCA == "" {
		return bad("tlsverify needs tlscacert")
	}
	return nil
}

// Level is the level of the log.
func (c *Config) Level() (slog.Level, error) {
	switch {
	case c.Debug, c.LogLevel == "trace":
		return slog.LevelDebug, nil
	case c.LogLevel == "fatal", c.LogLevel == "panic":
		return slog.LevelError, nil
	}
	var l slog.Level
	err := l.UnmarshalText([]byte(c.LogLevel))
	return l, err
}

// systemdCgroups reports what exec-opts say about the cgroup driver, if anything.
func (c *Config) systemdCgroups() (systemd, said bool) {
	for _, o := range c.ExecOpts {
		if _, v, _ := strings.Cut(o, "="); v != "" {
			systemd, said = v == "systemd", true
		}
	}
	return systemd, said
}

// addr reads an address of the configuration; "" is the zero one.
func addr(key, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("invalid configuration: %s %q: %w", key, s, errdefs.ErrInvalidArgument)
	}
	return a, nil
}

// prefix reads a prefix of the configuration; "" is the zero one.
func prefix(key, s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("invalid configuration: %s %q: %w", key, s, errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// ParseUlimit reads "nofile=1024:2048".
func ParseUlimit(s string) (Ulimit, error) {
	name, value, ok := strings.Cut(s, "=")
	soft, hard, both := strings.Cut(value, ":")
	if !both {
		hard = soft
	}
	n, err := strconv.ParseInt(soft, 10, 64)
	m, err2 := strconv.ParseInt(hard, 10, 64)
	if !ok || err != nil || err2 != nil {
		return Ulimit{}, fmt.Errorf("invalid ulimit argument: %s: %w", s, errdefs.ErrInvalidArgument)
	}
	return Ulimit{Name: name, Soft: n, Hard: m}, nil
}
