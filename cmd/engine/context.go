package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/cliformat"
	"strata/pkg/dockerconfig"
)

func contextGroup(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "context", Section: managementSection, Short: "Manage contexts",
		Commands: []cliapp.Command{
			contextCreateCommand(s),
			{
				Name: "inspect", Args: "[OPTIONS] [CONTEXT] [CONTEXT...]", Max: -1, Short: "Display detailed information on one or more contexts",
				Flags: []cliapp.Flag{stringFlag("format", "f", inspectFormatUsage)}, Action: s.contextInspect,
			},
			{
				Name: "ls", Aliases: []string{"list"}, Args: "[OPTIONS]", Short: "List contexts", Also: []string{"context ls", "context list"},
				Flags: []cliapp.Flag{stringFlag("format", "", formatUsage), boolFlag("quiet", "q", "Only show context names")}, Action: s.contextList,
			},
			{
				Name: "rm", Aliases: []string{"remove"}, Args: "CONTEXT [CONTEXT...]", Min: 1, Max: -1, Short: "Remove one or more contexts",
				Also:  []string{"context rm", "context remove"},
				Flags: []cliapp.Flag{boolFlag("force", "f", "Force the removal of a context in use")}, Action: s.contextRemove,
			},
			{Name: "show", Short: "Print the name of the current context", Action: s.contextShow},
			{Name: "use", Args: "CONTEXT", Min: 1, Max: 1, Short: "Set the current context", Action: s.contextUse},
		},
	}
}

func contextCreateCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "create", Args: "[OPTIONS] CONTEXT", Min: 1, Max: 1,
		Short: "Create a context",
		Long: `Create a context

The endpoint is a list of name=value, separated by commas:

from                Copy the endpoint of the named context
host                Daemon to connect to
ca                  Trust certificates signed only by this CA
cert                TLS certificate file
key                 TLS key file
skip-tls-verify     Do not check the certificate of the daemon`,
		Flags: []cliapp.Flag{
			stringFlag("description", "", "Description of the context"),
			withType(listFlag("docker", "", "Set the endpoint (default [])"), "stringToString"),
			stringFlag("from", "", "Create the context from a named context"),
		},
		Action: s.contextCreate,
	}
}

func (s *session) contextCreate(_ context.Context, c *cli.Context) error {
	name := c.Args().First()
	if err := dockerconfig.ValidContextName(name); err != nil {
		return err
	}
	store := s.contexts()
	if _, err := store.Get(name); !errors.Is(err, errdefs.ErrNotFound) {
		if err == nil {
			err = fmt.Errorf("context %q already exists", name)
		}
		return err
	}
	opts, err := contextOptions(c)
	if err != nil {
		return err
	}
	var e dockerconfig.Endpoint
	var files dockerconfig.TLSFiles
	description := c.String("description")
	from := orDefault(c.String("from"), opts["from"])
	if from != "" {
		if e, files, err = s.copyEndpoint(from); err != nil {
			return err
		}
	}
	if err := endpointOptions(opts, &e, &files); err != nil {
		return err
	}
	if err := store.Put(dockerconfig.NewContext(name, description, e), files); err != nil {
		return err
	}
	fmt.Fprintln(s.stdout, name)
	fmt.Fprintf(s.stderr, "Successfully created context %q\n", name)
	return nil
}

func contextOptions(c *cli.Context) (map[string]string, error) {
	if !c.IsSet("docker") && c.String("from") == "" {
		return nil, errors.New("docker endpoint configuration is required: give --docker host=… or --from CONTEXT")
	}
	opts := map[string]string{}
	for _, item := range commaList(c, "docker") {
		k, v, ok := strings.Cut(item, "=")
		if !ok {
			return nil, fmt.Errorf("%s must be formatted as key=value", item)
		}
		switch k {
		case "from", "host", "ca", "cert", "key", "skip-tls-verify":
			opts[k] = v
		default:
			return nil, fmt.Errorf("unrecognized config key: %s", k)
		}
	}
	return opts, nil
}

// copyEndpoint takes over what another context says; "default" is what holds now.
func (s *session) copyEndpoint(from string) (dockerconfig.Endpoint, dockerconfig.TLSFiles, error) {
	var files dockerconfig.TLSFiles
	if from == dockerconfig.DefaultContext {
		host, err := normaliseHost(s.defaultHost(), false)
		return dockerconfig.Endpoint{Host: host}, files, err
	}
	c, err := s.contexts().Get(from)
	if err != nil {
		return dockerconfig.Endpoint{}, files, err
	}
	dir := s.contexts().TLSDir(from) + "/docker/"
	for _, f := range s.contexts().TLSFileNames(from) {
		data, err := os.ReadFile(dir + f)
		if err != nil {
			return dockerconfig.Endpoint{}, files, err
		}
		switch f {
		case "ca.pem":
			files.CA = data
		case "cert.pem":
			files.Cert = data
		case "key.pem":
			files.Key = data
		}
	}
	return c.Endpoint(), files, nil
}

func endpointOptions(opts map[string]string, e *dockerconfig.Endpoint, files *dockerconfig.TLSFiles) error {
	for name, dst := range map[string]*[]byte{"ca": &files.CA, "cert": &files.Cert, "key": &files.Key} {
		if path := opts[name]; path != "" {
			data, err := os.ReadFile(path)
			if err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
			*dst = data
		}
	}
	if v, ok := opts["skip-tls-verify"]; ok {
		skip, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("invalid value for skip-tls-verify: %q", v)
		}
		e.SkipTLSVerify = skip
	}
	if h := opts["host"]; h != "" {
		host, err := normaliseHost(h, len(files.CA) > 0 || len(files.Cert) > 0)
		if err != nil {
			return err
		}
		e.Host = host
	}
	return nil
}

// contextRow is what a template of context ls may name.
type contextRow struct {
	Current        bool
	Description    string
	DockerEndpoint string
	Error          string
	Name           string
}

// NameMarked is the name with a star after the current one.
func (r contextRow) NameMarked() string {
	if r.Current {
		return r.Name + " *"
	}
	return r.Name
}

func (s *session) contextList(_ context.Context, c *cli.Context) error {
	current := s.contextName()
	list, err := s.contexts().List()
	if err != nil {
		return err
	}
	host, err := normaliseHost(s.defaultHost(), s.global.tls || s.global.verify)
	row := contextRow{Name: dockerconfig.DefaultContext, Description: "Daemon of -H, STRATA_HOST or DOCKER_HOST, or the local one", DockerEndpoint: host}
	if err != nil {
		row.Error = err.Error()
	}
	rows := []contextRow{row}
	for _, ctx := range list {
		rows = append(rows, contextRow{Name: ctx.Name, Description: ctx.Description(), DockerEndpoint: ctx.Host()})
	}
	known := false
	for i := range rows {
		rows[i].Current = rows[i].Name == current
		known = known || rows[i].Current
	}
	if !known {
		rows = append(rows, contextRow{Name: current, Current: true, Error: "context not found"})
	}
	t := cliformat.Table{
		Columns: `{{.NameMarked}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}`,
		Quiet:   "{{.Name}}",
		Header: cliformat.Header{
			"NameMarked": "NAME", "Name": "NAME", "Description": "DESCRIPTION", "DockerEndpoint": "DOCKER ENDPOINT", "Error": "ERROR", "Current": "CURRENT",
		},
	}
	if err := cliformat.Write(s.stdout, t, t.Choose(c.String("format"), "", c.Bool("quiet")), rows); err != nil {
		return err
	}
	if environmentHost() != "" && s.global.context == "" && len(s.global.hosts) == 0 {
		fmt.Fprintln(s.stderr, "Warning: STRATA_HOST or DOCKER_HOST overrides the current context. To use a context, give --context or unset the variable.")
	}
	return nil
}

func (s *session) contextShow(context.Context, *cli.Context) error {
	fmt.Fprintln(s.stdout, s.contextName())
	return nil
}

func (s *session) contextUse(_ context.Context, c *cli.Context) error {
	name := c.Args().First()
	if name != dockerconfig.DefaultContext {
		if _, err := s.contexts().Get(name); err != nil {
			return err
		}
	}
	if err := s.conf().SetCurrentContext(name); err != nil {
		return err
	}
	fmt.Fprintln(s.stdout, name)
	fmt.Fprintf(s.stderr, "Current context is now %q\n", name)
	if name != dockerconfig.DefaultContext && environmentHost() != "" {
		fmt.Fprintf(s.stderr, "Warning: STRATA_HOST or DOCKER_HOST overrides the current context. To use %q, give --context or unset the variable.\n", name)
	}
	return nil
}

func (s *session) contextRemove(_ context.Context, c *cli.Context) error {
	return s.each(c.Args().Slice(), func(name string) error {
		if name == dockerconfig.DefaultContext {
			return fmt.Errorf(`context %q cannot be removed`, name)
		}
		inUse := name == s.conf().CurrentContext
		if inUse && !c.Bool("force") {
			return fmt.Errorf("context %q is in use, set -f flag to force remove", name)
		}
		if err := s.contexts().Remove(name); err != nil {
			if c.Bool("force") && errors.Is(err, errdefs.ErrNotFound) {
				return nil
			}
			return err
		}
		if inUse {
			return s.conf().SetCurrentContext(dockerconfig.DefaultContext)
		}
		return nil
	})
}

// contextView is what context inspect prints.
type contextView struct {
	Name        string
	Metadata    map[string]any
	Endpoints   map[string]dockerconfig.Endpoint
	TLSMaterial map[string][]string
	Storage     struct{ MetadataPath, TLSPath string }
}

func (s *session) contextInspect(_ context.Context, c *cli.Context) error {
	names := c.Args().Slice()
	if len(names) == 0 {
		names = []string{s.contextName()}
	}
	return cliformat.Inspect(s.stdout, c.String("format"), names, func(name string) (cliformat.Element, error) {
		v, err := s.viewContext(name)
		if err != nil {
			return cliformat.Element{}, err
		}
		raw, err := json.Marshal(v)
		return cliformat.Element{Typed: v, Raw: raw}, err
	})
}

func (s *session) viewContext(name string) (contextView, error) {
	v := contextView{Name: name, Metadata: map[string]any{}, TLSMaterial: map[string][]string{}}
	if name == dockerconfig.DefaultContext {
		host, err := normaliseHost(s.defaultHost(), s.global.tls || s.global.verify)
		v.Endpoints = map[string]dockerconfig.Endpoint{"docker": {Host: host}}
		v.Storage.MetadataPath, v.Storage.TLSPath = "<IN MEMORY>", "<IN MEMORY>"
		return v, err
	}
	store := s.contexts()
	ctx, err := store.Get(name)
	if err != nil {
		return v, err
	}
	v.Metadata, v.Endpoints = ctx.Metadata, ctx.Endpoints
	if files := store.TLSFileNames(name); len(files) > 0 {
		v.TLSMaterial["docker"] = files
	}
	v.Storage.MetadataPath, v.Storage.TLSPath = store.MetaDir(name), store.TLSDir(name)
	return v, nil
}
