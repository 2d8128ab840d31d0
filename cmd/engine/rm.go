package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
)

func rmCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "rm", Aliases: []string{"remove"}, Args: "[OPTIONS] CONTAINER [CONTAINER...]", Min: 1, Max: -1,
		Short: "Remove one or more containers",
		Also:  []string{"container rm", "container remove", "rm"},
		Flags: []cliapp.Flag{
			boolFlag("force", "f", "Force the removal of a running container (uses SIGKILL)"),
			boolFlag("link", "l", "Remove the specified link"),
			boolFlag("volumes", "v", "Remove anonymous volumes associated with the container"),
		},
		Action: s.rm,
	}
}

func (s *session) rm(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	opts := client.RemoveContainer{Force: c.Bool("force"), Volumes: c.Bool("volumes"), Link: c.Bool("link")}
	return s.each(c.Args().Slice(), func(name string) error {
		trimmed := strings.Trim(name, "/")
		if trimmed == "" {
			return errors.New("container name cannot be empty")
		}
		err := api.ContainerRemove(ctx, trimmed, opts)
		if opts.Force && errors.Is(err, errdefs.ErrNotFound) {
			// With -f, what is not there is removed; docker says so and does not fail.
			fmt.Fprintln(s.stderr, err)
			return errNothingDone
		}
		return err
	})
}
