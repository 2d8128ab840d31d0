package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/cliformat"
)

func psFlags() []cliapp.Flag {
	return []cliapp.Flag{
		boolFlag("all", "a", "Show all containers (default shows just running)"),
		filterFlag("f", "Filter output based on conditions provided"),
		stringFlag("format", "", formatUsage),
		withDefault(intFlag("last", "n", "Show n last created containers (includes all states)"), "-1"),
		boolFlag("latest", "l", "Show the latest created container (includes all states)"),
		boolFlag("no-trunc", "", "Don't truncate output"),
		boolFlag("quiet", "q", "Only display container IDs"),
		boolFlag("size", "s", "Display total file sizes"),
	}
}

func psCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "ps", Args: "[OPTIONS]", Max: 0,
		Short:  "List containers",
		Also:   []string{"container ls", "container list", "container ps", "ps"},
		Flags:  psFlags(),
		Action: s.ps,
	}
}

const createdLayout = "2006-01-02 15:04:05 -0700 MST"

func containerTable(size bool) cliformat.Table {
	t := cliformat.Table{
		Columns: `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}`,
		Quiet:   "{{.ID}}",
		Header: cliformat.Header{
			"ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
			"Status": "STATUS", "Ports": "PORTS", "Names": "NAMES", "Size": "SIZE", "State": "STATE", "Labels": "LABELS",
			"Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM",
		},
	}
	if size {
		t.Columns += `\t{{.Size}}`
	}
	return t
}

func (s *session) ps(ctx context.Context, c *cli.Context) error {
	f, err := client.ParseFilters(c.StringSlice("filter"))
	if err != nil {
		return err
	}
	custom := c.String("format")
	if c.Bool("quiet") && custom != "" {
		fmt.Fprintln(s.stderr, "WARNING: Ignoring custom format, because both --format and --quiet are set.")
		custom = ""
	}
	t := containerTable(c.Bool("size"))
	format := t.Choose(custom, s.conf().Formats.Ps, c.Bool("quiet"))
	opts := client.ListContainers{
		All: c.Bool("all"), Limit: int(c.Int64("last")), Filters: f,
		// A template that shows the size asks for it, although it is dear.
		Size: c.Bool("size") || strings.Contains(format, ".Size"),
	}
	if c.Bool("latest") && !c.IsSet("last") {
		opts.Limit = 1
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	list, err := api.ContainerList(ctx, opts)
	if err != nil {
		return err
	}
	rows := make([]containerRow, len(list))
	for i, ctr := range list {
		rows[i] = newContainerRow(ctr, c.Bool("no-trunc"), time.Now())
	}
	return cliformat.Write(s.stdout, t, format, rows)
}

// containerRow is what a template of ps may name.
type containerRow struct {
	Command      string
	CreatedAt    string
	ID           string
	Image        string
	Labels       string
	LocalVolumes string
	Mounts       string
	Names        string
	Networks     string
	Platform     *platform
	Ports        string
	RunningFor   string
	Size         string
	State        string
	Status       string

	labels map[string]string
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

func (p *platform) String() string {
	if p == nil {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Label is the value of one label.
func (r containerRow) Label(name string) string { return r.labels[name] }

func newContainerRow(c container.Summary, whole bool, now time.Time) containerRow {
	created := time.Unix(c.Created, 0)
	r := containerRow{
		Command:      strconv.Quote(c.Command),
		CreatedAt:    created.Format(createdLayout),
		ID:           c.ID,
		Image:        orDefault(c.Image, "<no image>"),
		Labels:       labelText(c.Labels),
		LocalVolumes: strconv.Itoa(localVolumes(c.Mounts)),
		Mounts:       mountText(c.Mounts, whole),
		Names:        containerNames(c.Names, whole),
		Networks:     networkNames(c),
		Ports:        portText(c.Ports),
		RunningFor:   units.HumanDuration(now.Sub(created)) + " ago",
		Size:         containerSize(c.SizeRw, c.SizeRootFs),
		State:        string(c.State),
		Status:       c.Status,
		labels:       c.Labels,
	}
	if d := c.ImageManifestDescriptor; d != nil && d.Platform != nil {
		r.Platform = &platform{OS: d.Platform.OS, Architecture: d.Platform.Architecture, Variant: d.Platform.Variant}
	}
	if !whole {
		r.ID = cliformat.ShortID(c.ID)
		r.Command = strconv.Quote(cliformat.Ellipsis(c.Command, 20))
		if name, digest, ok := strings.Cut(r.Image, "@"); ok && strings.Contains(digest, ":") {
			r.Image = name
		} else if trimmed := cliformat.ShortID(c.ImageID); c.Image != "" && strings.TrimPrefix(c.Image, "sha256:") == strings.TrimPrefix(c.ImageID, "sha256:") {
			r.Image = trimmed
		}
	}
	return r
}

func labelText(labels map[string]string) string {
	parts := make([]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, k+"="+labels[k])
	}
	return strings.Join(parts, ",")
}

func localVolumes(mounts []container.MountPoint) int {
	n := 0
	for _, m := range mounts {
		if m.Driver == "local" {
			n++
		}
	}
	return n
}

func mountText(mounts []container.MountPoint, whole bool) string {
	var parts []string
	for _, m := range mounts {
		name := m.Name
		if name == "" || m.Type != "" && m.Type != mount.TypeVolume {
			name = orDefault(m.Name, m.Source)
		}
		if !whole {
			name = cliformat.Ellipsis(name, 15)
		}
		parts = append(parts, name)
	}
	return strings.Join(parts, ",")
}

// containerNames leaves out the names that links give a container ("/other/alias").
func containerNames(names []string, whole bool) string {
	var out []string
	for _, n := range names {
		n = strings.TrimPrefix(n, "/")
		if whole || !strings.Contains(n, "/") {
			out = append(out, n)
		}
	}
	return strings.Join(out, ",")
}

func networkNames(c container.Summary) string {
	if c.NetworkSettings == nil {
		return ""
	}
	return strings.Join(slices.Sorted(maps.Keys(c.NetworkSettings.Networks)), ",")
}

func containerSize(rw, virtual int64) string {
	size := units.HumanSizeWithPrecision(float64(rw), 3)
	if virtual > 0 {
		size += fmt.Sprintf(" (virtual %s)", units.HumanSizeWithPrecision(float64(virtual), 3))
	}
	return size
}
