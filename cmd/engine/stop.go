package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
)

func stopFlags() []cliapp.Flag {
	return []cliapp.Flag{
		stringFlag("signal", "s", "Signal to send to the container"),
		intFlag("timeout", "t", "Seconds to wait before killing the container (-1 waits for ever)"),
		alias("time", intFlag("timeout", "", "")),
	}
}

func stopCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "stop", Args: "[OPTIONS] CONTAINER [CONTAINER...]", Min: 1, Max: -1,
		Short:  "Stop one or more running containers",
		Also:   []string{"container stop", "stop"},
		Flags:  stopFlags(),
		Action: s.stop,
	}
}

func (s *session) stop(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	opts := stopOptions(c)
	return s.each(c.Args().Slice(), func(name string) error { return api.ContainerStop(ctx, name, opts) })
}

func stopOptions(c *cli.Context) client.StopContainer {
	opts := client.StopContainer{Signal: c.String("signal")}
	if c.IsSet("timeout") {
		t := int(c.Int64("timeout"))
		opts.Timeout = &t
	}
	return opts
}
