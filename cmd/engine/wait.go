package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func waitCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "wait", Args: "CONTAINER [CONTAINER...]", Min: 1, Max: -1,
		Short:  "Block until one or more containers stop, then print their exit codes",
		Also:   []string{"container wait", "wait"},
		Action: s.wait,
	}
}

func (s *session) wait(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range c.Args().Slice() {
		exited, err := api.ContainerWait(ctx, name, "")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if res := <-exited; res.Err != nil {
			errs = append(errs, res.Err)
		} else {
			fmt.Fprintln(s.stdout, res.StatusCode)
		}
	}
	return errors.Join(errs...)
}
