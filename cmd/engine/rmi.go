package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func rmiCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "rmi", Args: "[OPTIONS] IMAGE [IMAGE...]", Min: 1, Max: -1,
		Short: "Remove one or more images",
		Also:  []string{"image rm", "image remove", "rmi"},
		Flags: []cliapp.Flag{
			boolFlag("force", "f", "Force removal of the image"),
			boolFlag("no-prune", "", "Do not delete untagged parents"),
		},
		Action: s.rmi,
	}
}

func (s *session) rmi(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	var errs []error
	fatal := false
	for _, name := range c.Args().Slice() {
		deleted, err := api.ImageRemove(ctx, name, c.Bool("force"), c.Bool("no-prune"))
		if err != nil {
			fatal = fatal || !errors.Is(err, errdefs.ErrNotFound)
			errs = append(errs, err)
			continue
		}
		for _, d := range deleted {
			if d.Deleted != "" {
				fmt.Fprintln(s.stdout, "Deleted:", d.Deleted)
			} else {
				fmt.Fprintln(s.stdout, "Untagged:", d.Untagged)
			}
		}
	}
	err = errors.Join(errs...)
	if err != nil && c.Bool("force") && !fatal {
		fmt.Fprintln(s.stderr, err)
		return nil
	}
	return err
}
