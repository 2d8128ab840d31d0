package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
		Name: "history", Args: "[BUILD]", Max: 1, Short: "List the builds of the daemon, or show what happened in one",
		Action: s.showBuilds,
	}
}

// buildRecords are the builds that the daemon remembers, the newest first.
func buildRecords(ctx context.Context, conn *buildclient.Conn) ([]*controlpb.BuildHistoryRecord, error) {
	stream, err := conn.Control().ListenBuildHistory(ctx, &controlpb.BuildHistoryRequest{EarlyExit: true})
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

// showStory shows what happened in a build, whose id may be cut short.
func (s *session) showStory(ctx context.Context, _ *cli.Context, conn *buildclient.Conn, prefix string) error {
	list, err := buildRecords(ctx, conn)
	if err != nil {
		return buildError(err)
	}
	for _, r := range list {
		if !strings.HasPrefix(r.Ref, prefix) {
			continue
		}
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
	return fmt.Errorf("no build is called %q", prefix)
}
