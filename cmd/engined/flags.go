package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"strata/engined"
)

// option is a flag that sets a key of daemon.json.
type option struct {
	flag    string
	aliases []string
	key     string
	kind    kind
	usage   string
}

// kind says how a flag's text becomes a value of its key.
type kind uint8

const (
	text kind = iota
	boolean
	number
	size
	list    // repeatable
	pairs   // repeatable KEY=VALUE
	pools   // repeatable base=PREFIX,size=N
	ulimits // repeatable NAME=SOFT[:HARD]
	runtime // repeatable NAME=PATH
)

// options are dockerd's flags. Source: dockerd(8).
var options = []option{
	{"host", []string{"H"}, "hosts", list, "listen on unix://PATH, tcp://HOST:PORT or fd://"},
	{"data-root", []string{"g"}, "data-root", text, "directory for what survives a reboot"},
	{"exec-root", nil, "exec-root", text, "directory for what does not"},
	{"containerd", nil, "containerd", text, "socket of the supervisor"},
	{"containerd-namespace", nil, "containerd-namespace", text, "namespace in the supervisor"},
	{"pidfile", []string{"p"}, "pidfile", text, "file for the daemon's pid"},
	{"group", []string{"G"}, "group", text, "group that may use the unix socket"},
	{"debug", []string{"D"}, "debug", boolean, "log more"},
	{"log-level", []string{"l"}, "log-level", text, "debug, info, warn, error or fatal"},
	{"log-format", nil, "log-format", text, "text or json"},
	{"tls", nil, "tls", boolean, "speak TLS on tcp:// sockets"},
	{"tlsverify", nil, "tlsverify", boolean, "speak TLS and ask clients for a certificate"},
	{"tlscacert", nil, "tlscacert", text, "certificates that clients must be signed by"},
	{"tlscert", nil, "tlscert", text, "certificate of the daemon"},
	{"tlskey", nil, "tlskey", text, "key of the daemon"},
	{"label", nil, "labels", list, "KEY=VALUE label of the daemon"},
	{"live-restore", nil, "live-restore", boolean, "containers run on without the daemon (on unless false)"},
	{"shutdown-timeout", nil, "shutdown-timeout", number, "seconds that containers get at shutdown without live restore"},
	{"registry-mirror", nil, "registry-mirrors", list, "mirror of docker.io"},
	{"insecure-registry", nil, "insecure-registries", list, "registry that may do without TLS"},
	{"metrics-addr", nil, "metrics-addr", text, "HOST:PORT of the prometheus metrics"},
	{"log-driver", nil, "log-driver", text, "default log driver of containers"},
	{"log-opt", nil, "log-opts", pairs, "default log options of containers"},
	{"add-runtime", nil, "runtimes", runtime, "register an OCI runtime"},
	{"default-runtime", nil, "default-runtime", text, "runtime of containers that name none"},
	{"init", nil, "init", boolean, "run an init in containers"},
	{"init-path", nil, "init-path", text, "the init's binary"},
	{"exec-opt", nil, "exec-opts", list, "native.cgroupdriver=cgroupfs or systemd"},
	{"cgroup-parent", nil, "cgroup-parent", text, "parent cgroup of containers"},
	{"default-cgroupns-mode", nil, "default-cgroupns-mode", text, "host or private"},
	{"default-ipc-mode", nil, "default-ipc-mode", text, "shareable or private"},
	{"default-shm-size", nil, "default-shm-size", size, "size of /dev/shm"},
	{"default-ulimit", nil, "default-ulimits", ulimits, "default ulimits of containers"},
	{"no-new-privileges", nil, "no-new-privileges", boolean, "set no-new-privileges for new containers"},
	{"seccomp-profile", nil, "seccomp-profile", text, "path of a profile, or unconfined"},
	{"storage-driver", []string{"s"}, "storage-driver", text, "snapshotter of the supervisor"},
	{"storage-opt", nil, "storage-opts", list, "accepted for compatibility"},
	{"bridge", []string{"b"}, "bridge", text, "interface of the default bridge, or none"},
	{"bip", nil, "bip", text, "address of the default bridge"},
	{"bip6", nil, "bip6", text, "IPv6 address of the default bridge"},
	{"fixed-cidr", nil, "fixed-cidr", text, "range of addresses on the default bridge"},
	{"ipv6", nil, "ipv6", boolean, "IPv6 on the default bridge"},
	{"mtu", nil, "mtu", number, "MTU of the default bridge"},
	{"icc", nil, "icc", boolean, "containers on the default bridge may talk (on unless false)"},
	{"ip-masq", nil, "ip-masq", boolean, "masquerade traffic to the outside (on unless false)"},
	{"ip-forward", nil, "ip-forward", boolean, "switch IP forwarding on (on unless false)"},
	{"ip-forward-no-drop", nil, "ip-forward-no-drop", boolean, "do not drop forwarded traffic of others"},
	{"iptables", nil, "iptables", boolean, "manage the firewall (on unless false)"},
	{"ip6tables", nil, "ip6tables", boolean, "accepted for compatibility; follows iptables"},
	{"ip", nil, "ip", text, "default address to publish ports on"},
	{"dns", nil, "dns", list, "name server of containers"},
	{"dns-search", nil, "dns-search", list, "search domain of containers"},
	{"dns-opt", nil, "dns-opts", list, "resolver option of containers"},
	{"host-gateway-ip", nil, "host-gateway-ip", text, "what host-gateway means"},
	{"default-address-pool", nil, "default-address-pools", pools, "base=PREFIX,size=N for new networks"},
	{"strata-firewall-table", nil, "strata-firewall-table", text, "name of the nftables table"},
	{"publish", nil, "publish", text, "respect-host leaves published ports to the host's INPUT rules"},
	{"userland-proxy", nil, "userland-proxy", boolean, "accepted for compatibility: the kernel does its work"},
	{"userland-proxy-path", nil, "userland-proxy-path", text, "accepted for compatibility"},
	{"experimental", nil, "experimental", boolean, "accepted for compatibility"},
	{"selinux-enabled", nil, "selinux-enabled", boolean, "not implemented"},
	{"userns-remap", nil, "userns-remap", text, "not implemented"},
	{"authorization-plugin", nil, "authorization-plugins", list, "not implemented"},
	{"max-concurrent-downloads", nil, "max-concurrent-downloads", number, "accepted for compatibility"},
	{"max-concurrent-uploads", nil, "max-concurrent-uploads", number, "accepted for compatibility"},
	{"max-download-attempts", nil, "max-download-attempts", number, "accepted for compatibility"},
	{"oom-score-adjust", nil, "oom-score-adjust", number, "accepted for compatibility"},
	{"firewall-backend", nil, "firewall-backend", text, "nftables"},
}

func flags() []cli.Flag {
	out := []cli.Flag{
		&cli.StringFlag{Name: "config-file", Usage: "configuration file (default: " + engined.DefaultConfigFile + ", if it is there)"},
		&cli.BoolFlag{Name: "validate", Usage: "check the configuration and exit"},
	}
	for _, o := range options {
		switch o.kind {
		case boolean:
			out = append(out, &cli.BoolFlag{Name: o.flag, Aliases: o.aliases, Usage: o.usage})
		case number:
			out = append(out, &cli.IntFlag{Name: o.flag, Aliases: o.aliases, Usage: o.usage})
		case text, size:
			out = append(out, &cli.StringFlag{Name: o.flag, Aliases: o.aliases, Usage: o.usage})
		default:
			out = append(out, &cli.StringSliceFlag{Name: o.flag, Aliases: o.aliases, Usage: o.usage})
		}
	}
	return out
}

// settings returns what the flags set, by the keys of daemon.json.
func settings(c *cli.Context) (map[string]any, error) {
	out := map[string]any{}
	for _, o := range options {
		if !c.IsSet(o.flag) {
			continue
		}
		v, err := value(c, o)
		if err != nil {
			return nil, fmt.Errorf("%w: invalid value for --%s: %w", errUsage, o.flag, err)
		}
		out[o.key] = v
	}
	return out, nil
}

func value(c *cli.Context, o option) (any, error) {
	switch o.kind {
	case boolean:
		return c.Bool(o.flag), nil
	case number:
		return c.Int(o.flag), nil
	case size:
		return units.RAMInBytes(c.String(o.flag))
	case list:
		return c.StringSlice(o.flag), nil
	case pairs:
		return keyValues(c.StringSlice(o.flag))
	case pools:
		return addressPools(c.StringSlice(o.flag))
	case runtime:
		paths, err := keyValues(c.StringSlice(o.flag))
		out := map[string]engined.RuntimeConfig{}
		for name, path := range paths {
			out[name] = engined.RuntimeConfig{Path: path}
		}
		return out, err
	case ulimits:
		out := map[string]engined.Ulimit{}
		for _, s := range c.StringSlice(o.flag) {
			u, err := engined.ParseUlimit(s)
			if err != nil {
				return nil, err
			}
			out[u.Name] = u
		}
		return out, nil
	default:
		return c.String(o.flag), nil
	}
}

func keyValues(in []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range in {
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("%q: want KEY=VALUE", s)
		}
		out[k] = v
	}
	return out, nil
}

func addressPools(in []string) ([]map[string]any, error) {
	var out []map[string]any
	for _, s := range in {
		pool := map[string]any{}
		for field := range strings.SplitSeq(s, ",") {
			switch k, v, _ := strings.Cut(field, "="); k {
			case "base":
				pool["base"] = v
			case "size":
				n, err := strconv.Atoi(v)
				if err != nil {
					return nil, fmt.Errorf("%q: size is no number", s)
				}
				pool["size"] = n
			default:
				return nil, fmt.Errorf("%q: want base=PREFIX,size=N", s)
			}
		}
		out = append(out, pool)
	}
	return out, nil
}
