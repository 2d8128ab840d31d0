package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	units "github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
)

func builderGroup(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "builder", Section: managementSection, Short: "Manage builds",
		Commands: []cliapp.Command{plain(buildCommand(s)), builderDiskUsageCommand(s), builderPruneCommand(s), builderHistoryCommand(s)},
	}
}

func builderDiskUsageCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "du", Args: "[OPTIONS]", Short: "Show the disk usage of the build cache",
		Flags:  []cliapp.Flag{boolFlag("verbose", "", "Show what each record was made by")},
		Action: s.builderDiskUsage,
	}
}

func (s *session) builderDiskUsage(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	list, err := api.BuildUsage(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(s.stdout, 10, 1, 3, ' ', 0)
	fmt.Fprintln(w, "ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED\tDESCRIPTION")
	var total, free int64
	for _, r := range list {
		total += r.Size
		if !r.InUse && !r.Shared {
			free += r.Size
		}
		used := "never"
		if r.LastUsedAt != nil {
			used = units.HumanDuration(time.Since(*r.LastUsedAt)) + " ago"
		}
		text := strings.ReplaceAll(r.Description, "\n", " ")
		if runes := []rune(text); len(runes) > 60 && !c.Bool("verbose") {
			text = string(runes[:59]) + "…"
		}
		fmt.Fprintf(w, "%s\t%t\t%s\t%s\t%s\n", r.ID, !r.InUse, units.HumanSize(float64(r.Size)), used, text)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.stdout, "Reclaimable:\t%s\nTotal:\t\t%s\n", units.HumanSize(float64(free)), units.HumanSize(float64(total)))
	return err
}

func builderPruneCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "prune", Args: "[OPTIONS]", Short: "Remove build cache",
		Flags: []cliapp.Flag{
			boolFlag("all", "a", "Remove all unused build cache, not just dangling ones"),
			filterFlag("", `Provide filter values (e.g. "until=24h")`),
			boolFlag("force", "f", "Do not prompt for confirmation"),
			stringFlag("max-used-space", "", "Maximum amount of disk space allowed to keep for cache"),
			stringFlag("min-free-space", "", "Target amount of free disk space after pruning"),
			stringFlag("reserved-space", "", "Amount of disk space always allowed to keep for cache"),
			{Name: "keep-storage", Kind: cliapp.String, Hidden: true, AliasOf: "reserved-space"},
		},
		Action: s.builderPrune,
	}
}

func (s *session) builderPrune(ctx context.Context, c *cli.Context) error {
	warning := "This will remove all dangling build cache."
	if c.Bool("all") {
		warning = "This will remove all build cache."
	}
	if ok, err := s.agreed(c, warning); !ok || err != nil {
		return err
	}
	f, err := client.ParseFilters(c.StringSlice("filter"))
	if err != nil {
		return err
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	r, err := api.BuildPrune(ctx, client.BuildPruneOptions{
		All: c.Bool("all"), Filters: f, ReservedSpace: c.String("reserved-space"), MaxUsedSpace: c.String("max-used-space"), MinFreeSpace: c.String("min-free-space"),
	})
	if err != nil {
		return err
	}
	for _, id := range r.CachesDeleted {
		fmt.Fprintln(s.stdout, id)
	}
	_, err = fmt.Fprintf(s.stdout, "Total reclaimed space: %s\n", units.HumanSize(float64(r.SpaceReclaimed)))
	return err
}
