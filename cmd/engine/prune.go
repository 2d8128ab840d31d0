package main

import (
	"context"
	"fmt"
	"maps"
	"strings"

	units "github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
)

func pruneFlags(extra ...cliapp.Flag) []cliapp.Flag {
	return append([]cliapp.Flag{
		filterFlag("", `Provide filter values (e.g. "until=<timestamp>" or "label=<key>=<value>")`),
		boolFlag("force", "f", "Do not prompt for confirmation"),
	}, extra...)
}

// agreed asks for what has not been forced. No is not an error.
func (s *session) agreed(c *cli.Context, warning string) (bool, error) {
	if c.Bool("force") {
		return true, nil
	}
	return s.confirm("WARNING! " + warning + "\nAre you sure you want to continue?")
}

// pruner does the prune commands; its methods print what they removed and return what it freed.
type pruner struct {
	s   *session
	api *client.Client
}

func (p pruner) list(title string, names []string) {
	if len(names) > 0 {
		fmt.Fprintf(p.s.stdout, "%s:\n%s\n\n", title, strings.Join(names, "\n"))
	}
}

func (p pruner) containers(ctx context.Context, f client.Filters) (uint64, error) {
	r, err := p.api.ContainersPrune(ctx, f)
	p.list("Deleted Containers", r.ContainersDeleted)
	return r.SpaceReclaimed, err
}

func (p pruner) networks(ctx context.Context, f client.Filters) (uint64, error) {
	r, err := p.api.NetworksPrune(ctx, f)
	p.list("Deleted Networks", r.NetworksDeleted)
	return 0, err
}

func (p pruner) volumes(ctx context.Context, f client.Filters) (uint64, error) {
	r, err := p.api.VolumesPrune(ctx, f)
	p.list("Deleted Volumes", r.VolumesDeleted)
	return r.SpaceReclaimed, err
}

func (p pruner) images(ctx context.Context, f client.Filters, all bool) (uint64, error) {
	own := client.Filters{"dangling": {"true": true}}
	if all {
		own["dangling"] = map[string]bool{"false": true}
	}
	maps.Copy(own, f)
	r, err := p.api.ImagesPrune(ctx, own)
	var lines []string
	for _, d := range r.ImagesDeleted {
		if d.Untagged != "" {
			lines = append(lines, "untagged: "+d.Untagged)
		} else {
			lines = append(lines, "deleted: "+d.Deleted)
		}
	}
	p.list("Deleted Images", lines)
	return r.SpaceReclaimed, err
}

// prune runs one prune command.
func (s *session) prune(ctx context.Context, c *cli.Context, warning string, do func(context.Context, pruner, client.Filters) (uint64, error)) error {
	f, err := client.ParseFilters(c.StringSlice("filter"))
	if err != nil {
		return err
	}
	if ok, err := s.agreed(c, warning); !ok || err != nil {
		return err
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	freed, err := do(ctx, pruner{s, api}, f)
	if err != nil {
		return err
	}
	if !strings.Contains(warning, "networks") || strings.Contains(warning, "\n") {
		fmt.Fprintln(s.stdout, "Total reclaimed space:", units.HumanSize(float64(freed)))
	}
	return nil
}

func containerPruneCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "prune", Args: "[OPTIONS]", Short: "Remove all stopped containers", Flags: pruneFlags(),
		Action: func(ctx context.Context, c *cli.Context) error {
			return s.prune(ctx, c, "This will remove all stopped containers.", func(ctx context.Context, p pruner, f client.Filters) (uint64, error) {
				return p.containers(ctx, f)
			})
		},
	}
}

func networkPruneCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "prune", Args: "[OPTIONS]", Short: "Remove all unused networks", Flags: pruneFlags(),
		Action: func(ctx context.Context, c *cli.Context) error {
			return s.prune(ctx, c, "This will remove all custom networks not used by at least one container.", func(ctx context.Context, p pruner, f client.Filters) (uint64, error) {
				return p.networks(ctx, f)
			})
		},
	}
}

func imagePruneCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "prune", Args: "[OPTIONS]", Short: "Remove unused images",
		Flags: pruneFlags(boolFlag("all", "a", "Remove all unused images, not just dangling ones")),
		Action: func(ctx context.Context, c *cli.Context) error {
			warning := "This will remove all dangling images."
			if c.Bool("all") {
				warning = "This will remove all images without at least one container associated to them."
			}
			return s.prune(ctx, c, warning, func(ctx context.Context, p pruner, f client.Filters) (uint64, error) {
				return p.images(ctx, f, c.Bool("all"))
			})
		},
	}
}

func volumePruneCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "prune", Args: "[OPTIONS]", Short: "Remove unused local volumes",
		Flags:  pruneFlags(boolFlag("all", "a", "Remove all unused volumes, not just anonymous ones")),
		Action: s.volumePrune,
	}
}

func (s *session) volumePrune(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	// Before API 1.42 a prune takes named volumes too, and knows no way to say so.
	onlyAnonymous, err := api.AtLeast(ctx, "1.42")
	if err != nil {
		return err
	}
	if c.Bool("all") && !onlyAnonymous {
		v, _ := api.Version(ctx)
		return fmt.Errorf(`"--all" requires API version 1.42, but the daemon API version is %s`, v)
	}
	warning := "This will remove anonymous local volumes not used by at least one container."
	if c.Bool("all") || !onlyAnonymous {
		warning = "This will remove all local volumes not used by at least one container."
	}
	return s.prune(ctx, c, warning, func(ctx context.Context, p pruner, f client.Filters) (uint64, error) {
		if c.Bool("all") {
			f.Add("all", "true")
		}
		return p.volumes(ctx, f)
	})
}

func systemPruneCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "prune", Args: "[OPTIONS]", Short: "Remove unused data",
		Flags: pruneFlags(
			boolFlag("all", "a", "Remove all unused images not just dangling ones"),
			boolFlag("volumes", "", "Prune anonymous volumes"),
		),
		Action: s.systemPrune,
	}
}

func (s *session) systemPrune(ctx context.Context, c *cli.Context) error {
	all, volumes := c.Bool("all"), c.Bool("volumes")
	lines := []string{"all stopped containers", "all networks not used by at least one container"}
	if volumes {
		lines = append(lines, "all anonymous volumes not used by at least one container")
	}
	if all {
		lines = append(lines, "all images without at least one container associated to them")
	} else {
		lines = append(lines, "all dangling images")
	}
	warning := "This will remove:\n  - " + strings.Join(lines, "\n  - ") + "\n"
	return s.prune(ctx, c, warning, func(ctx context.Context, p pruner, f client.Filters) (uint64, error) {
		steps := []func() (uint64, error){
			func() (uint64, error) { return p.containers(ctx, f) },
			func() (uint64, error) { return p.networks(ctx, f) },
		}
		if volumes {
			steps = append(steps, func() (uint64, error) { return p.volumes(ctx, f) })
		}
		steps = append(steps, func() (uint64, error) { return p.images(ctx, f, all) })
		var freed uint64
		for _, step := range steps {
			n, err := step()
			if err != nil {
				return freed, err
			}
			freed += n
		}
		return freed, nil
	})
}
