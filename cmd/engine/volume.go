package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/volume"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/cliformat"
	"strata/pkg/runspec"
)

func volumeGroup(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "volume", Section: managementSection, Short: "Manage volumes",
		Commands: []cliapp.Command{
			volumeCreateCommand(s),
			inspectKind(s, "volume", "Display detailed information on one or more volumes"),
			volumeListCommand(s),
			volumePruneCommand(s),
			volumeRemoveCommand(s),
		},
	}
}

func volumeCreateCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "create", Args: "[OPTIONS] [VOLUME]", Max: 1,
		Short: "Create a volume",
		Flags: []cliapp.Flag{
			withDefault(stringFlag("driver", "d", "Specify volume driver name"), "local"),
			listFlag("label", "", "Set metadata for a volume"),
			withType(listFlag("opt", "o", "Set driver specific options (default map[])"), "map"),
		},
		Action: s.volumeCreate,
	}
}

func (s *session) volumeCreate(ctx context.Context, c *cli.Context) error {
	labels, err := runspec.Labels(nil, c.StringSlice("label"))
	if err != nil {
		return err
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	v, err := api.VolumeCreate(ctx, volume.CreateRequest{
		Name: c.Args().First(), Driver: c.String("driver"), DriverOpts: runspec.Pairs(c.StringSlice("opt")), Labels: labels,
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(s.stdout, v.Name)
	return nil
}

func volumeListCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "ls", Aliases: []string{"list"}, Args: "[OPTIONS]",
		Short: "List volumes",
		Also:  []string{"volume ls", "volume list"},
		Flags: []cliapp.Flag{
			filterFlag("f", `Provide filter values (e.g. "dangling=true")`),
			stringFlag("format", "", formatUsage),
			boolFlag("quiet", "q", "Only display volume names"),
		},
		Action: s.volumeList,
	}
}

// volumeRow is what a template of volume ls may name. The members of cluster volumes are there for
// templates that name them.
type volumeRow struct {
	Availability string
	Driver       string
	Group        string
	Labels       string
	Links        string
	Mountpoint   string
	Name         string
	Scope        string
	Size         string
	Status       string

	labels map[string]string
}

// Label is the value of one label.
func (r volumeRow) Label(name string) string { return r.labels[name] }

func volumeTable() cliformat.Table {
	return cliformat.Table{
		Columns: `{{.Driver}}\t{{.Name}}`,
		Quiet:   "{{.Name}}",
		Header: cliformat.Header{
			"Driver": "DRIVER", "Name": "VOLUME NAME", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS", "Links": "LINKS",
			"Size": "SIZE", "Group": "GROUP", "Availability": "AVAILABILITY", "Status": "STATUS",
		},
	}
}

func newVolumeRow(v volume.Volume) volumeRow {
	r := volumeRow{
		Availability: "N/A", Driver: v.Driver, Group: "N/A", Labels: labelText(v.Labels), Links: "N/A",
		Mountpoint: v.Mountpoint, Name: v.Name, Scope: v.Scope, Size: "N/A", Status: "N/A", labels: v.Labels,
	}
	if v.UsageData != nil {
		r.Links = strconv.FormatInt(v.UsageData.RefCount, 10)
		r.Size = units.HumanSize(float64(v.UsageData.Size))
	}
	return r
}

func (s *session) volumeList(ctx context.Context, c *cli.Context) error {
	f, err := client.ParseFilters(c.StringSlice("filter"))
	if err != nil {
		return err
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	list, err := api.VolumeList(ctx, f)
	if err != nil {
		return err
	}
	slices.SortFunc(list.Volumes, func(a, b volume.Volume) int { return strings.Compare(a.Name, b.Name) })
	rows := make([]volumeRow, len(list.Volumes))
	for i, v := range list.Volumes {
		rows[i] = newVolumeRow(v)
	}
	for _, w := range list.Warnings {
		fmt.Fprintf(s.stderr, "WARNING: %s\n", w)
	}
	t := volumeTable()
	return cliformat.Write(s.stdout, t, t.Choose(c.String("format"), s.conf().Formats.Volumes, c.Bool("quiet")), rows)
}

func volumeRemoveCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "rm", Aliases: []string{"remove"}, Args: "[OPTIONS] VOLUME [VOLUME...]", Min: 1, Max: -1,
		Short:  "Remove one or more volumes",
		Long:   "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
		Also:   []string{"volume rm", "volume remove"},
		Flags:  []cliapp.Flag{boolFlag("force", "f", "Force the removal of one or more volumes")},
		Action: s.volumeRemove,
	}
}

func (s *session) volumeRemove(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	return s.each(c.Args().Slice(), func(name string) error { return api.VolumeRemove(ctx, name, c.Bool("force")) })
}
