package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func saveCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "save", Args: "[OPTIONS] IMAGE [IMAGE...]", Min: 1, Max: -1,
		Short: "Save one or more images to a tar archive (streamed to STDOUT by default)",
		Also:  []string{"image save", "save"},
		Flags: []cliapp.Flag{
			stringFlag("output", "o", "Write to a file, instead of STDOUT"),
			stringFlag("platform", "", "Save only the image of a platform (os[/arch[/variant]])"),
		},
		Action: s.save,
	}
}

func (s *session) save(ctx context.Context, c *cli.Context) error {
	if err := s.checkArchiveOutput(c.String("output")); err != nil {
		return err
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	body, err := api.ImageSave(ctx, c.Args().Slice(), c.String("platform"))
	if err != nil {
		return err
	}
	return s.writeArchive(body, c.String("output"))
}
