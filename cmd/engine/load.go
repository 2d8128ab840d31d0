package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func loadCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "load", Args: "[OPTIONS]",
		Short: "Load an image from a tar archive or STDIN",
		Also:  []string{"image load", "load"},
		Flags: []cliapp.Flag{
			stringFlag("input", "i", "Read from tar archive file, instead of STDIN"),
			stringFlag("platform", "", "Load only the image of a platform (os[/arch[/variant]])"),
			boolFlag("quiet", "q", "Suppress the load output"),
		},
		Action: s.load,
	}
}

func (s *session) load(ctx context.Context, c *cli.Context) error {
	var in io.Reader = s.stdin
	switch path := c.String("input"); {
	case path == "" || path == "-":
		if isTerminal(s.stdin) {
			return errors.New("requested load from stdin, but stdin is empty")
		}
	default:
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	quiet := c.Bool("quiet") || !isTerminal(s.stdout)
	body, err := api.ImageLoad(ctx, in, quiet, c.String("platform"))
	if err != nil {
		return fmt.Errorf("load images: %w", err)
	}
	defer body.Close()
	return s.showProgress(ctx, body, s.stdout, nil)
}
