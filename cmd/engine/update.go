package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/container"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/runspec"
)

func updateCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "update", Args: "[OPTIONS] CONTAINER [CONTAINER...]", Min: 1, Max: -1,
		Short:  "Update configuration of one or more containers",
		Also:   []string{"container update", "update"},
		Flags:  append(limitFlags(), stringFlag("restart", "", "Restart policy to apply when the container exits")),
		Action: s.update,
	}
}

func (s *session) update(ctx context.Context, c *cli.Context) error {
	if len(c.LocalFlagNames()) == 0 {
		return errors.New("you must provide one or more flags when using this command")
	}
	var parseErr error
	conf := container.UpdateConfig{Resources: runspec.Limits(c, func(err error) { parseErr = err })}
	policy, err := runspec.ParseRestartPolicy(c.String("restart"))
	if err := errors.Join(parseErr, err); err != nil {
		return err
	}
	conf.RestartPolicy = policy
	api, err := s.api()
	if err != nil {
		return err
	}
	return s.each(c.Args().Slice(), func(name string) error {
		resp, err := api.ContainerUpdate(ctx, name, conf)
		for _, w := range resp.Warnings {
			fmt.Fprintln(s.stderr, w)
		}
		return err
	})
}
