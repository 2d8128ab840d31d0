package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func unpauseCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "unpause", Args: "CONTAINER [CONTAINER...]", Min: 1, Max: -1,
		Short:  "Unpause all processes within one or more containers",
		Also:   []string{"container unpause", "unpause"},
		Action: s.unpause,
	}
}

func (s *session) unpause(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	return s.each(c.Args().Slice(), func(name string) error { return api.ContainerUnpause(ctx, name) })
}
