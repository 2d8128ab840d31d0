package containers

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
)

func TestValidateHasDockersWords(t *testing.T) {
	s := &Service{cfg: Config{Log: container.LogConfig{Type: "json-file"}}}
	for _, tt := range []struct {
		name   string
		config container.Config
		host   container.HostConfig
		want   string // "" accepts
	}{
		{"a command is enough", container.Config{}, container.HostConfig{}, ""},
		{"relative working directory", container.Config{WorkingDir: "x"}, container.HostConfig{}, "the working directory 'x' is invalid, it needs to be an absolute path"},
		{"unknown stop signal", container.Config{StopSignal: "FOO"}, container.HostConfig{}, "invalid signal: FOO"},
		{"memory below the floor", container.Config{}, container.HostConfig{Resources: container.Resources{Memory: 1 << 20}}, "Minimum memory limit allowed is 6MB"},
		{"swap below memory", container.Config{}, container.HostConfig{Resources: container.Resources{Memory: 64 << 20, MemorySwap: 32 << 20}}, "Minimum memoryswap limit should be larger than memory limit"},
		{"swap without memory", container.Config{}, container.HostConfig{Resources: container.Resources{MemorySwap: 32 << 20}}, "You should always set the Memory limit when using Memoryswap limit"},
		{"too many cpus", container.Config{}, container.HostConfig{Resources: container.Resources{NanoCPUs: 1e15}}, "Range of CPUs is from 0.01 to"},
		{"cpus and quota", container.Config{}, container.HostConfig{Resources: container.Resources{NanoCPUs: 1e8, CPUQuota: 1000}}, "Conflicting options: Nano CPUs and CPU Quota cannot both be set"},
		{"nonsense cpuset", container.Config{}, container.HostConfig{Resources: container.Resources{CpusetCpus: "a"}}, "Invalid value a for cpuset cpus"},
		{"cpus that are not there", container.Config{}, container.HostConfig{Resources: container.Resources{CpusetCpus: "0,9999"}}, "Requested CPUs are not available - requested 0,9999"},
		{"auto remove with policy", container.Config{}, container.HostConfig{AutoRemove: true, RestartPolicy: container.RestartPolicy{Name: "always"}}, "can't create 'AutoRemove' container with restart policy"},
		{"retries of always", container.Config{}, container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "always", MaximumRetryCount: 1}}, "maximum retry count can only be used with 'on-failure'"},
		{"unknown log driver", container.Config{}, container.HostConfig{LogConfig: container.LogConfig{Type: "foo"}}, "logger: no log driver named 'foo' is registered"},
		{"unknown log option", container.Config{}, container.HostConfig{LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{"foo": "1"}}}, "unknown log opt 'foo' for json-file log driver"},
		{"unknown capability", container.Config{}, container.HostConfig{CapAdd: []string{"FOO"}}, "invalid CapAdd: unknown capability"},
		{"health interval in bare nanoseconds", container.Config{Healthcheck: &container.HealthConfig{Interval: 3 * time.Nanosecond}}, container.HostConfig{}, "Interval in Healthcheck cannot be less than 1ms"},
		{"host name with container network", container.Config{Hostname: "x"}, container.HostConfig{NetworkMode: "container:y"}, "conflicting options: hostname and the network mode"},
		{"ports with container network", container.Config{}, container.HostConfig{NetworkMode: "container:y", PublishAllPorts: true}, "conflicting options: port publishing and the container type network mode"},
		{"oom score", container.Config{}, container.HostConfig{OomScoreAdj: 2000}, "Invalid value 2000, range for oom score adj is [-1000, 1000]"},
		{"ipc mode", container.Config{}, container.HostConfig{IpcMode: "x"}, "invalid IPC mode: x"},
		{"gpu", container.Config{}, container.HostConfig{Resources: container.Resources{DeviceRequests: []container.DeviceRequest{{Capabilities: [][]string{{"gpu"}}}}}}, `could not select device driver "" with capabilities: [[gpu]]`},
		{"host port range", container.Config{}, container.HostConfig{PortBindings: network.PortMap{network.MustParsePort("80/tcp"): {{HostPort: "90-80"}}}}, `invalid port specification: "90-80"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.config.Cmd = []string{"true"}
			if tt.host.LogConfig.Type == "" {
				tt.host.LogConfig.Type = "json-file"
			}
			_, err := s.validate(&tt.config, &tt.host)
			if tt.want == "" {
				if err != nil {
					t.Errorf("validate = %v, want no error", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !errdefs.IsInvalidArgument(err) {
				t.Errorf("validate = %v, want %q of class ErrInvalidArgument", err, tt.want)
			}
		})
	}
}

func TestParseBind(t *testing.T) {
	for _, tt := range []struct {
		in, typ, name, source, dest string
		rw                          bool
		propagation                 string
	}{
		{"/a:/b", "bind", "", "/a", "/b", true, "rprivate"},
		{"/a/../c:/b/:ro", "bind", "", "/c", "/b", false, "rprivate"},
		{"/a:/b:ro,rshared", "bind", "", "/a", "/b", false, "rshared"},
		{"vol:/b:z,nocopy", "volume", "vol", "", "/b", true, ""},
		{"/b", "volume", "", "", "/b", true, ""},
	} {
		m, err := ParseBind(tt.in)
		if err != nil || m.Type != tt.typ || m.Name != tt.name || m.Source != tt.source || m.Destination != tt.dest || m.RW != tt.rw || m.Propagation != tt.propagation {
			t.Errorf("ParseBind(%q) = %+v, %v", tt.in, m, err)
		}
	}
	for _, in := range []string{"", "a:b", "/a:b", "/a:/", ":/b", "/a:", "/a:/b:what", "/a:/b:ro:x", "vol:/b:rshared", "/a:/b:nocopy", "-bad:/b"} {
		if m, err := ParseBind(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("ParseBind(%q) = %+v, %v; want class ErrInvalidArgument", in, m, err)
		}
	}
}

func TestBindOfAMountMustExist(t *testing.T) {
	_, err := fromAPIMount(mount.Mount{Type: mount.TypeBind, Source: t.TempDir() + "/gone", Target: "/x"})
	if err == nil || !strings.Contains(err.Error(), "bind source path does not exist") {
		t.Errorf("fromAPIMount = %v", err)
	}
	m, err := fromAPIMount(mount.Mount{Type: mount.TypeBind, Source: t.TempDir() + "/gone", Target: "/x", BindOptions: &mount.BindOptions{CreateMountpoint: true}})
	if err != nil || m.FromMounts {
		t.Errorf("fromAPIMount with CreateMountpoint = %+v, %v", m, err)
	}
}

func TestExitCodeOfAFailedStart(t *testing.T) {
	for text, want := range map[string]int{
		`exec: "nosuch": executable file not found in $PATH`: 127,
		`exec: "/x": stat /x: no such file or directory`:     127,
		`exec: "/etc": permission denied`:                    126,
		`something else`:                                     128,
	} {
		if got := exitCodeOf(errorString(text)); got != want {
			t.Errorf("exitCodeOf(%q) = %d, want %d", text, got, want)
		}
	}
}

type errorString string

func (e errorString) Error() string { return string(e) }
