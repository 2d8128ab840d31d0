package main

import (
	"context"
	"io"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func systemGroup(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "system", Section: managementSection, Short: "Manage the engine",
		Commands: []cliapp.Command{
			dfCommand(s),
			plain(doctorCommand(s)),
			plain(eventsCommand(s)),
			plain(infoCommand(s)),
			systemPruneCommand(s),
			{
				Name: "dial-stdio", Hidden: true, Short: "Connect stdin and stdout with the daemon (the far end of an ssh:// host)",
				Action: s.dialStdio,
			},
		},
	}
}

// plain takes a command out of its section of the tool's own list.
func plain(c cliapp.Command) cliapp.Command {
	c.Section = ""
	return c
}

// dialStdio joins our standard streams with a connection to the daemon. It returns at the end of
// what the daemon says; the end of our input is passed on as a half close.
func (s *session) dialStdio(ctx context.Context, _ *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	conn, err := api.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() { // ends with the process: a read of stdin cannot be interrupted
		_, _ = io.Copy(conn, s.stdin)
		if cw, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = cw.CloseWrite()
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_, err = io.Copy(s.stdout, conn)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
