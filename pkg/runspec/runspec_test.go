package runspec_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"strata/pkg/runspec"
)

// flags is a command line without a parser.
type flags map[string][]string

func (f flags) StringSlice(name string) []string { return f[name] }
func (f flags) IsSet(name string) bool           { _, ok := f[name]; return ok }
func (f flags) Bool(name string) bool            { return f.String(name) == "true" }

func (f flags) String(name string) string {
	if len(f[name]) == 0 {
		return ""
	}
	return f[name][len(f[name])-1]
}

func (f flags) Int64(name string) int64 {
	var n int64
	_, _ = fmt.Sscan(f.String(name), &n)
	return n
}

func portLines(m network.PortMap) string {
	var lines []string
	for port, bindings := range m {
		for _, b := range bindings {
			ip := ""
			if b.HostIP.IsValid() {
				ip = b.HostIP.String()
			}
			lines = append(lines, fmt.Sprintf("%s=%s:%s", port, ip, b.HostPort))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

func TestParsePortsKnowsEveryForm(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"80", "80/tcp=:"},
		{"8080:80", "80/tcp=:8080"},
		{"8080:80/UDP", "80/udp=:8080"},
		{"127.0.0.1:8080:80", "80/tcp=127.0.0.1:8080"},
		{"127.0.0.1::80", "80/tcp=127.0.0.1:"},
		{"[::1]:8080:80/sctp", "80/sctp=::1:8080"},
		{"::1:8080:80", "80/tcp=::1:8080"},
		{"8000-8002:80-82", "80/tcp=:8000 81/tcp=:8001 82/tcp=:8002"},
		{"8000-8010:80", "80/tcp=:8000-8010"},
		{"80-81", "80/tcp=: 81/tcp=:"},
		{"published=8080,target=80,protocol=udp", "80/udp=:8080"},
		{"target=80", "80/tcp=:"},
	} {
		got, err := runspec.ParsePorts([]string{tc.in})
		if err != nil || portLines(got) != tc.want {
			t.Errorf("ParsePorts(%q) = %s, %v, want %s", tc.in, portLines(got), err, tc.want)
		}
	}
}

func TestParsePortsNamesTheMistake(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"abc", "invalid containerPort: abc"},
		{"80:", "no port specified: 80:<empty>"},
		{"x:80", "invalid hostPort: x"},
		{"99999:80", "invalid hostPort: 99999"},
		{"80:70-60", "invalid containerPort: 70-60"},
		{"1:2:3:4", "invalid IP address: 1:2"},
		{"fe80::1%eth0:1:2", "invalid IP address: fe80::1%eth0"},
		{"80-81:90-95", "invalid ranges specified for container and host Ports: 90-95 and 80-81"},
		{"80:90/foo", "invalid proto: foo"},
		{"target=80,x", "invalid publish opts format (should be name=value but got 'x')"},
	} {
		_, err := runspec.ParsePorts([]string{tc.in})
		if err == nil || err.Error() != tc.want || !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("ParsePorts(%q) = %v, want the invalid argument %q", tc.in, err, tc.want)
		}
	}
}

func FuzzPortSpec(f *testing.F) {
	for _, s := range []string{"80", "127.0.0.1:8000-8010:80/udp", "[::1]:1:2", "published=1,target=2", "0-65535:0-65535", ":::", "-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ports, err := runspec.ParsePorts([]string{s})
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Fatalf("ParsePorts(%q): %v is not an invalid argument", s, err)
			}
			return
		}
		if len(ports) == 0 {
			t.Fatalf("ParsePorts(%q) found no port and no mistake", s)
		}
		for port, bindings := range ports {
			if port.IsZero() || len(bindings) != 1 {
				t.Fatalf("ParsePorts(%q): port %v has %d bindings, want 1", s, port, len(bindings))
			}
			if hp := bindings[0].HostPort; hp != "" {
				if _, err := network.ParsePortRange(hp); err != nil {
					t.Fatalf("ParsePorts(%q): host port %q: %v", s, hp, err)
				}
			}
		}
	})
}

func TestParseVolumeTellsBindsFromAnonymousVolumes(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ in, bind, path string }{
		{"/data", "", "/data"},
		{"vol:/data", "vol:/data", ""},
		{"/a:/b:ro,z", "/a:/b:ro,z", ""},
		{"./rel:/b", filepath.Join(wd, "rel") + ":/b", ""},
		{"a:b:c:d", "a:b:c:d", ""}, // the daemon knows which modes there are
	} {
		bind, path, err := runspec.ParseVolume(tc.in)
		if err != nil || bind != tc.bind || path != tc.path {
			t.Errorf("ParseVolume(%q) = %q, %q, %v, want %q, %q", tc.in, bind, path, err, tc.bind, tc.path)
		}
	}
	for _, bad := range []string{"", ":", "a:", ":/b", "/a::ro"} {
		if _, _, err := runspec.ParseVolume(bad); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("ParseVolume(%q) = %v, want an invalid argument", bad, err)
		}
	}
}

func TestParseMountReadsEachTypeOfMount(t *testing.T) {
	m, err := runspec.ParseMount("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave,bind-nonrecursive")
	if err != nil || m.Source != "/a" || m.Target != "/b" || !m.ReadOnly || m.BindOptions.Propagation != "rslave" || !m.BindOptions.NonRecursive {
		t.Errorf("bind mount = %+v, %v", m, err)
	}
	m, err = runspec.ParseMount(`source=v,target=/v,volume-nocopy,"volume-opt=o=a,b",volume-label=x=y,volume-subpath=s`)
	if err != nil || m.Type != "volume" || !m.VolumeOptions.NoCopy || m.VolumeOptions.DriverConfig.Options["o"] != "a,b" || m.VolumeOptions.Labels["x"] != "y" || m.VolumeOptions.Subpath != "s" {
		t.Errorf("volume mount = %+v, %v", m, err)
	}
	m, err = runspec.ParseMount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770")
	if err != nil || m.TmpfsOptions.SizeBytes != 1<<20 || m.TmpfsOptions.Mode != 0o1770 {
		t.Errorf("tmpfs mount = %+v, %v", m, err)
	}
}

func TestParseMountNamesTheMistake(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"foo", "invalid field 'foo' must be a key=value pair"},
		{"type=bind", "target is required"},
		{"type=bind,dst=/a,foo=bar", "unexpected key 'foo' in 'foo=bar'"},
		{"type=bind,dst=/a,readonly=maybe", "invalid value for readonly: maybe"},
		{"type=bind,dst=/a,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"},
		{"dst=/a,tmpfs-size=1m", "cannot mix 'tmpfs-*' options with mount type 'volume'"},
		{"type=tmpfs,dst=/a,tmpfs-mode=9", "invalid value for tmpfs-mode: 9"},
		{"type=bind,dst=/a,bind-recursive=writable", "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction"},
	} {
		if _, err := runspec.ParseMount(tc.in); err == nil || err.Error() != tc.want {
			t.Errorf("ParseMount(%q) = %v, want %q", tc.in, err, tc.want)
		}
	}
}

func TestParseUlimitsKeepsTheLastOfAName(t *testing.T) {
	got, err := runspec.ParseUlimits([]string{"nofile=10:20", "core=0", "nofile=30"})
	if err != nil || len(got) != 2 || got[0].String() != "nofile=30:30" || got[1].String() != "core=0:0" {
		t.Errorf("ParseUlimits = %v, %v", got, err)
	}
	for _, bad := range []string{"nofile", "foo=1", "nofile=2:1", "nofile=x"} {
		if _, err := runspec.ParseUlimits([]string{bad}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("ParseUlimits(%q) = %v, want an invalid argument", bad, err)
		}
	}
}

func TestEnvironmentTakesBareNamesFromOurs(t *testing.T) {
	t.Setenv("RUNSPEC_SET", "yes")
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("\ufeffA=1\n# comment\n\n  B=2 3\nRUNSPEC_SET\nRUNSPEC_UNSET\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := runspec.Environment([]string{file}, []string{"C=1,2", "RUNSPEC_SET", "RUNSPEC_UNSET", "D="})
	want := []string{"A=1", "B=2 3", "RUNSPEC_SET=yes", "C=1,2", "RUNSPEC_SET=yes", "RUNSPEC_UNSET", "D="}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Environment = %q, %v, want %q", got, err, want)
	}
	if err := os.WriteFile(file, []byte("A B=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := runspec.Environment([]string{file}, nil); err == nil || !strings.Contains(err.Error(), "contains whitespaces") {
		t.Errorf("Environment of a name with a space: %v, want an error", err)
	}
}

func TestParseDeviceReadsPathsAndPermissions(t *testing.T) {
	for _, tc := range []struct{ in, host, inside, perms string }{
		{"/dev/a", "/dev/a", "/dev/a", "rwm"},
		{"/dev/a:/dev/b", "/dev/a", "/dev/b", "rwm"},
		{"/dev/a:rw", "/dev/a", "/dev/a", "rw"},
		{"/dev/a:/dev/b:r", "/dev/a", "/dev/b", "r"},
	} {
		m, err := runspec.ParseDevice(tc.in)
		if err != nil || m.PathOnHost != tc.host || m.PathInContainer != tc.inside || m.CgroupPermissions != tc.perms {
			t.Errorf("ParseDevice(%q) = %+v, %v", tc.in, m, err)
		}
	}
	for _, bad := range []string{"dev", "/dev/a:b", "/dev/a:/b:x", "/a:/b:r:w", "/dev/a:/dev/b:rr"} {
		if _, err := runspec.ParseDevice(bad); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("ParseDevice(%q) = %v, want an invalid argument", bad, err)
		}
	}
}

func TestParseRefusesOptionsThatContradictEachOther(t *testing.T) {
	for _, tc := range []struct {
		name  string
		flags flags
		want  string
	}{
		{"removal and restart", flags{"rm": {"true"}, "restart": {"always"}}, "cannot specify both --restart and --rm"},
		{"attach and detach", flags{"attach": {"stdout"}, "detach": {"true"}}, "cannot specify both --attach and --detach"},
		{"health check on and off", flags{"no-healthcheck": {"true"}, "health-cmd": {"x"}}, "--no-healthcheck conflicts"},
		{"alias on no network of the user", flags{"network-alias": {"x"}}, "network-scoped aliases are only supported"},
		{"host and another network", flags{"network": {"host", "n"}}, "cannot attach both"},
		{"one network twice", flags{"network": {"n", "n"}}, `network "n" is specified multiple times`},
		{"address said twice", flags{"network": {"name=n,ip=1.2.3.4"}, "ip": {"1.2.3.5"}}, "cannot specify both --ip and per-network"},
		{"log options without a log", flags{"log-driver": {"none"}, "log-opt": {"a=b"}}, "invalid logging opts"},
		{"GPUs", flags{"gpus": {"all"}}, "not implemented"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := runspec.Parse(tc.flags, "image", nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Parse = %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestParseReadsSeveralNetworks(t *testing.T) {
	spec, err := runspec.Parse(flags{"network": {"name=n1,alias=a,ip=10.0.0.5,mac-address=92:d0:c6:0a:29:33,gw-priority=3", "n2"}, "link": {"c:d"}}, "image", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(spec.Networking.EndpointsConfig)); !slices.Equal(got, []string{"n1", "n2"}) {
		t.Fatalf("networks = %q, want n1 and n2", got)
	}
	ep := spec.Networking.EndpointsConfig["n1"]
	if ep.IPAMConfig.IPv4Address.String() != "10.0.0.5" || ep.Aliases[0] != "a" || ep.MacAddress.String() != "92:d0:c6:0a:29:33" || ep.GwPriority != 3 || ep.Links[0] != "c:d" {
		t.Errorf("first endpoint = %+v", ep)
	}
	if spec.HostConfig.NetworkMode != "n1" || spec.MacAddress != "92:d0:c6:0a:29:33" {
		t.Errorf("network mode %q, MAC address %q, want those of the first network", spec.HostConfig.NetworkMode, spec.MacAddress)
	}
}

func TestParseCPUsIsExact(t *testing.T) {
	for in, want := range map[string]int64{"1.5": 1_500_000_000, ".25": 250_000_000, "2": 2_000_000_000, "0.000000001": 1} {
		if got, err := runspec.ParseCPUs(in); err != nil || got != want {
			t.Errorf("ParseCPUs(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "x", "0.0000000001"} {
		if got, err := runspec.ParseCPUs(bad); err == nil {
			t.Errorf("ParseCPUs(%q) = %d, want an error", bad, got)
		}
	}
}
