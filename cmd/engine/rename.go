package main

import (
	"context"
	"errors"
	"fmt"
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
	if err := api.ContainerRename(ctx, from, to); err != nil {
		return fmt.Errorf("%w\nError: failed to rename container named %s", err, from)
	}
	return nil
}
