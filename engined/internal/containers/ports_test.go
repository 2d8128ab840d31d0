package containers

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"strata/engined/internal/networks"
	"strata/engined/internal/store"
)

func TestDefinitionFollowsPortsThatComeAndGo(t *testing.T) {
	port := network.MustParsePort
	bind := func(hostPorts ...string) []network.PortBinding {
		var out []network.PortBinding
		for _, p := range hostPorts {
			out = append(out, network.PortBinding{HostPort: p})
		}
		return out
	}
	tcp := func(ctr, host uint16) networks.PortMapping {
		return networks.PortMapping{Proto: "tcp", ContainerPort: ctr, HostPort: host}
	}
	tests := []struct {
		name      string
		all       bool
		exposed   []string
		bindings  network.PortMap
		gone, add []networks.PortMapping
		want      string
	}{
		{name: "the exact one", bindings: network.PortMap{port("80/tcp"): bind("", "8000-8100", "8080")}, gone: []networks.PortMapping{tcp(80, 8080)}, want: "map[80/tcp:[{invalid IP } {invalid IP 8000-8100}]]"},
		{name: "then a range", bindings: network.PortMap{port("80/tcp"): bind("", "8000-8100")}, gone: []networks.PortMapping{tcp(80, 8080)}, want: "map[80/tcp:[{invalid IP }]]"},
		{name: "then a random one", bindings: network.PortMap{port("80/tcp"): bind("")}, gone: []networks.PortMapping{tcp(80, 40000)}, want: "map[]"},
		{name: "publish all", all: true, exposed: []string{"80/tcp", "53/udp"}, gone: []networks.PortMapping{tcp(80, 40000)}, want: "map[53/udp:[{invalid IP }]]"},
		{name: "add", bindings: network.PortMap{port("80/tcp"): bind("8080")}, add: []networks.PortMapping{{Proto: "tcp", ContainerPort: 80, HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8081, HostPortEnd: 8090}}, want: "map[80/tcp:[{invalid IP 8080} {127.0.0.1 8081-8090}]]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			old := &store.Definition{Config: &container.Config{ExposedPorts: network.PortSet{}}, Host: &container.HostConfig{PublishAllPorts: tt.all, PortBindings: tt.bindings}}
			for _, e := range tt.exposed {
				old.Config.ExposedPorts[port(e)] = struct{}{}
			}
			before := fmt.Sprint(*old.Config, *old.Host)
			d := withPorts(old, tt.gone, tt.add)
			if got := fmt.Sprint(d.Host.PortBindings); got != tt.want || d.Host.PublishAllPorts {
				t.Errorf("PortBindings = %s (all %v), want %s", got, d.Host.PublishAllPorts, tt.want)
			}
			if fmt.Sprint(*old.Config, *old.Host) != before {
				t.Error("the old definition was changed")
			}
		})
	}
}

func TestPortMatchesAreReadAndRefused(t *testing.T) {
	for text, want := range map[string]PortMatch{
		"8080":                 {First: 8080},
		"8080/UDP":             {First: 8080, Proto: "udp"},
		"8080:80/tcp":          {First: 8080, ContainerPort: 80, Proto: "tcp"},
		"127.0.0.1:8080:80":    {HostIP: netip.MustParseAddr("127.0.0.1"), First: 8080, ContainerPort: 80},
		"[::1]:8000-8010/sctp": {HostIP: netip.IPv6Loopback(), First: 8000, Last: 8010, Proto: "sctp"},
	} {
		if got, err := ParsePortMatch(text); err != nil || got != want {
			t.Errorf("ParsePortMatch(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", ":80", "a", "80:", "80:0", "70000", "9-8", "1.2.3:80", "[::1:80"} {
		if got, err := ParsePortMatch(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("ParsePortMatch(%q) = %+v, %v, want ErrInvalidArgument", text, got, err)
		}
	}
	if _, err := matched("web", []networks.PortMapping{{Proto: "tcp", ContainerPort: 80, HostPort: 8080}}, []PortMatch{{First: 8081}}); !errdefs.IsNotFound(err) || err.Error() != "no port 8081 of container web is published: not found" {
		t.Errorf("matched = %v", err)
	}
}
