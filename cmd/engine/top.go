package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func topCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "top", Args: "CONTAINER [ps OPTIONS]", Min: 1, Max: -1, StopAtArg: true,
		Short:  "Display the running processes of a container",
		Also:   []string{"container top", "top"},
		Action: s.top,
	}
}

func (s *session) top(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	procs, err := api.ContainerTop(ctx, c.Args().First(), c.Args().Tail())
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(s.stdout, 20, 1, 3, ' ', 0)
	fmt.Fprintln(w, strings.Join(procs.Titles, "\t"))
	for _, p := range procs.Processes {
		fmt.Fprintln(w, strings.Join(p, "\t"))
	}
	return w.Flush()
}
