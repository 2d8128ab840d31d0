package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	units "github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"strata/pkg/buildclient"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/cliapp"
)

func builderHistoryCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "history", Args: "[OPTIONS] [BUILD]", Max: 1, Short: "List the builds of the daemon, or show what happened in one",
		Flags: []cliapp.Flag{
			listFlag("filter", "", `List only these ("status=running|completed|error|canceled", "ref=…", "repository=…", "startedAt>24h", "duration<1m")`),
			boolFlag("rm", "", "Make the daemon forget a build"),
		},
		Action: s.builderHistory,
	}
}

// builderHistory lists the builds that the daemon remembers, or does something with one.
func (s *session) builderHistory(ctx context.Context, c *cli.Context) error {
	ref := c.Args().First()
	if c.Bool("rm") && ref == "" {
		return errors.New("--rm needs the id of a build")
	}
	engine, err := s.api()
	if err != nil {
		return err
	}
	conn, err := buildclient.Dial(engine)
	if err != nil {
		return err
	}
	defer conn.Close()
	list, err := buildRecords(ctx, conn, c.StringSlice("filter"))
	if err != nil {
		return buildError(err)
	}
	if ref == "" {
		return writeBuilds(s.stdout, list, time.Now())
	}
	r, err := buildCalled(list, ref)
	if err != nil {
		return err
	}
	if !c.Bool("rm") {
		return s.showStory(ctx, conn, r)
	}
	if _, err := conn.Control().UpdateBuildHistory(ctx, &controlpb.UpdateBuildHistoryRequest{Ref: r.Ref, Delete: true}); err != nil {
		return buildError(err)
	}
	fmt.Fprintln(s.stdout, r.Ref)
	return nil
}

// buildCalled finds a build, whose id may be cut short.
func buildCalled(list []*controlpb.BuildHistoryRecord, prefix string) (*controlpb.BuildHistoryRecord, error) {
	for _, r := range list {
		if strings.HasPrefix(r.Ref, prefix) {
			return r, nil
		}
	}
	return nil, fmt.Errorf("no build is called %q", prefix)
}

// buildRecords are the builds that the daemon remembers, the newest first.
func buildRecords(ctx context.Context, conn *buildclient.Conn, filters []string) ([]*controlpb.BuildHistoryRecord, error) {
	req := &controlpb.BuildHistoryRequest{EarlyExit: true}
	if len(filters) > 0 {
		var line strings.Builder
		w := csv.NewWriter(&line)
		if err := w.Write(historyConditions(filters)); err != nil {
			return nil, err
		}
		w.Flush()
		req.Filter = []string{strings.TrimSuffix(line.String(), "\n")}
	}
	stream, err := conn.Control().ListenBuildHistory(ctx, req)
	if err != nil {
		return nil, err
	}
	var out []*controlpb.BuildHistoryRecord
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, e.Record)
	}
}

// historyConditions are filters as the daemon reads them: "status=x" is meant to the letter,
// "ref=x" and "repository=x" are parts.
func historyConditions(filters []string) []string {
	out := make([]string, 0, len(filters))
	for _, f := range filters {
		key, value, _ := strings.Cut(f, "=")
		switch {
		case strings.HasPrefix(value, "="):
		case key == "status":
			f = key + "==" + value
		case key == "ref" || key == "repository":
			f = key + "~=" + regexp.QuoteMeta(value)
		}
		out = append(out, f)
	}
	return out
}

func writeBuilds(out io.Writer, list []*controlpb.BuildHistoryRecord, now time.Time) error {
	w := tabwriter.NewWriter(out, 10, 1, 3, ' ', 0)
	fmt.Fprintln(w, "BUILD ID\tSTATUS\tSTEPS\tCREATED\tDURATION\tRESULT")
	for _, r := range list {
		status, end := "Running", now
		if r.CompletedAt != nil {
			status, end = "Completed", r.CompletedAt.AsTime()
		}
		if r.Error != nil {
			status = "Error"
		}
		created := r.CreatedAt.AsTime()
		result := r.ExporterResponse["image.name"]
		if r.Error != nil {
			result, _, _ = strings.Cut(r.Error.Message, "\n")
		}
		if runes := []rune(result); len(runes) > 60 {
			result = string(runes[:59]) + "…"
		}
		fmt.Fprintf(w, "%s\t%s\t%d, %d cached\t%s ago\t%.1fs\t%s\n", r.Ref, status, r.NumTotalSteps, r.NumCachedSteps,
			units.HumanDuration(now.Sub(created)), end.Sub(created).Seconds(), result)
	}
	return w.Flush()
}

// showStory shows what happened in a build.
func (s *session) showStory(ctx context.Context, conn *buildclient.Conn, r *controlpb.BuildHistoryRecord) error {
	v := newBuildView(s.stdout, "plain")
	if err := conn.Follow(ctx, r.Ref, v.tell); err != nil {
		return buildError(err)
	}
	v.end(nil)
	if r.Error != nil {
		fmt.Fprintln(s.stdout, "error:", r.Error.Message)
	}
	return nil
}
