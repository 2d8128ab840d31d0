package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
)

func commitCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "commit", Args: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]", Min: 1, Max: 2,
		Short: "Create a new image from a container's changes",
		Also:  []string{"container commit", "commit"},
		Flags: []cliapp.Flag{
			stringFlag("author", "a", `Author (e.g., "Jane Doe <jane@example.com>")`),
			listFlag("change", "c", "Apply Dockerfile instruction to the created image"),
			stringFlag("message", "m", "Commit message"),
			withDefault(boolFlag("pause", "p", "Pause container during commit"), "true"),
		},
		Action: s.commit,
	}
}

func (s *session) commit(ctx context.Context, c *cli.Context) error {
	opts := client.CommitContainer{
		Comment: c.String("message"), Author: c.String("author"), Changes: c.StringSlice("change"), Pause: c.Bool("pause"),
	}
	if ref := c.Args().Get(1); ref != "" {
		var err error
		if opts.Repository, opts.Tag, err = splitReference(ref); err != nil {
			return err
		}
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	id, err := api.ContainerCommit(ctx, c.Args().First(), opts)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.stdout, id)
	return nil
}
