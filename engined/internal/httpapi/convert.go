package httpapi

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	"strata/engined/internal/containers"
	"strata/engined/internal/networks"
	"strata/engined/internal/spec"
	"strata/engined/internal/store"
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// sandboxes tells the network of containers without waiting.
type sandboxes interface {
	Sandbox(containerID string) (networks.Sandbox, bool)
}

// createBody is the body of POST /containers/create, with what only old clients send.
type createBody struct {
	*container.Config
	Cmd              []string
	Entrypoint       []string
	MacAddress       string
	HostConfig       *container.HostConfig
	NetworkingConfig *network.NetworkingConfig
}

// UnmarshalJSON decodes null, and what says nothing of a container, as no configuration at
// all.
func (b *createBody) UnmarshalJSON(data []byte) error {
	type plain createBody
	if string(data) == "null" {
		return nil
	}
	p := plain{Config: &container.Config{}}
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	if reflect.ValueOf(*p.Config).IsZero() && p.Cmd == nil && p.Entrypoint == nil {
		p.Config = nil
	}
	*b = createBody(p)
	return nil
}

func (b createBody) request(r *request) (containers.CreateRequest, error) {
	b.Config.Cmd, b.Config.Entrypoint = b.Cmd, b.Entrypoint
	req := containers.CreateRequest{Name: r.Query("name"), Platform: r.Query("platform"), Config: b.Config, Host: b.HostConfig}
	if b.NetworkingConfig != nil {
		req.Endpoints = b.NetworkingConfig.EndpointsConfig
	}
	if len(req.Endpoints) > 1 && !r.AtLeast("1.44") {
		return req, invalid("Container cannot be connected to network endpoints: %s", strings.Join(keys(req.Endpoints), ", "))
	}
	if b.MacAddress == "" {
		return req, nil
	}
	var mac network.HardwareAddr
	if err := mac.UnmarshalText([]byte(b.MacAddress)); err != nil {
		return req, invalid("invalid MAC address %q", b.MacAddress)
	}
	name := network.NetworkBridge
	if b.HostConfig != nil && b.HostConfig.NetworkMode != "" && !b.HostConfig.NetworkMode.IsDefault() {
		name = string(b.HostConfig.NetworkMode)
	}
	if req.Endpoints == nil {
		req.Endpoints = map[string]*network.EndpointSettings{}
	}
	ep := req.Endpoints[name]
	if ep == nil {
		ep = &network.EndpointSettings{}
		req.Endpoints[name] = ep
	}
	if len(ep.MacAddress) == 0 {
		ep.MacAddress = mac
	}
	return req, nil
}

func keys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// portSummary is container.PortSummary, but leaves an unknown IP out.
type portSummary struct {
	IP          string `json:"IP,omitempty"`
	PrivatePort uint16 `json:"PrivatePort"`
	PublicPort  uint16 `json:"PublicPort,omitempty"`
	Type        string `json:"Type"`
}

// summary is container.Summary with ports as clients have always seen them.
type summary struct {
	container.Summary
	Ports []portSummary
}

func (a containersAPI) summary(c *containers.Container, r *request) summary {
	d, st := c.Definition(), c.State()
	s := summary{Summary: container.Summary{
		ID: c.ID, Names: []string{"/" + d.Name}, Image: d.Config.Image, ImageID: d.Image.ID.String(), Command: command(d),
		Created: d.Created.Unix(), Labels: d.Config.Labels, State: container.ContainerState(st.Status.String()), Status: statusText(c, time.Now()), Mounts: mountPoints(d),
	}, Ports: a.portSummaries(c)}
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	s.Summary.HostConfig.NetworkMode = string(d.Host.NetworkMode)
	if r.AtLeast("1.46") {
		s.Summary.HostConfig.Annotations = d.Host.Annotations
	}
	if r.AtLeast("1.48") && d.Image.Manifest.Digest != "" {
		s.ImageManifestDescriptor = &d.Image.Manifest
	}
	s.NetworkSettings = &container.NetworkSettingsSummary{Networks: a.endpoints(c)}
	return s
}

func command(d *store.Definition) string {
	var words []string
	for _, w := range slices.Concat(d.Config.Entrypoint, d.Config.Cmd) {
		if strings.Contains(w, " ") {
			w = "'" + w + "'"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// statusText is what `ps` prints: "Up 3 seconds (healthy)", "Exited (0) 2 minutes ago".
func statusText(c *containers.Container, now time.Time) string {
	st := c.State()
	switch st.Status {
	case containers.Running:
		text := "Up " + units.HumanDuration(now.Sub(st.StartedAt))
		if h := c.Health(); h != nil {
			switch h.Status {
			case container.Starting:
				text += " (health: starting)"
			case container.Healthy, container.Unhealthy:
				text += " (" + string(h.Status) + ")"
			case container.NoHealthcheck:
			}
		}
		return text
	case containers.Paused:
		return "Up " + units.HumanDuration(now.Sub(st.StartedAt)) + " (Paused)"
	case containers.Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", st.ExitCode, units.HumanDuration(now.Sub(st.FinishedAt)))
	case containers.Dead:
		return "Dead"
	case containers.Exited:
		return fmt.Sprintf("Exited (%d) %s ago", st.ExitCode, units.HumanDuration(now.Sub(st.FinishedAt)))
	default:
		return "Created"
	}
}

func mountPoints(d *store.Definition) []container.MountPoint {
	out := []container.MountPoint{}
	for _, m := range d.Mounts {
		if m.Type == "tmpfs" && m.Driver == "hostconfig" {
			continue // HostConfig.Tmpfs shows it
		}
		out = append(out, container.MountPoint{
			Type: mount.Type(m.Type), Name: m.Name, Source: m.Source, Destination: m.Destination, Driver: m.Driver, Mode: m.Mode, RW: m.RW,
			Propagation: mount.Propagation(m.Propagation),
		})
	}
	return out
}

// bindings are the host's addresses that a mapping is seen under.
func bindings(m networks.PortMapping) []string {
	if m.HostIP.IsValid() {
		return []string{m.HostIP.String()}
	}
	return []string{"0.0.0.0", "::"}
}

// hasPorts reports whether a container has an address of its own, and so ports.
func hasPorts(c *containers.Container) bool {
	m := c.Definition().Host.NetworkMode
	return !m.IsHost() && !m.IsNone() && !m.IsContainer()
}

func (a containersAPI) portSummaries(c *containers.Container) []portSummary {
	out := []portSummary{}
	if !c.State().Status.HasTask() {
		return out
	}
	sb, _ := a.nets.Sandbox(c.ID)
	published := map[string]bool{}
	for _, m := range sb.Ports {
		published[fmt.Sprintf("%d/%s", m.ContainerPort, m.Proto)] = true
		for _, ip := range bindings(m) {
			out = append(out, portSummary{IP: ip, PrivatePort: m.ContainerPort, PublicPort: m.HostPort, Type: m.Proto})
		}
	}
	if hasPorts(c) {
		for p := range c.Definition().Config.ExposedPorts {
			if !published[p.String()] {
				out = append(out, portSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
			}
		}
	}
	slices.SortFunc(out, func(x, y portSummary) int {
		return strings.Compare(fmt.Sprintf("%05d%s%s%05d", x.PrivatePort, x.Type, x.IP, x.PublicPort), fmt.Sprintf("%05d%s%s%05d", y.PrivatePort, y.Type, y.IP, y.PublicPort))
	})
	return out
}

// endpoints are the wishes of a container with what it got, by network name.
func (a containersAPI) endpoints(c *containers.Container) map[string]*network.EndpointSettings {
	d := c.Definition()
	out := map[string]*network.EndpointSettings{}
	for name, wish := range d.Endpoints {
		ep := wish.Copy()
		if ep == nil {
			ep = &network.EndpointSettings{}
		}
		ep.MacAddress = nil
		out[name] = ep
	}
	sb, ok := a.nets.Sandbox(c.ID)
	if !ok {
		return out
	}
	for _, got := range sb.Endpoints {
		ep := out[got.NetworkName]
		if ep == nil {
			ep = &network.EndpointSettings{}
			out[got.NetworkName] = ep
		}
		ep.NetworkID, ep.EndpointID, ep.MacAddress = got.NetworkID, got.ID, network.HardwareAddr(got.MAC)
		ep.Gateway, ep.IPv6Gateway, ep.DNSNames, ep.GwPriority = got.Gateway4, got.Gateway6, got.DNSNames, got.GwPriority
		if got.IPv4.IsValid() {
			ep.IPAddress, ep.IPPrefixLen = got.IPv4.Addr(), got.IPv4.Bits()
		}
		if got.IPv6.IsValid() {
			ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen = got.IPv6.Addr(), got.IPv6.Bits()
		}
	}
	return out
}

// networkSettings is container.NetworkSettings with the fields of the default bridge that
// clients before 1.52 read.
type networkSettings struct {
	Bridge                 string
	SandboxID              string
	SandboxKey             string
	Ports                  network.PortMap
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []string
	SecondaryIPv6Addresses []string
	EndpointID             string
	Gateway                netip.Addr
	GlobalIPv6Address      netip.Addr
	GlobalIPv6PrefixLen    int
	IPAddress              netip.Addr
	IPPrefixLen            int
	IPv6Gateway            netip.Addr
	MacAddress             network.HardwareAddr
	Networks               map[string]*network.EndpointSettings
}

func (a containersAPI) networkSettings(c *containers.Container) *networkSettings {
	ns := &networkSettings{Ports: network.PortMap{}, Networks: a.endpoints(c)}
	if sb, ok := a.nets.Sandbox(c.ID); ok {
		ns.SandboxID, ns.SandboxKey = c.ID, sb.NetnsPath
		if hasPorts(c) {
			for p := range c.Definition().Config.ExposedPorts {
				ns.Ports[p] = nil
			}
		}
		for _, m := range sb.Ports {
			p, ok := network.PortFrom(m.ContainerPort, network.IPProtocol(m.Proto))
			if !ok {
				continue
			}
			for _, ip := range bindings(m) {
				addr, err := netip.ParseAddr(ip)
				if err != nil {
					continue // bindings returns addresses
				}
				ns.Ports[p] = append(ns.Ports[p], network.PortBinding{HostIP: addr, HostPort: strconv.Itoa(int(m.HostPort))})
			}
		}
	}
	if ep := ns.Networks[network.NetworkBridge]; ep != nil {
		ns.EndpointID, ns.Gateway, ns.IPAddress, ns.IPPrefixLen, ns.MacAddress = ep.EndpointID, ep.Gateway, ep.IPAddress, ep.IPPrefixLen, ep.MacAddress
		ns.GlobalIPv6Address, ns.GlobalIPv6PrefixLen, ns.IPv6Gateway = ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen, ep.IPv6Gateway
	}
	return ns
}

// inspection is container.InspectResponse with the older network settings.
type inspection struct {
	container.InspectResponse
	NetworkSettings *networkSettings
}

func (a containersAPI) inspection(c *containers.Container, r *request) inspection {
	d, st := c.Definition(), c.State()
	argv := slices.Concat(d.Config.Entrypoint, d.Config.Cmd)
	resolv, hostname, hosts := a.svc.Files(c.ID)
	out := inspection{InspectResponse: container.InspectResponse{
		ID: c.ID, Created: d.Created.Format(time.RFC3339Nano), Path: argv[0], Args: argv[1:], State: inspectState(c, st), Image: d.Image.ID.String(),
		ResolvConfPath: resolv, HostnamePath: hostname, HostsPath: hosts, Name: "/" + d.Name, RestartCount: st.Restarts,
		Driver: d.Image.Snapshotter, Platform: "linux", AppArmorProfile: spec.AppArmorProfile(d.Host), ExecIDs: a.execs.OfContainer(c.ID),
		HostConfig: d.Host, Mounts: mountPoints(d), Config: d.Config,
	}, NetworkSettings: a.networkSettings(c)}
	if d.Host.LogConfig.Type == "json-file" {
		out.LogPath = a.svc.LogPath(c.ID)
	}
	out.GraphDriver = &storage.DriverData{Name: d.Image.Snapshotter, Data: a.svc.LayerPaths(c)}
	if r.AtLeast("1.48") && d.Image.Manifest.Digest != "" {
		out.ImageManifestDescriptor = &d.Image.Manifest
	}
	return out
}

func inspectState(c *containers.Container, st containers.State) *container.State {
	return &container.State{
		Status: container.ContainerState(st.Status.String()), Running: st.Status.Alive(), Paused: st.Status == containers.Paused,
		Restarting: st.Status == containers.Restarting, OOMKilled: st.OOMKilled, Dead: st.Status == containers.Dead, Pid: st.PID,
		ExitCode: st.ExitCode, Error: st.Error, StartedAt: st.StartedAt.Format(time.RFC3339Nano), FinishedAt: st.FinishedAt.Format(time.RFC3339Nano),
		Health: c.Health(),
	}
}
