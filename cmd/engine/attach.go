package main

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/runspec"
)

func attachCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "attach", Args: "[OPTIONS] CONTAINER", Min: 1, Max: 1,
		Short: "Attach local standard input, output, and error streams to a running container",
		Also:  []string{"container attach", "attach"},
		Flags: []cliapp.Flag{
			stringFlag("detach-keys", "", "Key sequence that detaches from the container"),
			boolFlag("no-stdin", "", "Do not attach STDIN"),
			withDefault(boolFlag("sig-proxy", "", "Pass received signals on to the process"), "true"),
		},
		Action: s.attach,
	}
}

func (s *session) attach(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	name := c.Args().First()
	info, _, err := api.ContainerInspect(ctx, name, false)
	if err != nil {
		return err
	}
	if err := attachable(info.State); err != nil {
		return err
	}
	stdin := !c.Bool("no-stdin") && info.Config.OpenStdin
	if err := s.checkTTY(stdin, info.Config.Tty); err != nil {
		return err
	}
	r := running{s: s, api: api, id: info.ID, keys: s.detachKeys(c), stop: func() {}}
	r.spec = runspec.Spec{Config: info.Config, HostConfig: info.HostConfig}
	r.streams, err = s.attachStreams(ctx, api, info.ID, info.Config.Tty, client.AttachContainer{
		Stdin: stdin, Stdout: true, Stderr: true, DetachKeys: r.keys,
	})
	if err != nil {
		return err
	}
	if r.exited, err = api.ContainerWait(ctx, info.ID, container.WaitConditionNotRunning); err != nil {
		r.streams.close()
		return err
	}
	if c.Bool("sig-proxy") && !info.Config.Tty {
		r.stop = s.proxySignals(ctx, r.kill)
	}
	defer r.stop()
	if info.Config.Tty {
		resize := func(ctx context.Context, h, w uint) error { return api.ContainerResize(ctx, info.ID, h, w) }
		s.redraw(ctx, resize)
		defer s.followSize(ctx, resize)()
	}
	r.streams.begin(ctx)
	if err := r.streams.wait(ctx); err != nil {
		return err
	}
	return exitStatus(ctx, r.exited)
}

// redraw makes the program inside show itself: it is told of another size, and of the true one by
// followSize. Without it, who attaches for the second time sees an empty screen.
func (s *session) redraw(ctx context.Context, resize func(ctx context.Context, height, width uint) error) {
	h, w := s.terminalSize()
	if h == 0 && w == 0 {
		return
	}
	if err := resize(ctx, h+1, w+1); err != nil {
		s.debugf("resize terminal: %v", err)
	}
}

func attachable(st *container.State) error {
	switch {
	case st == nil || !st.Running:
		return errors.New("You cannot attach to a stopped container, start it first") //nolint:staticcheck // docker's words
	case st.Paused:
		return errors.New("You cannot attach to a paused container, unpause it first") //nolint:staticcheck // docker's words
	case st.Restarting:
		return errors.New("You cannot attach to a restarting container, wait until it is running") //nolint:staticcheck // docker's words
	}
	return nil
}
