package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/system"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/cliformat"
)

func dfCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "df", Args: "[OPTIONS]",
		Short: "Show disk usage of the engine",
		Flags: []cliapp.Flag{
			stringFlag("format", "", formatUsage),
			boolFlag("verbose", "v", "Show detailed information on space usage"),
		},
		Action: s.df,
	}
}

// usageRow is what a template of system df may name.
type usageRow struct {
	Active      string
	Reclaimable string
	Size        string
	TotalCount  string
	Type        string
}

func usageTable() cliformat.Table {
	return cliformat.Table{
		Columns: `{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}`,
		Header:  cliformat.Header{"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"},
	}
}

func (s *session) df(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	du, err := api.DiskUsage(ctx)
	if err != nil {
		return err
	}
	if c.Bool("verbose") {
		return s.dfVerbose(du, c.String("format"))
	}
	t := usageTable()
	return cliformat.Write(s.stdout, t, t.Choose(c.String("format"), "", false), usageRows(du))
}

func usageRows(du system.DiskUsage) []usageRow {
	var rows []usageRow
	if u := du.ImageUsage; u != nil {
		rows = append(rows, newUsageRow("Images", u.TotalCount, u.ActiveCount, u.TotalSize, u.Reclaimable, true))
	}
	if u := du.ContainerUsage; u != nil {
		rows = append(rows, newUsageRow("Containers", u.TotalCount, u.ActiveCount, u.TotalSize, u.Reclaimable, true))
	}
	if u := du.VolumeUsage; u != nil {
		rows = append(rows, newUsageRow("Local Volumes", u.TotalCount, u.ActiveCount, u.TotalSize, u.Reclaimable, true))
	}
	if u := du.BuildCacheUsage; u != nil {
		rows = append(rows, newUsageRow("Build Cache", u.TotalCount, u.ActiveCount, u.TotalSize, u.Reclaimable, false))
	}
	return rows
}

func newUsageRow(kind string, total, active, size, reclaimable int64, percent bool) usageRow { //nolint:revive // the parts of one thing, used once
	r := usageRow{
		Type: kind, TotalCount: strconv.FormatInt(total, 10), Active: strconv.FormatInt(active, 10),
		Size: units.HumanSize(float64(size)), Reclaimable: units.HumanSize(float64(reclaimable)),
	}
	if percent && size > 0 {
		r.Reclaimable += fmt.Sprintf(" (%d%%)", reclaimable*100/size)
	}
	return r
}

// usageRowsByKind are the objects that take space, as a template of "df -v" sees them.
type usageRowsByKind struct {
	Images     []imageRow
	Containers []containerRow
	Volumes    []volumeRow
	BuildCache []cacheRow
}

// cacheRow is a row of the table of the build cache.
type cacheRow struct{ CacheID, CacheType, Size, CreatedSince, LastUsedSince, UsageCount, Shared string }

func newUsageRowsByKind(du system.DiskUsage, now time.Time) usageRowsByKind {
	var out usageRowsByKind
	if du.ImageUsage != nil {
		for _, img := range du.ImageUsage.Items {
			out.Images = append(out.Images, imageRows(img, false, false, false, now)...)
		}
	}
	if du.ContainerUsage != nil {
		for _, ctr := range du.ContainerUsage.Items {
			ctr.SizeRootFs = 0 // the image's share is among the images
			out.Containers = append(out.Containers, newContainerRow(ctr, false, now))
		}
	}
	if du.VolumeUsage != nil {
		for _, v := range du.VolumeUsage.Items {
			out.Volumes = append(out.Volumes, newVolumeRow(v))
		}
	}
	if du.BuildCacheUsage != nil {
		for _, b := range du.BuildCacheUsage.Items {
			out.BuildCache = append(out.BuildCache, newCacheRow(b, now))
		}
	}
	return out
}

// dfVerbose prints a table per kind of object.
func (s *session) dfVerbose(du system.DiskUsage, format string) error {
	rows := newUsageRowsByKind(du, time.Now())
	if format != "" {
		t, err := cliformat.Compile(map[bool]string{true: "{{json .}}", false: format}[format == "json"])
		if err != nil {
			return err
		}
		if err := t.Execute(s.stdout, rows); err != nil {
			return err
		}
		_, err = fmt.Fprintln(s.stdout)
		return err
	}
	images, containers, volumes := imageTable(false), containerTable(false), volumeTable()
	images.Columns += `\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}`
	containers.Columns = `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}`
	volumes.Columns = `{{.Name}}\t{{.Links}}\t{{.Size}}`
	cache := cliformat.Table{
		Columns: `{{.CacheID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}`,
		Header: cliformat.Header{
			"CacheID": "CACHE ID", "CacheType": "CACHE TYPE", "Size": "SIZE", "CreatedSince": "CREATED",
			"LastUsedSince": "LAST USED", "UsageCount": "USAGE", "Shared": "SHARED",
		},
	}
	var total int64
	if du.BuildCacheUsage != nil {
		total = du.BuildCacheUsage.TotalSize
	}
	if err := writeSection(s, "Images space usage:", images, rows.Images); err != nil {
		return err
	}
	if err := writeSection(s, "\nContainers space usage:", containers, rows.Containers); err != nil {
		return err
	}
	if err := writeSection(s, "\nLocal Volumes space usage:", volumes, rows.Volumes); err != nil {
		return err
	}
	return writeSection(s, "\nBuild cache usage: "+units.HumanSize(float64(total)), cache, rows.BuildCache)
}

func writeSection[T any](s *session, title string, t cliformat.Table, rows []T) error {
	if _, err := fmt.Fprint(s.stdout, title+"\n\n"); err != nil {
		return err
	}
	return cliformat.Write(s.stdout, t, "table "+t.Columns, rows)
}

func newCacheRow(b build.CacheRecord, now time.Time) cacheRow {
	r := cacheRow{
		CacheID: cliformat.ShortID(b.ID), CacheType: b.Type, Size: units.HumanSizeWithPrecision(float64(b.Size), 3),
		CreatedSince: units.HumanDuration(now.Sub(b.CreatedAt)) + " ago", UsageCount: strconv.Itoa(b.UsageCount), Shared: strconv.FormatBool(b.Shared),
	}
	if b.InUse {
		r.CacheID += "*"
	}
	if b.LastUsedAt != nil {
		r.LastUsedSince = units.HumanDuration(now.Sub(*b.LastUsedAt)) + " ago"
	}
	return r
}
