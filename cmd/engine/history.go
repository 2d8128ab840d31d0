package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/cliformat"
)

func historyCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "history", Args: "[OPTIONS] IMAGE", Min: 1, Max: 1,
		Short: "Show the history of an image",
		Also:  []string{"image history", "history"},
		Flags: []cliapp.Flag{
			stringFlag("format", "", formatUsage),
			withDefault(boolFlag("human", "H", "Print sizes and dates in human readable format"), "true"),
			boolFlag("no-trunc", "", "Don't truncate output"),
			stringFlag("platform", "", "Show history for a platform (os[/arch[/variant]])"),
			boolFlag("quiet", "q", "Only show image IDs"),
		},
		Action: s.history,
	}
}

// historyRow is what a template of history may name.
type historyRow struct {
	Comment      string
	CreatedAt    string
	CreatedBy    string
	CreatedSince string
	ID           string
	Size         string
}

func (s *session) history(ctx context.Context, c *cli.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	items, err := api.ImageHistory(ctx, c.Args().First(), c.String("platform"))
	if err != nil {
		return err
	}
	human := c.Bool("human")
	t := cliformat.Table{
		Columns: `{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}`,
		Quiet:   "{{.ID}}",
		Header: cliformat.Header{
			"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
		},
	}
	if !human {
		t.Columns = strings.Replace(t.Columns, "CreatedSince", "CreatedAt", 1)
	}
	rows := make([]historyRow, len(items))
	for i, item := range items {
		rows[i] = newHistoryRow(item, c.Bool("no-trunc"), human, time.Now())
	}
	return cliformat.Write(s.stdout, t, t.Choose(c.String("format"), "", c.Bool("quiet")), rows)
}

func newHistoryRow(item image.HistoryResponseItem, whole, human bool, now time.Time) historyRow {
	created := time.Unix(item.Created, 0)
	r := historyRow{
		Comment:   item.Comment,
		CreatedAt: created.Format(time.RFC3339),
		CreatedBy: strings.ReplaceAll(item.CreatedBy, "\t", " "),
		ID:        item.ID,
		Size:      strconv.FormatInt(item.Size, 10),

		CreatedSince: "N/A",
	}
	if item.Created > 0 {
		r.CreatedSince = units.HumanDuration(now.Sub(created)) + " ago"
	}
	if human {
		r.Size = units.HumanSizeWithPrecision(float64(item.Size), 3)
	}
	if !whole {
		r.CreatedBy = cliformat.Ellipsis(r.CreatedBy, 45)
		r.ID = cliformat.ShortID(item.ID)
	}
	return r
}
