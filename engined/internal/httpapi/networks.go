package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"strata/engined/internal/filters"
	"strata/engined/internal/networks"
)

// connector changes the networks of containers, running or not.
type connector interface {
	Connect(ctx context.Context, ref, networkRef string, ep *network.EndpointSettings) error
	Disconnect(ctx context.Context, ref, networkRef string) error
}

// networksAPI serves /networks.
type networksAPI struct {
	svc        *networks.Manager
	containers connector
}

func (a networksAPI) routes() []route {
	return []route{
		{http.MethodGet, "/networks", a.list},
		{http.MethodGet, "/networks/", a.list},
		{http.MethodPost, "/networks/create", a.create},
		{http.MethodPost, "/networks/prune", a.prune},
		{http.MethodPost, "/networks/{id...}/connect", a.connect},
		{http.MethodPost, "/networks/{id...}/disconnect", a.disconnect},
		{http.MethodGet, "/networks/{id...}", a.inspect},
		{http.MethodDelete, "/networks/{id...}", a.remove},
	}
}

// toNetwork turns a definition into the API's. Maps and lists are never null.
func toNetwork(n networks.Network) network.Network {
	out := network.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: n.Driver, EnableIPv4: n.EnableIPv4, EnableIPv6: n.EnableIPv6,
		IPAM:     network.IPAM{Driver: n.IPAM.Driver, Options: n.IPAM.Options, Config: []network.IPAMConfig{}},
		Internal: n.Internal, Attachable: n.Attachable, ConfigOnly: n.ConfigOnly, ConfigFrom: network.ConfigReference{Network: n.ConfigFrom},
		Options: notNil(n.Options), Labels: notNil(n.Labels),
	}
	for _, p := range n.IPAM.Pools {
		out.IPAM.Config = append(out.IPAM.Config, network.IPAMConfig{Subnet: p.Subnet, IPRange: p.Range, Gateway: p.Gateway, AuxAddress: p.Aux})
	}
	return out
}

func notNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// inspection adds the endpoints to a network, as docker prints them.
func (a networksAPI) inspection(n networks.Network) network.Inspect {
	out := network.Inspect{Network: toNetwork(n), Containers: map[string]network.EndpointResource{}}
	for _, at := range a.svc.Attached(n.ID) {
		out.Containers[at.ContainerID] = network.EndpointResource{
			Name: at.ContainerName, EndpointID: at.Endpoint.ID, MacAddress: network.HardwareAddr(at.Endpoint.MAC),
			IPv4Address: at.Endpoint.IPv4, IPv6Address: at.Endpoint.IPv6,
		}
	}
	return out
}

func (a networksAPI) list(w http.ResponseWriter, r *request) error {
	f, err := filters.Parse(r.Query("filters"), "dangling", "driver", "id", "label", "name", "scope", "type")
	if err != nil {
		return err
	}
	dangling, err := f.Bool("dangling", false)
	if err != nil {
		return err
	}
	for _, t := range f["type"] {
		if t != "builtin" && t != "custom" {
			return invalid("invalid filter: 'type'='%s'", t)
		}
	}
	out := []network.Inspect{}
	for _, n := range a.svc.Networks() {
		if f.Has("dangling") && (n.Predefined() || len(a.svc.Attached(n.ID)) > 0) == dangling {
			continue
		}
		if matchNetwork(f, n) {
			one := a.inspection(n)
			if r.AtLeast("1.28") {
				one.Containers = map[string]network.EndpointResource{} // inspect tells them
			}
			out = append(out, one)
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func matchNetwork(f filters.Args, n networks.Network) bool {
	kind := "custom"
	if n.Predefined() {
		kind = "builtin"
	}
	return f.Exact("driver", n.Driver) && f.Match("id", n.ID) && f.Match("name", n.Name) && f.Exact("scope", "local") && f.Exact("type", kind) && f.Labels(n.Labels)
}

func (a networksAPI) inspect(w http.ResponseWriter, r *request) error {
	n, err := a.svc.Network(r.Var("id"))
	if err != nil {
		return err
	}
	if scope := r.Query("scope"); scope != "" && scope != "local" {
		return fmt.Errorf("network %s not found: %w", r.Var("id"), errdefs.ErrNotFound)
	}
	return writeJSON(w, http.StatusOK, a.inspection(n))
}

func (a networksAPI) create(w http.ResponseWriter, r *request) error {
	var body network.CreateRequest
	if err := r.Decode(&body); err != nil {
		if errors.Is(err, io.EOF) {
			return invalid("invalid JSON: got EOF while reading request body")
		}
		return err
	}
	req, err := createNetwork(body)
	if err != nil {
		return err
	}
	n, warning, err := a.svc.Create(r.Context(), req)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, network.CreateResponse{ID: n.ID, Warning: warning})
}

func createNetwork(body network.CreateRequest) (networks.CreateRequest, error) {
	req := networks.CreateRequest{
		Name: body.Name, Driver: body.Driver, EnableIPv4: body.EnableIPv4, EnableIPv6: body.EnableIPv6, Internal: body.Internal,
		Attachable: body.Attachable, ConfigOnly: body.ConfigOnly, Options: body.Options, Labels: body.Labels,
	}
	if body.Ingress || body.Scope != "" && body.Scope != "local" {
		return req, fmt.Errorf("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.: %w", errdefs.ErrUnavailable) //nolint:staticcheck // dockerd's words
	}
	if body.ConfigFrom != nil {
		req.ConfigFrom = body.ConfigFrom.Network
	}
	if body.IPAM == nil {
		return req, nil
	}
	req.IPAM.Driver, req.IPAM.Options = body.IPAM.Driver, maps.Clone(body.IPAM.Options)
	for _, c := range body.IPAM.Config {
		if !c.Subnet.IsValid() && (c.Gateway.IsValid() || c.IPRange.IsValid() || len(c.AuxAddress) > 0) {
			return req, invalid("invalid network config: gateway, ip-range and auxiliary addresses need a subnet")
		}
		req.IPAM.Pools = append(req.IPAM.Pools, networks.Pool{Subnet: c.Subnet, Range: c.IPRange, Gateway: c.Gateway, Aux: maps.Clone(c.AuxAddress)})
	}
	return req, nil
}

func (a networksAPI) remove(w http.ResponseWriter, r *request) error {
	return noContent(w, a.svc.Remove(r.Context(), r.Var("id")))
}

func (a networksAPI) connect(w http.ResponseWriter, r *request) error {
	var body network.ConnectRequest
	if err := r.Decode(&body); err != nil {
		return emptyBody(err)
	}
	if err := checkEndpoint(body.EndpointConfig); err != nil {
		return err
	}
	if err := a.containers.Connect(r.Context(), body.Container, r.Var("id"), body.EndpointConfig); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// checkEndpoint refuses addresses of the wrong family.
func checkEndpoint(ep *network.EndpointSettings) error {
	if ep == nil || ep.IPAMConfig == nil {
		return nil
	}
	for _, a := range []struct {
		addr  netip.Addr
		right bool
		name  string
	}{{ep.IPAMConfig.IPv4Address, ep.IPAMConfig.IPv4Address.Is4(), "IPv4"}, {ep.IPAMConfig.IPv6Address, ep.IPAMConfig.IPv6Address.Is6(), "IPv6"}} {
		if a.addr.IsValid() && !a.right {
			return invalid("invalid endpoint settings:\ninvalid %s address: %s", a.name, a.addr)
		}
	}
	return nil
}

func (a networksAPI) disconnect(w http.ResponseWriter, r *request) error {
	var body network.DisconnectRequest
	if err := r.Decode(&body); err != nil {
		return emptyBody(err)
	}
	err := a.containers.Disconnect(r.Context(), body.Container, r.Var("id"))
	if err != nil && !(body.Force && errdefs.IsNotFound(err)) {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (a networksAPI) prune(w http.ResponseWriter, r *request) error {
	f, err := filters.Parse(r.Query("filters"), pruneFilters...)
	if err != nil {
		return err
	}
	until, err := untilFilter(f)
	if err != nil {
		return err
	}
	names, err := a.svc.Prune(r.Context(), func(n networks.Network) bool {
		return f.Labels(n.Labels) && (until.IsZero() || n.Created.Before(until))
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, network.PruneReport{NetworksDeleted: slices.Clip(names)})
}
