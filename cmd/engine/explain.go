package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"strata/pkg/api"
	"strata/pkg/cliapp"
	"strata/pkg/cliformat"
)

func explainCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "explain", Args: "[OPTIONS] CONTAINER", Min: 1, Max: 1,
		Short: "Show everything a container consists of, and where the time of its start went",
		Long: `Show everything a container consists of: its processes, namespaces, cgroups,
mounts, network objects and files, each with the layer that made it, and the steps of its last
start with their durations.`,
		Flags: []cliapp.Flag{
			stringFlag("format", "f", inspectFormatUsage),
			boolFlag("network", "", "Show only the network: interfaces, addresses, rules, ports, names, and what stands in the way"),
			boolFlag("no-trunc", "", "Don't truncate output"),
		},
		Action: s.explain,
	}
}

func (s *session) explain(ctx context.Context, c *cli.Context) error {
	cl, err := s.api()
	if err != nil {
		return err
	}
	e, err := cl.Explain(ctx, c.Args().First())
	if err != nil {
		return onlyEngined("explain", err)
	}
	if c.Bool("network") {
		e.Steps = nil
		e.Objects, _ = partition(e.Objects, ofNetwork)
	}
	if format := c.String("format"); format != "" {
		return s.template(format, e)
	}
	switch {
	case c.Bool("no-trunc"):
	case c.Bool("network"): // rules and remedies are to be copied
		e.Objects = shortObjects(e, math.MaxInt)
	default:
		e.Objects = shortObjects(e, maxDetail)
	}
	return printExplanation(s.stdout, e)
}

// maxDetail is how much of the detail of an object fits on a line of the report.
const maxDetail = 60

// shortObjects leaves most of the container's own id out of the paths that hold it.
func shortObjects(e api.Explanation, detail int) []api.Object {
	out := slices.Clone(e.Objects)
	for i := range out {
		if len(e.ID) > 12 {
			out[i].ID = strings.ReplaceAll(out[i].ID, e.ID, e.ID[:12]+"…")
			out[i].Detail = strings.ReplaceAll(out[i].Detail, e.ID, e.ID[:12]+"…")
		}
		out[i].Detail = cliformat.Ellipsis(out[i].Detail, detail)
	}
	return out
}

// onlyEngined names the reason why a route of ours is missing.
func onlyEngined(verb string, err error) error {
	if errors.Is(err, errdefs.ErrNotFound) && strings.Contains(err.Error(), "page not found") {
		return fmt.Errorf("%s: this daemon is not engined and does not know it: %w", verb, errdefs.ErrNotImplemented)
	}
	return err
}

// networkKinds are the kinds of objects that only the network has.
var networkKinds = []string{"parent", "bridge", "rule", "veth", "macvlan", "ipvlan", "endpoint", "address", "route", "port", "name", "obstacle"}

// ofNetwork reports whether an object is part of a container's network, its files included.
func ofNetwork(o api.Object) bool {
	kind := strings.ToLower(o.Kind)
	return kind == "netns" || slices.Contains(networkKinds, kind) || kind == "file" && (strings.Contains(o.Detail, "answers DNS") || strings.HasPrefix(o.Detail, "mounted on /etc/"))
}

// objectSections are the headings of the report, and the kinds of objects below each.
func objectSections() []struct {
	title string
	kinds []string
} {
	return []struct {
		title string
		kinds []string
	}{
		{"Processes", []string{"process", "shim"}},
		{"Namespaces", []string{"namespace", "netns", "userns"}},
		{"Cgroups", []string{"cgroup"}},
		{"Mounts", []string{"mount"}},
		{"Network", networkKinds},
		{"Files", []string{"file", "directory", "dir", "socket", "snapshot", "layer", "record", "log", "bundle", "volume", "lease"}},
	}
}

func printExplanation(out io.Writer, e api.Explanation) error {
	fmt.Fprintf(out, "Container %s (%s)\n", strings.TrimPrefix(e.Name, "/"), e.ID)
	left := e.Objects
	for _, sec := range objectSections() {
		var mine []api.Object
		mine, left = partition(left, func(o api.Object) bool { return slices.Contains(sec.kinds, strings.ToLower(o.Kind)) })
		if err := printObjects(out, sec.title, mine); err != nil {
			return err
		}
	}
	if err := printObjects(out, "Other", left); err != nil {
		return err
	}
	return printSteps(out, e.Steps)
}

func partition[T any](items []T, match func(T) bool) (yes, no []T) {
	for _, i := range items {
		if match(i) {
			yes = append(yes, i)
		} else {
			no = append(no, i)
		}
	}
	return yes, no
}

// printObjects lists objects by the layer that made them, from the outside in.
func printObjects(out io.Writer, title string, objects []api.Object) error {
	if len(objects) == 0 {
		return nil
	}
	objects = slices.Clone(objects)
	slices.SortStableFunc(objects, func(a, b api.Object) int { return cmp.Compare(layerDepth(a.Layer), layerDepth(b.Layer)) })
	fmt.Fprintf(out, "\n%s\n", title)
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	for _, o := range objects {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", o.Layer, o.Kind, o.ID, o.Detail)
	}
	return w.Flush()
}

func layerDepth(layer string) int {
	return slices.Index([]string{"engine", "engined", "supervisord", "shim", "ocirun"}, layer)
}

const chartWidth = 40

// printSteps draws the steps of the last start on one time axis.
func printSteps(out io.Writer, steps []api.Step) error {
	if len(steps) == 0 {
		return nil
	}
	steps = slices.Clone(steps)
	slices.SortStableFunc(steps, func(a, b api.Step) int { return a.Start.Compare(b.Start) })
	begin, end := steps[0].Start, steps[0].Start
	for _, st := range steps {
		if e := st.Start.Add(st.Duration); e.After(end) {
			end = e
		}
	}
	total := end.Sub(begin)
	fmt.Fprintf(out, "\nLast start: %s\n", roundDuration(total))
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	for _, st := range steps {
		fmt.Fprintf(w, "  %s\t%s\t+%s\t%s\t%s\n", st.Layer, st.Name, roundDuration(st.Start.Sub(begin)), roundDuration(st.Duration), chartBar(st.Start.Sub(begin), st.Duration, total))
	}
	return w.Flush()
}

// chartBar places a bar on an axis of chartWidth columns. Every step is seen, however short.
func chartBar(offset, length, total time.Duration) string {
	if total <= 0 {
		return ""
	}
	scale := func(d time.Duration) int { return int(int64(d) * chartWidth / int64(total)) }
	from := min(scale(offset), chartWidth-1)
	n := max(1, min(scale(length), chartWidth-from))
	return "|" + strings.Repeat(" ", from) + strings.Repeat("█", n) + strings.Repeat(" ", chartWidth-from-n) + "|"
}

func roundDuration(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
