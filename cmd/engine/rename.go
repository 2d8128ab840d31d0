package main

import (
	"context"
	"errors"
	"strings"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func renameCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "rename", Args: "CONTAINER NEW_NAME", Min: 2, Max: 2,
		Short:  "Rename a container",
		Also:   []string{"container rename", "rename"},
		Action: s.rename,
	}
}

func (s *session) rename(ctx context.Context, c *cli.Context) error {
	from, to := strings.TrimSpace(c.Args().Get(0)), strings.TrimSpace(c.Args().Get(1))
	if from == "" || to == "" {
		return errors.New("neither old nor new names may be empty")
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	return api.ContainerRename(ctx, from, to)
}
