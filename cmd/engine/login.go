package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/dockerconfig"
	"strata/pkg/term"
)

func loginCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "login", Args: "[OPTIONS] [SERVER]", Max: 1, Section: commonSection,
		Short: "Authenticate to a registry",
		Long:  "Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
		Flags: []cliapp.Flag{
			stringFlag("password", "p", "Password or personal access token"),
			boolFlag("password-stdin", "", "Take the password or personal access token from stdin"),
			stringFlag("username", "u", "Username"),
		},
		Action: s.login,
	}
}

func (s *session) login(ctx context.Context, c *cli.Context) error {
	cred := dockerconfig.Credential{Server: serverKey(c.Args().First()), Username: c.String("username"), Password: c.String("password")}
	switch {
	case c.IsSet("password") && c.Bool("password-stdin"):
		return errors.New("conflicting options: cannot specify both --password and --password-stdin")
	case c.IsSet("password"):
		fmt.Fprintln(s.stderr, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	case c.Bool("password-stdin"):
		if cred.Username == "" {
			return errors.New("the --password-stdin option requires --username to be set")
		}
		data, err := io.ReadAll(io.LimitReader(s.stdin, 1<<20))
		if err != nil {
			return fmt.Errorf("read password: %w", err)
		}
		cred.Password = strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	}
	if cred.Username == "" && cred.Password == "" {
		known, err := s.conf().Credential(ctx, cred.Server)
		if err == nil && !known.Empty() {
			fmt.Fprintln(s.stdout, "Authenticating with existing credentials...")
			err := s.authenticate(ctx, known)
			if err == nil || !errors.Is(err, errdefs.ErrUnauthenticated) {
				return err
			}
			fmt.Fprintln(s.stderr, "Login did not succeed, error:", err)
		}
	}
	if err := s.promptCredential(&cred); err != nil {
		return err
	}
	return s.authenticate(ctx, cred)
}

// serverKey is the name under which the credential of a registry is kept.
func serverKey(arg string) string {
	host := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(arg, "https://"), "http://"), "/")
	switch host {
	case "", "docker.io", "index.docker.io", "registry-1.docker.io", "index.docker.io/v1":
		return dockerconfig.HubServer
	}
	host, _, _ = strings.Cut(host, "/")
	return host
}

func (s *session) promptCredential(cred *dockerconfig.Credential) error {
	if cred.Username != "" && cred.Password != "" {
		return nil
	}
	if !term.IsTerminal(s.stdin) {
		return errors.New("Error: Cannot perform an interactive login from a non TTY device") // docker's words
	}
	if cred.Username == "" {
		fmt.Fprint(s.stdout, "Username: ")
		line, err := bufio.NewReader(s.stdin).ReadString('\n')
		if err != nil {
			return fmt.Errorf("read username: %w", err)
		}
		if cred.Username = strings.TrimSpace(line); cred.Username == "" {
			return errors.New("username is required")
		}
	}
	if cred.Password == "" {
		fmt.Fprint(s.stdout, "Password: ")
		password, err := term.ReadPassword(s.stdin)
		fmt.Fprintln(s.stdout)
		if err != nil {
			return fmt.Errorf("read password: %w", err)
		}
		if cred.Password = password; password == "" {
			return errors.New("password is required")
		}
	}
	return nil
}

func (s *session) authenticate(ctx context.Context, cred dockerconfig.Credential) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	resp, err := api.Login(ctx, authConfig(cred))
	if err != nil {
		return err
	}
	if resp.IdentityToken != "" {
		cred.Password, cred.IdentityToken = "", resp.IdentityToken
	}
	plain, err := s.conf().Store(ctx, cred)
	if err != nil {
		return fmt.Errorf("save credential: %w", err)
	}
	if plain {
		fmt.Fprintf(s.stderr, "WARNING! Your credentials are stored unencrypted in '%s/config.json'.\n"+
			"Configure a credential helper (credsStore) to keep them elsewhere.\n", s.global.dir)
	}
	if resp.Status != "" {
		fmt.Fprintln(s.stdout, resp.Status)
	}
	return nil
}
