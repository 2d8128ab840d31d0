package main

import (
	"strings"
	"time"

	units "github.com/docker/go-units"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/runspec"
)

// The shapes of flags that several commands have.

func boolFlag(name, short, usage string) cliapp.Flag {
	return cliapp.Flag{Name: name, Short: short, Usage: usage}
}

func stringFlag(name, short, usage string) cliapp.Flag {
	return cliapp.Flag{Name: name, Short: short, Kind: cliapp.String, Usage: usage}
}

func listFlag(name, short, usage string) cliapp.Flag {
	return cliapp.Flag{Name: name, Short: short, Kind: cliapp.List, Usage: usage}
}

func intFlag(name, short, usage string) cliapp.Flag {
	return cliapp.Flag{Name: name, Short: short, Kind: cliapp.Int, Usage: usage}
}

func bytesFlag(name, short, usage string) cliapp.Flag {
	return cliapp.Flag{Name: name, Short: short, Kind: cliapp.String, Type: "bytes", Check: runspec.CheckBytes, Usage: usage}
}

func durationFlag(name, usage string) cliapp.Flag {
	return cliapp.Flag{Name: name, Kind: cliapp.String, Type: "duration", Check: checkDuration, Usage: usage + " (ms|s|m|h) (default 0s)"}
}

func checkDuration(s string) error {
	_, err := time.ParseDuration(s)
	return err
}

func filterFlag(short, usage string) cliapp.Flag {
	check := func(s string) error {
		_, err := client.ParseFilters([]string{s})
		return err
	}
	return cliapp.Flag{Name: "filter", Short: short, Kind: cliapp.List, Type: "filter", Check: check, Usage: usage}
}

const formatUsage = `Format output using a custom template:
'table':            Print a table with column headings (default)
'table TEMPLATE':   Print a table with the columns of the Go template
'json':             Print one JSON object per line
'TEMPLATE':         Print the Go template for each item`

const inspectFormatUsage = `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print the Go template for each item`

func hidden(f cliapp.Flag) cliapp.Flag {
	f.Hidden = true
	return f
}

// alias is another, hidden name of a flag.
func alias(name string, f cliapp.Flag) cliapp.Flag {
	f.Name, f.AliasOf, f.Hidden = name, f.Name, true
	return f
}

func withDefault(f cliapp.Flag, value string) cliapp.Flag {
	f.Default = value
	return f
}

func withType(f cliapp.Flag, name string) cliapp.Flag {
	f.Type = name
	return f
}

func withCheck(f cliapp.Flag, check func(string) error) cliapp.Flag {
	f.Check = check
	return f
}

func checkPair(s string) error {
	if k, _, ok := strings.Cut(s, "="); !ok || k == "" {
		return errPair{s}
	}
	return nil
}

type errPair struct{ s string }

func (e errPair) Error() string { return "bad format: want name=value" }

func checkUlimit(s string) error {
	_, err := units.ParseUlimit(s)
	return err
}

// createFlags are the flags of create; run adds some.
func createFlags() []cliapp.Flag {
	groups := [][]cliapp.Flag{
		processFlags(), metadataFlags(), networkFlags(), storageFlags(), limitFlags(),
		createLimitFlags(), securityFlags(), healthFlags(), lifecycleFlags(), unsupportedFlags(),
	}
	var out []cliapp.Flag
	for _, g := range groups {
		out = append(out, g...)
	}
	return out
}

func processFlags() []cliapp.Flag {
	return []cliapp.Flag{
		withCheck(listFlag("attach", "a", "Attach to STDIN, STDOUT or STDERR"), runspec.CheckAttach),
		stringFlag("entrypoint", "", "Overwrite the default ENTRYPOINT of the image"),
		listFlag("env", "e", "Set environment variables"),
		listFlag("env-file", "", "Read environment variables from a file"),
		boolFlag("interactive", "i", "Keep STDIN open even if not attached"),
		boolFlag("tty", "t", "Allocate a pseudo-TTY"),
		stringFlag("user", "u", "Name or UID to run as (format: <name|uid>[:<group|gid>])"),
		listFlag("group-add", "", "Add additional groups to join"),
		stringFlag("workdir", "w", "Working directory inside the container"),
		stringFlag("hostname", "h", "Host name of the container"),
		stringFlag("domainname", "", "NIS domain name of the container"),
		boolFlag("init", "", "Run an init inside the container that forwards signals and reaps processes"),
	}
}

func metadataFlags() []cliapp.Flag {
	return []cliapp.Flag{
		stringFlag("name", "", "Assign a name to the container"),
		listFlag("label", "l", "Set meta data on the container"),
		listFlag("label-file", "", "Read labels from a file, one a line"),
		withType(withCheck(listFlag("annotation", "", "Add an annotation to the container (passed through to the OCI runtime) (default map[])"), checkPair), "map"),
		stringFlag("cidfile", "", "Write the container ID to the file"),
		stringFlag("platform", "", "Platform of the image, if it has several"),
		withDefault(withCheck(stringFlag("pull", "", `Pull the image before creating ("always", "missing", "never")`), checkPull), "missing"),
		boolFlag("quiet", "q", "Suppress the pull output"),
	}
}

func checkPull(s string) error {
	switch s {
	case "always", "missing", "never", "":
		return nil
	}
	return errPull{s}
}

type errPull struct{ s string }

func (e errPull) Error() string { return `want "always", "missing" or "never"` }

func networkFlags() []cliapp.Flag {
	return []cliapp.Flag{
		withCheck(listFlag("add-host", "", "Add a custom host-to-IP mapping (host:ip)"), checkHost),
		withCheck(listFlag("dns", "", "Set custom DNS servers"), runspec.CheckAddress),
		listFlag("dns-option", "", "Set DNS options"),
		alias("dns-opt", listFlag("dns-option", "", "")),
		listFlag("dns-search", "", "Set custom DNS search domains"),
		listFlag("expose", "", "Expose a port or a range of ports"),
		stringFlag("ip", "", "IPv4 address (e.g., 172.30.100.104)"),
		stringFlag("ip6", "", "IPv6 address (e.g., 2001:db8::33)"),
		listFlag("link", "", "Add link to another container"),
		listFlag("link-local-ip", "", "Link-local addresses of the container"),
		stringFlag("mac-address", "", "MAC address of the container (e.g., 92:d0:c6:0a:29:33)"),
		withType(listFlag("network", "", "Connect the container to a network"), "network"),
		alias("net", listFlag("network", "", "")),
		listFlag("network-alias", "", "Add network-scoped alias for the container"),
		alias("net-alias", listFlag("network-alias", "", "")),
		listFlag("publish", "p", "Publish ports of the container on the host"),
		boolFlag("publish-all", "P", "Publish all exposed ports to random ports"),
	}
}

func storageFlags() []cliapp.Flag {
	return []cliapp.Flag{
		withType(withCheck(listFlag("mount", "", "Attach a filesystem mount to the container"), checkMount), "mount"),
		boolFlag("read-only", "", "Mount the container's root filesystem as read only"),
		bytesFlag("shm-size", "", "Size of /dev/shm"),
		listFlag("storage-opt", "", "Storage driver options of the container"),
		listFlag("tmpfs", "", "Mount a tmpfs directory"),
		listFlag("volume", "v", "Bind mount a volume"),
		stringFlag("volume-driver", "", "Volume driver for the container"),
		listFlag("volumes-from", "", "Mount the volumes of other containers"),
	}
}

func checkHost(s string) error {
	_, _, err := runspec.ParseExtraHost(s)
	return err
}

func checkMount(s string) error {
	_, err := runspec.ParseMount(s)
	return err
}

// limitFlags are those that update has too.
func limitFlags() []cliapp.Flag {
	return []cliapp.Flag{
		withType(intFlag("blkio-weight", "", "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)"), "uint16"),
		intFlag("cpu-period", "", "Period of the CPU quota, in microseconds"),
		intFlag("cpu-quota", "", "CPU time per period, in microseconds"),
		intFlag("cpu-rt-period", "", "Period of real-time CPU, in microseconds"),
		intFlag("cpu-rt-runtime", "", "Real-time CPU per period, in microseconds"),
		intFlag("cpu-shares", "c", "CPU shares (relative weight)"),
		withType(withCheck(stringFlag("cpus", "", "Number of CPUs"), runspec.CheckCPUs), "decimal"),
		stringFlag("cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)"),
		stringFlag("cpuset-mems", "", "Memory nodes in which to allow execution (0-3, 0,1)"),
		bytesFlag("memory", "m", "Memory limit"),
		bytesFlag("memory-reservation", "", "Memory soft limit"),
		withCheck(bytesFlag("memory-swap", "", "Limit of memory plus swap: '-1' for unlimited swap"), runspec.CheckSwap),
		intFlag("pids-limit", "", "Limit of processes (-1 for unlimited)"),
		hidden(bytesFlag("kernel-memory", "", "Kernel memory limit (no longer has an effect)")),
	}
}

func createLimitFlags() []cliapp.Flag {
	return []cliapp.Flag{
		withCheck(listFlag("blkio-weight-device", "", "Block IO weight (relative device weight) (default [])"), runspec.CheckWeight),
		withCheck(listFlag("device-read-bps", "", "Limit read rate (bytes per second) from a device (default [])"), runspec.CheckBytesRate),
		withCheck(listFlag("device-read-iops", "", "Limit read rate (IO per second) from a device (default [])"), runspec.CheckIORate),
		withCheck(listFlag("device-write-bps", "", "Limit write rate (bytes per second) to a device (default [])"), runspec.CheckBytesRate),
		withCheck(listFlag("device-write-iops", "", "Limit write rate (IO per second) to a device (default [])"), runspec.CheckIORate),
		withDefault(intFlag("memory-swappiness", "", "Tune container memory swappiness (0 to 100)"), "-1"),
		boolFlag("oom-kill-disable", "", "Disable the OOM killer"),
		intFlag("oom-score-adj", "", "Tune the host's OOM preferences (-1000 to 1000)"),
		withType(withCheck(listFlag("ulimit", "", "Ulimit options (default [])"), checkUlimit), "ulimit"),
		stringFlag("cgroup-parent", "", "Parent cgroup of the container"),
	}
}

func securityFlags() []cliapp.Flag {
	return []cliapp.Flag{
		listFlag("cap-add", "", "Add Linux capabilities"),
		listFlag("cap-drop", "", "Drop Linux capabilities"),
		stringFlag("cgroupns", "", "Cgroup namespace to use (host|private); empty is the daemon's default"),
		listFlag("device", "", "Add a host device to the container"),
		listFlag("device-cgroup-rule", "", "Add a rule to the list of allowed devices"),
		withType(stringFlag("gpus", "", "GPU devices to add to the container (not implemented)"), "gpu-request"),
		stringFlag("ipc", "", "IPC mode to use"),
		stringFlag("isolation", "", "Container isolation technology"),
		stringFlag("pid", "", "PID namespace to use"),
		boolFlag("privileged", "", "Give extended privileges to this container"),
		stringFlag("runtime", "", "Runtime to use for this container"),
		listFlag("security-opt", "", "Security options"),
		withType(withCheck(listFlag("sysctl", "", "Sysctl options (default map[])"), runspec.CheckSysctl), "map"),
		stringFlag("userns", "", "User namespace to use"),
		stringFlag("uts", "", "UTS namespace to use"),
	}
}

func healthFlags() []cliapp.Flag {
	return []cliapp.Flag{
		stringFlag("health-cmd", "", "Command that checks health"),
		durationFlag("health-interval", "Time between checks"),
		intFlag("health-retries", "", "Consecutive failures needed to report unhealthy"),
		durationFlag("health-start-interval", "Time between checks during the start period"),
		durationFlag("health-start-period", "Time for the container to initialize before failures count"),
		durationFlag("health-timeout", "Maximum time of one check"),
		boolFlag("no-healthcheck", "", "Disable any HEALTHCHECK of the image"),
	}
}

func lifecycleFlags() []cliapp.Flag {
	return []cliapp.Flag{
		stringFlag("log-driver", "", "Logging driver for the container"),
		listFlag("log-opt", "", "Log driver options"),
		withDefault(stringFlag("restart", "", "Restart policy to apply when the container exits"), "no"),
		boolFlag("rm", "", "Remove the container and its anonymous volumes when it exits"),
		stringFlag("stop-signal", "", "Signal to stop the container"),
		intFlag("stop-timeout", "", "Timeout (in seconds) to stop the container"),
	}
}

// unsupportedFlags are accepted because scripts pass them; they have no effect on Linux.
func unsupportedFlags() []cliapp.Flag {
	return []cliapp.Flag{
		hidden(intFlag("cpu-count", "", "CPU count (Windows only)")),
		hidden(intFlag("cpu-percent", "", "CPU percent (Windows only)")),
		hidden(bytesFlag("io-maxbandwidth", "", "Maximum IO bandwidth (Windows only)")),
		hidden(intFlag("io-maxiops", "", "Maximum IOps (Windows only)")),
		hidden(withDefault(boolFlag("disable-content-trust", "", "Skip image verification"), "true")),
	}
}
