package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func killCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "kill", Args: "[OPTIONS] CONTAINER [CONTAINER...]", Min: 1, Max: -1,
		Short:  "Kill one or more running containers",
		Also:   []string{"container kill", "kill"},
		Flags:  []cliapp.Flag{stringFlag("signal", "s", "Signal to send to the container")},
		Action: s.kill,
	}
}

func (s *session) kill(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	return s.each(c.Args().Slice(), func(name string) error { return api.ContainerKill(ctx, name, c.String("signal")) })
}
