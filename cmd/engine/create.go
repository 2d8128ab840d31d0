package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/runspec"
)

func createCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "create", Args: "[OPTIONS] IMAGE [COMMAND] [ARG...]", Min: 1, Max: -1, StopAtArg: true,
		Short:  "Create a new container",
		Also:   []string{"container create", "create"},
		Flags:  createFlags(),
		Action: s.createOnly,
	}
}

func (s *session) createOnly(ctx context.Context, c *cli.Context) error {
	spec, err := runspec.Parse(c, c.Args().First(), c.Args().Tail())
	if err != nil {
		return runError("create", err)
	}
	api, err := s.api()
	if err != nil {
		return runError("create", err)
	}
	if h, w := s.terminalSize(); spec.Config.Tty {
		spec.HostConfig.ConsoleSize = [2]uint{h, w}
	}
	id, err := s.create(ctx, api, c, spec)
	if err != nil {
		return runError("create", err)
	}
	fmt.Fprintln(s.stdout, id)
	return nil
}

// create makes the container, and pulls its image first if the options and the daemon say so.
func (s *session) create(ctx context.Context, api *client.Client, c *cli.Context, spec runspec.Spec) (string, error) {
	cid, err := openIDFile(c.String("cidfile"))
	if err != nil {
		return "", err
	}
	defer cid.abandon()
	spec.Config.Env = append(spec.Config.Env, s.proxyEnv(api.Host(), spec.Config.Env)...)
	pull := c.String("pull")
	image := spec.Config.Image
	fetch := func() error {
		return s.pullImage(ctx, api, image, pullOptions{platform: c.String("platform"), quiet: c.Bool("quiet"), progress: s.stderr})
	}
	if pull == "always" {
		if err := fetch(); err != nil {
			return "", err
		}
	}
	req := client.CreateContainer{
		Name: c.String("name"), Platform: c.String("platform"), Config: spec.Config,
		HostConfig: spec.HostConfig, Networking: spec.Networking, MacAddress: spec.MacAddress,
	}
	resp, err := api.ContainerCreate(ctx, req)
	if missingImage(err) && pull == "missing" {
		if !c.Bool("quiet") {
			fmt.Fprintf(s.stderr, "Unable to find image '%s' locally\n", withTag(image))
		}
		if err := fetch(); err != nil {
			return "", err
		}
		resp, err = api.ContainerCreate(ctx, req)
	}
	if err != nil {
		return "", err
	}
	for _, w := range resp.Warnings {
		fmt.Fprintf(s.stderr, "WARNING: %s\n", w)
	}
	return resp.ID, cid.write(resp.ID)
}

// missingImage tells a missing image from the other things that a create can miss.
func missingImage(err error) bool {
	return errors.Is(err, errdefs.ErrNotFound) && strings.Contains(strings.ToLower(err.Error()), "no such image")
}

// proxyEnv is what the configuration adds for proxies, except what the user has given.
func (s *session) proxyEnv(host string, env []string) []string {
	given := map[string]bool{}
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		given[name] = true
	}
	return s.conf().ProxyEnv(host, func(name string) bool { return given[name] })
}

// idFile is the file of --cidfile; nil is none.
type idFile struct {
	f       *os.File
	written bool
}

func openIDFile(path string) (*idFile, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("create the container ID file: %w", err)
	}
	return &idFile{f: f}, nil
}

func (i *idFile) write(id string) error {
	if i == nil {
		return nil
	}
	if _, err := i.f.WriteString(id); err != nil {
		return fmt.Errorf("write the container ID file: %w", err)
	}
	i.written = true
	return nil
}

// abandon closes the file, and removes it if nothing was written.
func (i *idFile) abandon() {
	if i == nil {
		return
	}
	_ = i.f.Close()
	if !i.written {
		_ = os.Remove(i.f.Name())
	}
}
