package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func diffCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "diff", Args: "CONTAINER", Min: 1, Max: 1,
		Short:  "Inspect changes to files or directories on a container's filesystem",
		Also:   []string{"container diff", "diff"},
		Action: s.diff,
	}
}

func (s *session) diff(ctx context.Context, c *cli.Context) error {
	if c.Args().First() == "" {
		return errors.New("Container name cannot be empty") //nolint:staticcheck // docker's words
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	changes, err := api.ContainerDiff(ctx, c.Args().First())
	if err != nil {
		return err
	}
	for _, ch := range changes {
		fmt.Fprintf(s.stdout, "%s %s\n", ch.Kind, ch.Path)
	}
	return nil
}
