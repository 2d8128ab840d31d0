package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/cliformat"
	"strata/pkg/runspec"
)

func networkGroup(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "network", Section: managementSection, Short: "Manage networks",
		Commands: []cliapp.Command{
			networkConnectCommand(s),
			networkCreateCommand(s),
			networkDisconnectCommand(s),
			inspectKind(s, "network", "Display detailed information on one or more networks", boolFlag("verbose", "v", "Verbose output for diagnostics")),
			networkListCommand(s),
			networkPruneCommand(s),
			networkRemoveCommand(s),
		},
	}
}

func networkListCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "ls", Aliases: []string{"list"}, Args: "[OPTIONS]",
		Short: "List networks",
		Also:  []string{"network ls", "network list"},
		Flags: []cliapp.Flag{
			filterFlag("f", `Provide filter values (e.g. "driver=bridge")`),
			stringFlag("format", "", formatUsage),
			boolFlag("no-trunc", "", "Do not truncate the output"),
			boolFlag("quiet", "q", "Only display network IDs"),
		},
		Action: s.networkList,
	}
}

// networkRow is what a template of network ls may name.
type networkRow struct {
	CreatedAt string
	Driver    string
	ID        string
	IPv4      string
	IPv6      string
	Internal  string
	Labels    string
	Name      string
	Scope     string

	labels map[string]string
}

// Label is the value of one label.
func (r networkRow) Label(name string) string { return r.labels[name] }

func networkTable() cliformat.Table {
	return cliformat.Table{
		Columns: `{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}`,
		Quiet:   "{{.ID}}",
		Header: cliformat.Header{
			"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6",
			"Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT",
		},
	}
}

func newNetworkRow(n network.Summary, whole bool) networkRow {
	r := networkRow{
		CreatedAt: n.Created.String(), Driver: n.Driver, ID: n.ID, IPv4: strconv.FormatBool(n.EnableIPv4), IPv6: strconv.FormatBool(n.EnableIPv6),
		Internal: strconv.FormatBool(n.Internal), Labels: labelText(n.Labels), Name: n.Name, Scope: n.Scope, labels: n.Labels,
	}
	if !whole {
		r.ID = cliformat.ShortID(n.ID)
	}
	return r
}

func (s *session) networkList(ctx context.Context, c *cli.Context) error {
	f, err := client.ParseFilters(c.StringSlice("filter"))
	if err != nil {
		return err
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	list, err := api.NetworkList(ctx, f)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b network.Summary) int { return strings.Compare(a.Name, b.Name) })
	rows := make([]networkRow, len(list))
	for i, n := range list {
		rows[i] = newNetworkRow(n, c.Bool("no-trunc"))
	}
	t := networkTable()
	return cliformat.Write(s.stdout, t, t.Choose(c.String("format"), s.conf().Formats.Networks, c.Bool("quiet")), rows)
}

func networkCreateCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "create", Args: "[OPTIONS] NETWORK", Min: 1, Max: 1,
		Short: "Create a network",
		Flags: []cliapp.Flag{
			boolFlag("attachable", "", "Enable manual container attachment"),
			withType(withCheck(listFlag("aux-address", "", "Auxiliary IPv4 or IPv6 addresses used by the network driver (default map[])"), checkPair), "map"),
			stringFlag("config-from", "", "The network from which to copy the configuration"),
			boolFlag("config-only", "", "Create a configuration only network"),
			withDefault(stringFlag("driver", "d", "Driver to manage the network"), "bridge"),
			listFlag("gateway", "", "IPv4 or IPv6 gateway for the subnet"),
			boolFlag("ingress", "", "Create swarm routing-mesh network"),
			boolFlag("internal", "", "Restrict external access to the network"),
			listFlag("ip-range", "", "Allocate container addresses from a sub-range"),
			withDefault(stringFlag("ipam-driver", "", "IP address management driver"), "default"),
			withType(withCheck(listFlag("ipam-opt", "", "Set IPAM driver specific options (default map[])"), checkPair), "map"),
			withDefault(boolFlag("ipv4", "", "Enable or disable IPv4 address assignment"), "true"),
			boolFlag("ipv6", "", "Enable or disable IPv6 address assignment"),
			listFlag("label", "", "Set metadata on a network"),
			withType(listFlag("opt", "o", "Set driver specific options (default map[])"), "map"),
			stringFlag("scope", "", "Control the network's scope"),
			listFlag("subnet", "", "Subnet in CIDR format that represents a network segment"),
		},
		Action: s.networkCreate,
	}
}

func (s *session) networkCreate(ctx context.Context, c *cli.Context) error {
	ipam, err := ipamConfigs(commaList(c, "subnet"), commaList(c, "ip-range"), commaList(c, "gateway"), runspec.Pairs(c.StringSlice("aux-address")))
	if err != nil {
		return err
	}
	labels, err := runspec.Labels(nil, c.StringSlice("label"))
	if err != nil {
		return err
	}
	req := network.CreateRequest{
		Name: c.Args().First(), Driver: c.String("driver"), Scope: c.String("scope"), Internal: c.Bool("internal"),
		Attachable: c.Bool("attachable"), Ingress: c.Bool("ingress"), ConfigOnly: c.Bool("config-only"),
		Options: runspec.Pairs(c.StringSlice("opt")), Labels: labels,
		IPAM: &network.IPAM{Driver: c.String("ipam-driver"), Options: runspec.Pairs(c.StringSlice("ipam-opt")), Config: ipam},
	}
	if from := c.String("config-from"); from != "" {
		req.ConfigFrom = &network.ConfigReference{Network: from}
	}
	for name, dst := range map[string]**bool{"ipv4": &req.EnableIPv4, "ipv6": &req.EnableIPv6} {
		if c.IsSet(name) {
			v := c.Bool(name)
			*dst = &v
		}
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	resp, err := api.NetworkCreate(ctx, req)
	if err != nil {
		return err
	}
	if resp.Warning != "" {
		fmt.Fprintf(s.stderr, "WARNING: %s\n", resp.Warning)
	}
	fmt.Fprintln(s.stdout, resp.ID)
	return nil
}

// commaList reads a flag whose values may also be separated by commas.
func commaList(c *cli.Context, name string) []string {
	var out []string
	for _, v := range c.StringSlice(name) {
		out = append(out, strings.Split(v, ",")...)
	}
	return out
}

// ipamConfigs gives each subnet the range, the gateway and the reserved addresses that lie in it.
func ipamConfigs(subnets, ranges, gateways []string, aux map[string]string) ([]network.IPAMConfig, error) {
	if len(subnets) < len(ranges) || len(subnets) < len(gateways) {
		return nil, errors.New("every ip-range or gateway must have a corresponding subnet")
	}
	out := []network.IPAMConfig{}
	for _, s := range subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("invalid subnet %q: %w", s, errdefs.ErrInvalidArgument)
		}
		for _, have := range out {
			if have.Subnet.Overlaps(p) {
				return nil, errors.New("multiple overlapping subnet configuration is not supported")
			}
		}
		out = append(out, network.IPAMConfig{Subnet: p})
	}
	within := func(a netip.Addr) *network.IPAMConfig {
		for i := range out {
			if out[i].Subnet.Contains(a) {
				return &out[i]
			}
		}
		return nil
	}
	for _, s := range ranges {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("invalid ip-range %q: %w", s, errdefs.ErrInvalidArgument)
		}
		conf := within(p.Addr())
		if conf == nil {
			return nil, fmt.Errorf("no matching subnet for range %s", s)
		}
		conf.IPRange = p
	}
	for _, s := range gateways {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("invalid gateway %q: %w", s, errdefs.ErrInvalidArgument)
		}
		conf := within(a)
		if conf == nil {
			return nil, fmt.Errorf("no matching subnet for gateway %s", s)
		}
		conf.Gateway = a
	}
	for name, s := range aux {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("invalid aux-address %q: %w", s, errdefs.ErrInvalidArgument)
		}
		conf := within(a)
		if conf == nil {
			return nil, fmt.Errorf("no matching subnet for aux-address %s", s)
		}
		if conf.AuxAddress == nil {
			conf.AuxAddress = map[string]netip.Addr{}
		}
		conf.AuxAddress[name] = a
	}
	return out, nil
}

func networkConnectCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "connect", Args: "[OPTIONS] NETWORK CONTAINER", Min: 2, Max: 2,
		Short: "Connect a container to a network",
		Flags: []cliapp.Flag{
			listFlag("alias", "", "Add network-scoped alias for the container"),
			listFlag("driver-opt", "", "Driver options for the network"),
			intFlag("gw-priority", "", "Highest gw-priority provides the default gateway; may be negative"),
			stringFlag("ip", "", `IPv4 address (e.g., "172.30.100.104")`),
			stringFlag("ip6", "", `IPv6 address (e.g., "2001:db8::33")`),
			listFlag("link", "", "Add link to another container"),
			listFlag("link-local-ip", "", "Add a link-local address for the container"),
		},
		Action: s.networkConnect,
	}
}

func (s *session) networkConnect(ctx context.Context, c *cli.Context) error {
	ipam, err := runspec.EndpointIPAM(c.String("ip"), c.String("ip6"), commaList(c, "link-local-ip"))
	if err != nil {
		return err
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	return api.NetworkConnect(ctx, c.Args().First(), network.ConnectRequest{
		Container: c.Args().Get(1),
		EndpointConfig: &network.EndpointSettings{
			IPAMConfig: ipam, Links: c.StringSlice("link"), Aliases: commaList(c, "alias"),
			DriverOpts: runspec.Pairs(commaList(c, "driver-opt")), GwPriority: int(c.Int64("gw-priority")),
		},
	})
}

func networkDisconnectCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "disconnect", Args: "[OPTIONS] NETWORK CONTAINER", Min: 2, Max: 2,
		Short: "Disconnect a container from a network",
		Flags: []cliapp.Flag{boolFlag("force", "f", "Force the container to disconnect from a network")},
		Action: func(ctx context.Context, c *cli.Context) error {
			api, err := s.api()
			if err != nil {
				return err
			}
			return api.NetworkDisconnect(ctx, c.Args().Get(0), c.Args().Get(1), c.Bool("force"))
		},
	}
}

func networkRemoveCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "rm", Aliases: []string{"remove"}, Args: "NETWORK [NETWORK...]", Min: 1, Max: -1,
		Short:  "Remove one or more networks",
		Also:   []string{"network rm", "network remove"},
		Flags:  []cliapp.Flag{boolFlag("force", "f", "Do not error if the network does not exist")},
		Action: s.networkRemove,
	}
}

func (s *session) networkRemove(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	failed := false
	for _, name := range c.Args().Slice() {
		err := api.NetworkRemove(ctx, name)
		switch {
		case err == nil:
			fmt.Fprintln(s.stdout, name)
		case c.Bool("force") && errors.Is(err, errdefs.ErrNotFound):
		default:
			fmt.Fprintln(s.stderr, err)
			failed = true
		}
	}
	if failed {
		return &cliapp.ExitError{Status: 1}
	}
	return nil
}
