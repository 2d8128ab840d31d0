package main

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
)

func importCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "import", Args: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]", Min: 1, Max: 2,
		Short: "Import the contents from a tarball to create a filesystem image",
		Also:  []string{"image import", "import"},
		Flags: []cliapp.Flag{
			listFlag("change", "c", "Apply Dockerfile instruction to the created image"),
			stringFlag("message", "m", "Set commit message for imported image"),
			stringFlag("platform", "", "Platform of the new image (os[/arch[/variant]])"),
		},
		Action: s.importImage,
	}
}

func (s *session) importImage(ctx context.Context, c *cli.Context) error {
	opts := client.ImportImage{Message: c.String("message"), Platform: c.String("platform"), Changes: c.StringSlice("change")}
	if name := c.Args().Get(1); name != "" {
		var err error
		if opts.Repository, opts.Tag, err = splitReference(name); err != nil {
			return err
		}
	}
	source := c.Args().First()
	var in io.Reader
	switch {
	case source == "-":
		in = s.stdin
	case strings.HasPrefix(source, "http://"), strings.HasPrefix(source, "https://"):
	default:
		f, err := os.Open(source)
		if err != nil {
			return err
		}
		defer f.Close()
		in, source = f, "-"
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	body, err := api.ImageImport(ctx, source, in, opts)
	if err != nil {
		return err
	}
	defer body.Close()
	return s.showProgress(ctx, body, s.stdout, nil)
}
