package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func tagCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "tag", Args: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", Min: 2, Max: 2,
		Short:  "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
		Also:   []string{"image tag", "tag"},
		Action: s.tag,
	}
}

func (s *session) tag(ctx context.Context, c *cli.Context) error {
	repository, tag, err := splitReference(c.Args().Get(1))
	if err != nil {
		return err
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	return api.ImageTag(ctx, c.Args().First(), repository, orDefault(tag, "latest"))
}
