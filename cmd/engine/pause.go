package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func pauseCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "pause", Args: "CONTAINER [CONTAINER...]", Min: 1, Max: -1,
		Short:  "Pause all processes within one or more containers",
		Also:   []string{"container pause", "pause"},
		Action: s.pause,
	}
}

func (s *session) pause(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	return s.each(c.Args().Slice(), func(name string) error { return api.ContainerPause(ctx, name) })
}
