package main

import (
	"context"
	"fmt"
	"io"

	"github.com/moby/moby/api/types/registry"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/dockerconfig"
	"strata/pkg/imageref"
	"strata/pkg/progress"
	"strata/pkg/term"
)

func pullCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "pull", Args: "[OPTIONS] NAME[:TAG|@DIGEST]", Min: 1, Max: 1,
		Short: "Download an image from a registry",
		Also:  []string{"image pull", "pull"},
		Flags: []cliapp.Flag{
			boolFlag("all-tags", "a", "Download all tagged images in the repository"),
			hidden(withDefault(boolFlag("disable-content-trust", "", "Skip image verification"), "true")),
			stringFlag("platform", "", "Platform of the image, if it has several"),
			boolFlag("quiet", "q", "Suppress verbose output"),
		},
		Action: s.pull,
	}
}

func (s *session) pull(ctx context.Context, c *cli.Context) error {
	named, err := imageref.Parse(c.Args().First())
	if err != nil {
		return err
	}
	if c.Bool("all-tags") && !named.Bare() {
		return fmt.Errorf("tag can't be used with --all-tags/-a")
	}
	if !c.Bool("all-tags") && named.Bare() {
		named = named.Tagged()
		if !c.Bool("quiet") {
			fmt.Fprintf(s.stdout, "Using default tag: %s\n", named.Tag)
		}
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	opts := pullOptions{platform: c.String("platform"), quiet: c.Bool("quiet"), all: c.Bool("all-tags"), progress: s.stdout}
	if err := s.pullImage(ctx, api, c.Args().First(), opts); err != nil {
		return err
	}
	fmt.Fprintln(s.stdout, named.String())
	return nil
}

type pullOptions struct {
	platform string
	quiet    bool
	all      bool // tags
	progress io.Writer
}

// pullImage fetches an image and shows how far it is.
func (s *session) pullImage(ctx context.Context, api *client.Client, name string, opts pullOptions) error {
	named, err := imageref.Parse(name)
	if err != nil {
		return err
	}
	auth, err := s.registryAuth(ctx, credentialServer(named))
	if err != nil {
		return err
	}
	tag := ""
	if !opts.all {
		if tag = named.Digest; tag == "" {
			tag = named.Tagged().Tag
		}
	}
	body, err := api.ImagePull(ctx, named.Familiar(), tag, opts.platform, auth)
	if err != nil {
		return err
	}
	defer body.Close()
	out := opts.progress
	if opts.quiet {
		out = io.Discard
	}
	return s.showProgress(ctx, body, out, nil)
}

// showProgress prints a progress stream; an interrupted one ends with the interruption.
func (s *session) showProgress(ctx context.Context, body io.Reader, out io.Writer, opts *progress.Options) error {
	o := progress.Options{}
	if opts != nil {
		o = *opts
	}
	if isTerminal(out) {
		_, w := term.Size(s.stdoutFile())
		o.Terminal, o.Width = true, int(w)
	}
	err := progress.Show(body, out, o)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// registryAuth is the X-Registry-Auth header for a registry.
func (s *session) registryAuth(ctx context.Context, server string) (string, error) {
	cred, err := s.conf().Credential(ctx, server)
	if err != nil {
		return "", err
	}
	return client.EncodeAuth(authConfig(cred))
}

func authConfig(c dockerconfig.Credential) registry.AuthConfig {
	return registry.AuthConfig{
		Username: c.Username, Password: c.Password, ServerAddress: c.Server,
		IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
	}
}
