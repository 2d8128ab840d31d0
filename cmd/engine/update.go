package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/urfave/cli/v2"

	"strata/pkg/api"
	"strata/pkg/cliapp"
	"strata/pkg/runspec"
)

func updateCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "update", Args: "[OPTIONS] CONTAINER [CONTAINER...]", Min: 1, Max: -1,
		Short: "Update configuration of one or more containers",
		Also:  []string{"container update", "update"},
		Flags: append(limitFlags(), stringFlag("restart", "", "Restart policy to apply when the container exits"),
			listFlag("publish-add", "", "Publish a port, at once if the container runs (Strata only)"),
			listFlag("publish-rm", "", "Withdraw a published port: [IP:]HOSTPORT[:CONTAINERPORT][/PROTOCOL] (Strata only)")),
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
	change, err := publishChange(c)
	if err != nil {
		return err
	}
	ports := c.IsSet("publish-add") || c.IsSet("publish-rm")
	others := slices.ContainsFunc(c.LocalFlagNames(), func(f string) bool { return f != "publish-add" && f != "publish-rm" })
	client, err := s.api()
	if err != nil {
		return err
	}
	return s.each(c.Args().Slice(), func(name string) error {
		if ports {
			if err := client.ContainerPublish(ctx, name, change); err != nil || !others {
				return err
			}
		}
		resp, err := client.ContainerUpdate(ctx, name, conf)
		for _, w := range resp.Warnings {
			fmt.Fprintln(s.stderr, w)
		}
		return err
	})
}

// publishChange reads --publish-add, which is what run's --publish is, and --publish-rm.
func publishChange(c *cli.Context) (api.PublishChange, error) {
	change := api.PublishChange{Remove: c.StringSlice("publish-rm")}
	ports, err := runspec.ParsePorts(c.StringSlice("publish-add"))
	if err != nil {
		return change, err
	}
	for port, bindings := range ports {
		for _, b := range bindings {
			p := api.PublishedPort{Proto: string(port.Proto()), ContainerPort: port.Num(), HostPort: b.HostPort}
			if b.HostIP.IsValid() {
				p.HostIP = b.HostIP.String()
			}
			change.Add = append(change.Add, p)
		}
	}
	return change, nil
}
