package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func portCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "port", Args: "CONTAINER [PRIVATE_PORT[/PROTO]]", Min: 1, Max: 2,
		Short:  "List port mappings or a specific mapping for the container",
		Also:   []string{"container port", "port"},
		Action: s.port,
	}
}

func (s *session) port(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	info, _, err := api.ContainerInspect(ctx, c.Args().First(), false)
	if err != nil {
		return err
	}
	var ports network.PortMap
	if info.NetworkSettings != nil {
		ports = info.NetworkSettings.Ports
	}
	if want := c.Args().Get(1); want != "" {
		return s.onePort(c.Args().First(), ports, want)
	}
	var lines []string
	for port, bindings := range ports {
		for _, b := range bindings {
			lines = append(lines, fmt.Sprintf("%s -> %s", port, hostAddress(b)))
		}
	}
	slices.SortFunc(lines, comparePortLines)
	for _, l := range lines {
		fmt.Fprintln(s.stdout, l)
	}
	return nil
}

// comparePortLines sorts by the number in front, then by text.
func comparePortLines(a, b string) int {
	var na, nb int
	_, _ = fmt.Sscanf(a, "%d", &na)
	_, _ = fmt.Sscanf(b, "%d", &nb)
	if na != nb {
		return na - nb
	}
	return strings.Compare(a, b)
}

func (s *session) onePort(name string, ports network.PortMap, want string) error {
	port, err := network.ParsePort(want)
	if err != nil {
		return err
	}
	bindings := ports[port]
	if len(bindings) == 0 {
		return fmt.Errorf("Error: No public port '%s' published for %s", want, name) // docker's words
	}
	for _, b := range bindings {
		fmt.Fprintln(s.stdout, hostAddress(b))
	}
	return nil
}

func hostAddress(b network.PortBinding) string {
	ip := "0.0.0.0"
	if b.HostIP.IsValid() {
		ip = b.HostIP.String()
	}
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	return ip + ":" + b.HostPort
}
