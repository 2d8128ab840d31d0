package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/runspec"
)

func execCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "exec", Args: "[OPTIONS] CONTAINER COMMAND [ARG...]", Min: 2, Max: -1, StopAtArg: true,
		Short: "Execute a command in a running container",
		Also:  []string{"container exec", "exec"},
		Flags: []cliapp.Flag{
			boolFlag("detach", "d", "Detached mode: run command in the background"),
			stringFlag("detach-keys", "", "Key sequence that detaches from the command"),
			listFlag("env", "e", "Set environment variables"),
			listFlag("env-file", "", "Read environment variables from a file"),
			boolFlag("interactive", "i", "Keep STDIN open even if not attached"),
			boolFlag("privileged", "", "Give extended privileges to the command"),
			boolFlag("tty", "t", "Allocate a pseudo-TTY"),
			stringFlag("user", "u", `Name or UID to run as (format: "<name|uid>[:<group|gid>]")`),
			stringFlag("workdir", "w", "Working directory inside the container"),
		},
		Action: s.exec,
	}
}

func (s *session) exec(ctx context.Context, c *cli.Context) error {
	env, err := runspec.Environment(c.StringSlice("env-file"), c.StringSlice("env"))
	if err != nil {
		return err
	}
	detach, tty := c.Bool("detach"), c.Bool("tty")
	req := container.ExecCreateRequest{
		User: c.String("user"), Privileged: c.Bool("privileged"), Tty: tty, Env: env,
		WorkingDir: c.String("workdir"), Cmd: c.Args().Tail(), DetachKeys: s.detachKeys(c),
	}
	if !detach {
		req.AttachStdout, req.AttachStderr, req.AttachStdin = true, true, c.Bool("interactive")
		if err := s.checkTTY(req.AttachStdin, tty); err != nil {
			return err
		}
	}
	if tty {
		if h, w := s.terminalSize(); h != 0 {
			req.ConsoleSize = &[2]uint{h, w}
		}
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	id, err := api.ExecCreate(ctx, c.Args().First(), req)
	if err != nil {
		return err
	}
	if id == "" {
		return errors.New("exec ID empty")
	}
	if detach {
		return api.ExecStartDetached(ctx, id, tty)
	}
	return s.execAttached(ctx, api, id, req)
}

func (s *session) execAttached(ctx context.Context, api *client.Client, execID string, req container.ExecCreateRequest) error {
	conn, err := api.ExecStart(ctx, execID, container.ExecStartRequest{Tty: req.Tty, ConsoleSize: req.ConsoleSize})
	if err != nil {
		return err
	}
	st, err := s.newStreams(conn, req.Tty, req.AttachStdin, req.DetachKeys)
	if err != nil {
		return err
	}
	st.begin(ctx)
	if req.Tty {
		defer s.followSize(ctx, func(ctx context.Context, h, w uint) error { return api.ExecResize(ctx, execID, h, w) })()
	}
	if err := st.wait(ctx); err != nil {
		return err
	}
	return execStatus(ctx, api, execID)
}

// A daemon may close the streams of a command a moment before it knows that it has ended. A
// command may also close them itself and run on: then its status is not waited for.
const (
	execStatusFirst = 2 * time.Millisecond
	execStatusWait  = 2 * time.Second
)

func execStatus(ctx context.Context, api *client.Client, execID string) error {
	for wait, waited := execStatusFirst, time.Duration(0); ; wait, waited = 2*wait, waited+wait {
		info, err := api.ExecInspect(ctx, execID)
		switch {
		case err != nil:
			return fmt.Errorf("exit status of the command: %w", err)
		case info.ExitCode != nil && *info.ExitCode != 0:
			return &cliapp.ExitError{Status: *info.ExitCode}
		case !info.Running || waited >= execStatusWait:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}
