package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/dockerconfig"
)

func logoutCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "logout", Args: "[SERVER]", Max: 1, Section: commonSection,
		Short:  "Log out from a registry",
		Long:   "Log out from a registry.\nDefaults to Docker Hub if no server is specified.",
		Action: s.logout,
	}
}

func (s *session) logout(ctx context.Context, c *cli.Context) error {
	server := serverKey(c.Args().First())
	if server == dockerconfig.HubServer {
		fmt.Fprintln(s.stdout, "Removing login credentials for", server)
	} else {
		fmt.Fprintln(s.stdout, "Removing login credentials for", c.Args().First())
	}
	if _, err := s.conf().Erase(ctx, server); err != nil {
		return fmt.Errorf("erase credential: %w", err)
	}
	return nil
}
