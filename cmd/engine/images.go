package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/cliformat"
	"strata/pkg/imageref"
)

func imagesCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "images", Args: "[OPTIONS] [REPOSITORY[:TAG]]", Max: 1,
		Short: "List images",
		Also:  []string{"image ls", "image list", "images"},
		Flags: []cliapp.Flag{
			boolFlag("all", "a", "Show all images (default hides intermediate images)"),
			boolFlag("digests", "", "Show digests"),
			filterFlag("f", "Filter output based on conditions provided"),
			stringFlag("format", "", formatUsage),
			boolFlag("no-trunc", "", "Don't truncate output"),
			boolFlag("quiet", "q", "Only show image IDs"),
		},
		Action: s.images,
	}
}

func imageTable(digests bool) cliformat.Table {
	t := cliformat.Table{
		Columns: `{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}`,
		Quiet:   "{{.ID}}",
		Header: cliformat.Header{
			"Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "ID": "IMAGE ID", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT",
			"Size": "SIZE", "Containers": "CONTAINERS", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE", "VirtualSize": "SIZE",
		},
	}
	if digests {
		t.Columns = strings.Replace(t.Columns, `{{.ID}}`, `{{.Digest}}\t{{.ID}}`, 1)
	}
	return t
}

// imageRow is what a template of images may name.
type imageRow struct {
	Containers   string
	CreatedAt    string
	CreatedSince string
	Digest       string
	ID           string
	Repository   string
	SharedSize   string
	Size         string
	Tag          string
	UniqueSize   string
	VirtualSize  string
}

func (s *session) images(ctx context.Context, c *cli.Context) error {
	f, err := client.ParseFilters(c.StringSlice("filter"))
	if err != nil {
		return err
	}
	if pattern := c.Args().First(); pattern != "" {
		f.Add("reference", pattern)
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	list, err := api.ImageList(ctx, c.Bool("all"), f)
	if err != nil {
		return err
	}
	slices.SortStableFunc(list, func(a, b image.Summary) int { return int(b.Created - a.Created) })
	format := c.String("format")
	t := imageTable(c.Bool("digests"))
	wantDigest := c.Bool("digests") || strings.Contains(format, ".Digest")
	dangling := f["dangling"]["true"]
	var rows []imageRow
	for _, img := range list {
		rows = append(rows, imageRows(img, wantDigest, c.Bool("no-trunc"), dangling, time.Now())...)
	}
	return cliformat.Write(s.stdout, t, t.Choose(format, s.conf().Formats.Images, c.Bool("quiet")), rows)
}

const none = "<none>"

// imageRows makes a row per name of an image: per tag, and per digest where digests are shown.
func imageRows(img image.Summary, digests, whole, dangling bool, now time.Time) []imageRow {
	base := newImageRow(img, whole, now)
	type name struct{ repository, tag, digest string }
	var names []name
	tags, sums := map[string][]string{}, map[string][]string{}
	var repositories []string
	add := func(repo string) {
		if !slices.Contains(repositories, repo) {
			repositories = append(repositories, repo)
		}
	}
	for _, t := range img.RepoTags {
		if repo, tag, ok := cutTag(t); ok {
			add(repo)
			tags[repo] = append(tags[repo], tag)
		}
	}
	for _, d := range img.RepoDigests {
		if repo, sum, ok := cutDigest(d); ok {
			add(repo)
			sums[repo] = append(sums[repo], sum)
		}
	}
	for _, repo := range repositories {
		ts, ds := tags[repo], sums[repo]
		if len(ts) == 0 {
			ts = []string{none}
		}
		if len(ds) == 0 || !digests {
			ds = []string{none}
		}
		for _, t := range ts {
			for _, d := range ds {
				names = append(names, name{repo, t, d})
			}
		}
	}
	if len(names) == 0 || dangling && len(img.RepoTags) == 0 && len(img.RepoDigests) == 0 {
		names = []name{{none, none, none}}
	}
	rows := make([]imageRow, len(names))
	for i, n := range names {
		rows[i] = base
		rows[i].Repository, rows[i].Tag, rows[i].Digest = n.repository, n.tag, n.digest
	}
	return rows
}

func cutTag(s string) (repository, tag string, ok bool) {
	if s == none+":"+none {
		return "", "", false
	}
	named, err := imageref.Parse(s)
	if err != nil || named.Tag == "" {
		return "", "", false
	}
	return named.Familiar(), named.Tag, true
}

func cutDigest(s string) (repository, digest string, ok bool) {
	if s == none+"@"+none {
		return "", "", false
	}
	repository, digest, ok = strings.Cut(s, "@")
	return repository, digest, ok
}

func newImageRow(img image.Summary, whole bool, now time.Time) imageRow {
	created := time.Unix(img.Created, 0)
	r := imageRow{
		Containers:  "N/A",
		CreatedAt:   created.Format(createdLayout),
		ID:          img.ID,
		SharedSize:  "N/A",
		Size:        units.HumanSizeWithPrecision(float64(img.Size), 3),
		UniqueSize:  "N/A",
		VirtualSize: units.HumanSize(float64(img.Size)),
	}
	if img.Created > 0 {
		r.CreatedSince = units.HumanDuration(now.Sub(created)) + " ago"
	} else {
		r.CreatedSince = "N/A"
	}
	if img.Containers != -1 {
		r.Containers = strconv.FormatInt(img.Containers, 10)
	}
	if img.SharedSize != -1 {
		r.SharedSize = units.HumanSize(float64(img.SharedSize))
		r.UniqueSize = units.HumanSize(float64(img.Size - img.SharedSize))
	}
	if !whole {
		r.ID = cliformat.ShortID(img.ID)
	}
	return r
}
