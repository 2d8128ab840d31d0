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

func newUsageRow(kind string, total, active, size, reclaimable int64, percent bool) usageRow {
	r := usageRow{
		Type: kind, TotalCount: strconv.FormatInt(total, 10), Active: strconv.FormatInt(active, 10),
		Size: units.HumanSize(float64(size)), Reclaimable: units.HumanSize(float64(reclaimable)),
	}
	if percent && size > 0 {
		r.Reclaimable += fmt.Sprintf(" (%d%%)", reclaimable*100/size)
	}
	return r
}

// dfVerbose prints a table per kind of object.
func (s *session) dfVerbose(du system.DiskUsage, format string) error {
	if format != "" {
		t, err := cliformat.Compile(map[bool]string{true: "{{json .}}", false: format}[format == "json"])
		if err != nil {
			return err
		}
		if err := t.Execute(s.stdout, du); err != nil {
			return err
		}
		_, err = fmt.Fprintln(s.stdout)
		return err
	}
	now := time.Now()
	if err := s.dfImages(du, now); err != nil {
		return err
	}
	if err := s.dfContainers(du, now); err != nil {
		return err
	}
	if err := s.dfVolumes(du); err != nil {
		return err
	}
	return s.dfBuildCache(du, now)
}

func (s *session) dfImages(du system.DiskUsage, now time.Time) error {
	t := imageTable(false)
	t.Columns += `\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}`
	var rows []imageRow
	if du.ImageUsage != nil {
		for _, img := range du.ImageUsage.Items {
			rows = append(rows, imageRows(img, false, false, false, now)...)
		}
	}
	fmt.Fprint(s.stdout, "Images space usage:\n\n")
	return cliformat.Write(s.stdout, t, "table "+t.Columns, rows)
}

func (s *session) dfContainers(du system.DiskUsage, now time.Time) error {
	t := containerTable(false)
	t.Columns = `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}`
	var rows []containerRow
	if du.ContainerUsage != nil {
		for _, ctr := range du.ContainerUsage.Items {
			ctr.SizeRootFs = 0 // the image's share is in the table above
			rows = append(rows, newContainerRow(ctr, false, now))
		}
	}
	fmt.Fprint(s.stdout, "\nContainers space usage:\n\n")
	return cliformat.Write(s.stdout, t, "table "+t.Columns, rows)
}

func (s *session) dfVolumes(du system.DiskUsage) error {
	t := volumeTable()
	t.Columns = `{{.Name}}\t{{.Links}}\t{{.Size}}`
	var rows []volumeRow
	if du.VolumeUsage != nil {
		for _, v := range du.VolumeUsage.Items {
			rows = append(rows, newVolumeRow(v))
		}
	}
	fmt.Fprint(s.stdout, "\nLocal Volumes space usage:\n\n")
	return cliformat.Write(s.stdout, t, "table "+t.Columns, rows)
}

// cacheRow is a row of the table of the build cache.
type cacheRow struct{ CacheID, CacheType, Size, CreatedSince, LastUsedSince, UsageCount, Shared string }

func (s *session) dfBuildCache(du system.DiskUsage, now time.Time) error {
	t := cliformat.Table{
		Columns: `{{.CacheID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}`,
		Header: cliformat.Header{
			"CacheID": "CACHE ID", "CacheType": "CACHE TYPE", "Size": "SIZE", "CreatedSince": "CREATED",
			"LastUsedSince": "LAST USED", "UsageCount": "USAGE", "Shared": "SHARED",
		},
	}
	var total int64
	var rows []cacheRow
	if du.BuildCacheUsage != nil {
		total = du.BuildCacheUsage.TotalSize
		for _, b := range du.BuildCacheUsage.Items {
			rows = append(rows, newCacheRow(b, now))
		}
	}
	fmt.Fprintf(s.stdout, "\nBuild cache usage: %s\n\n", units.HumanSize(float64(total)))
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
