package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func restartCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "restart", Args: "[OPTIONS] CONTAINER [CONTAINER...]", Min: 1, Max: -1,
		Short:  "Restart one or more containers",
		Also:   []string{"container restart", "restart"},
		Flags:  stopFlags(),
		Action: s.restart,
	}
}

func (s *session) restart(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	opts := stopOptions(c)
	return s.each(c.Args().Slice(), func(name string) error { return api.ContainerRestart(ctx, name, opts) })
}
