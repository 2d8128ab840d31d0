package main

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/runspec"
	"strata/pkg/term"
)

func startCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "start", Args: "[OPTIONS] CONTAINER [CONTAINER...]", Min: 1, Max: -1,
		Short: "Start one or more stopped containers",
		Also:  []string{"container start", "start"},
		Flags: []cliapp.Flag{
			boolFlag("attach", "a", "Attach STDOUT/STDERR and forward signals"),
			stringFlag("detach-keys", "", "Key sequence that detaches from the container"),
			boolFlag("interactive", "i", "Attach container's STDIN"),
		},
		Action: s.start,
	}
}

func (s *session) start(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	names := c.Args().Slice()
	if !c.Bool("attach") && !c.Bool("interactive") {
		return s.startAll(ctx, api, names)
	}
	if len(names) > 1 {
		return errors.New("you cannot start and attach multiple containers at once")
	}
	return s.startAttached(ctx, api, c, names[0])
}

// startAll starts containers one after the other, because one may need the one before it.
func (s *session) startAll(ctx context.Context, api *client.Client, names []string) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, s.each([]string{name}, func(name string) error { return api.ContainerStart(ctx, name, "") }))
	}
	if err := errors.Join(errs...); err != nil {
		return cliapp.Exit(1, "%v\nError: failed to start containers: %s", err, failedNames(names, errs))
	}
	return nil
}

func failedNames(names []string, errs []error) string {
	var out string
	for i, name := range names {
		if errs[i] == nil {
			continue
		}
		if out != "" {
			out += ", "
		}
		out += name
	}
	return out
}

func (s *session) startAttached(ctx context.Context, api *client.Client, c *cli.Context, name string) error {
	info, _, err := api.ContainerInspect(ctx, name, false)
	if err != nil {
		return err
	}
	stdin := c.Bool("interactive") && info.Config.OpenStdin
	r := running{s: s, api: api, id: info.ID, keys: s.detachKeys(c), stop: func() {}}
	r.spec = runspec.Spec{Config: info.Config, HostConfig: info.HostConfig}
	r.streams, err = s.attachStreams(ctx, api, info.ID, info.Config.Tty, client.AttachContainer{
		Stdin: stdin, Stdout: true, Stderr: true, DetachKeys: r.keys,
	})
	if err != nil {
		return err
	}
	cond := container.WaitConditionNextExit
	if info.HostConfig.AutoRemove {
		cond = container.WaitConditionRemoved
	}
	if r.exited, err = api.ContainerWait(ctx, info.ID, cond); err != nil {
		r.streams.close()
		return err
	}
	if !info.Config.Tty {
		r.stop = s.proxySignals(ctx, r.kill)
	}
	defer r.stop()
	r.streams.begin(ctx)
	if err := api.ContainerStart(ctx, info.ID, r.keys); err != nil {
		r.streams.close()
		return err
	}
	if info.Config.Tty {
		defer s.followSize(ctx, func(ctx context.Context, h, w uint) error { return api.ContainerResize(ctx, info.ID, h, w) })()
	}
	if err := r.streams.wait(ctx); err != nil {
		if errors.Is(err, term.ErrDetached) {
			return nil
		}
		return err
	}
	return exitStatus(ctx, r.exited)
}
