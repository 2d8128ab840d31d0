package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/imageref"
	"strata/pkg/progress"
)

func pushCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "push", Args: "[OPTIONS] NAME[:TAG]", Min: 1, Max: 1,
		Short: "Upload an image to a registry",
		Also:  []string{"image push", "push"},
		Flags: []cliapp.Flag{
			boolFlag("all-tags", "a", "Push all tags of an image to the repository"),
			hidden(withDefault(boolFlag("disable-content-trust", "", "Skip image signing"), "true")),
			stringFlag("platform", "", "Push only the manifest of a platform (os[/arch[/variant]])"),
			boolFlag("quiet", "q", "Suppress verbose output"),
		},
		Action: s.push,
	}
}

func (s *session) push(ctx context.Context, c *cli.Context) error {
	named, err := imageref.Parse(c.Args().First())
	if err != nil {
		return err
	}
	tag := ""
	switch {
	case c.Bool("all-tags"):
		if !named.Bare() {
			return errors.New("tag can't be used with --all-tags/-a")
		}
	default:
		if named.Bare() {
			named = named.Tagged()
			if !c.Bool("quiet") {
				fmt.Fprintln(s.stdout, "Using default tag: latest")
			}
		}
		if named.Tag == "" {
			return errors.New("cannot push a digest reference")
		}
		tag = named.Tag
	}
	auth, err := s.registryAuth(ctx, credentialServer(named))
	if err != nil {
		return err
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	body, err := api.ImagePush(ctx, named.Familiar(), tag, c.String("platform"), auth)
	if err != nil {
		return err
	}
	defer body.Close()
	out := s.stdout
	if c.Bool("quiet") {
		out = io.Discard
	}
	if err := s.showProgress(ctx, body, out, &progress.Options{Aux: func(json.RawMessage) {}}); err != nil {
		return err
	}
	if c.Bool("quiet") {
		fmt.Fprintln(s.stdout, named.String())
	}
	return nil
}
