package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/cliformat"
)

func inspectCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "inspect", Args: "[OPTIONS] NAME|ID [NAME|ID...]", Min: 1, Max: -1,
		Short: "Return low-level information on objects of the engine",
		Flags: []cliapp.Flag{
			stringFlag("format", "f", inspectFormatUsage),
			boolFlag("size", "s", "Display total file sizes if the type is container"),
			stringFlag("type", "", "Only inspect objects of the given type"),
		},
		Action: s.inspectAny,
	}
}

// objectKinds are the kinds that inspect knows, in the order in which it tries them.
func objectKinds() []string { return []string{"container", "image", "network", "volume"} }

// elsewhereKinds belong to swarm and plugins, which the engine does not have.
func elsewhereKinds() []string {
	return []string{"config", "node", "plugin", "secret", "service", "task"}
}

func (s *session) inspectAny(ctx context.Context, c *cli.Context) error {
	kinds := objectKinds()
	if t := c.String("type"); c.IsSet("type") {
		switch {
		case slices.Contains(kinds, t):
			kinds = []string{t}
		case slices.Contains(elsewhereKinds(), t):
			return fmt.Errorf("inspect of type %q: %w", t, errdefs.ErrNotImplemented)
		default:
			known := append(objectKinds(), elsewhereKinds()...)
			slices.Sort(known)
			return fmt.Errorf(`unknown type: %q: must be one of "%s"`, t, strings.Join(known, `", "`))
		}
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	i := inspector{api: api, size: c.Bool("size")}
	return cliformat.Inspect(s.stdout, c.String("format"), c.Args().Slice(), func(name string) (cliformat.Element, error) {
		for _, kind := range kinds {
			e, err := i.get(ctx, kind, name)
			if err == nil || len(kinds) == 1 || !errors.Is(err, errdefs.ErrNotFound) {
				return e, err
			}
		}
		return cliformat.Element{}, fmt.Errorf("Error: No such object: %s", name) // docker's words
	})
}

// inspector looks up objects of each kind.
type inspector struct {
	api      *client.Client
	size     bool   // of containers
	verbose  bool   // networks
	platform string // of images
}

func (i inspector) get(ctx context.Context, kind, name string) (cliformat.Element, error) {
	var e cliformat.Element
	var err error
	switch kind {
	case "container":
		e.Typed, e.Raw, err = split(i.api.ContainerInspect(ctx, name, i.size))
	case "image":
		e.Typed, e.Raw, err = split(i.api.ImageInspect(ctx, name, i.platform))
	case "network":
		e.Typed, e.Raw, err = split(i.api.NetworkInspect(ctx, name, i.verbose))
	case "volume":
		e.Typed, e.Raw, err = split(i.api.VolumeInspect(ctx, name))
	}
	return e, err
}

// split makes an any of the first of three results.
func split[T any](typed T, raw []byte, err error) (any, []byte, error) { return typed, raw, err }

// inspectKind is "container inspect" and its like.
func inspectKind(s *session, kind, short string, extra ...cliapp.Flag) cliapp.Command {
	upper := strings.ToUpper(kind)
	return cliapp.Command{
		Name: "inspect", Args: fmt.Sprintf("[OPTIONS] %s [%s...]", upper, upper), Min: 1, Max: -1,
		Short: short,
		Flags: append([]cliapp.Flag{stringFlag("format", "f", inspectFormatUsage)}, extra...),
		Action: func(ctx context.Context, c *cli.Context) error {
			api, err := s.api()
			if err != nil {
				return err
			}
			i := inspector{api: api, size: c.Bool("size"), verbose: c.Bool("verbose"), platform: c.String("platform")}
			return cliformat.Inspect(s.stdout, c.String("format"), c.Args().Slice(), func(name string) (cliformat.Element, error) {
				return i.get(ctx, kind, name)
			})
		},
	}
}
