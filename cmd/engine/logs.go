package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/stdcopy"
)

func logsCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "logs", Args: "[OPTIONS] CONTAINER", Min: 1, Max: 1,
		Short: "Fetch the logs of a container",
		Also:  []string{"container logs", "logs"},
		Flags: []cliapp.Flag{
			boolFlag("details", "", "Show extra details provided to logs"),
			boolFlag("follow", "f", "Follow log output"),
			stringFlag("since", "", `Show logs since a time (e.g. "2013-01-02T13:23:37Z") or for a duration (e.g. "42m" for 42 minutes)`),
			withDefault(stringFlag("tail", "n", "Number of lines to show from the end of the logs"), "all"),
			boolFlag("timestamps", "t", "Show timestamps"),
			stringFlag("until", "", `Show logs before a time (e.g. "2013-01-02T13:23:37Z") or a duration ago (e.g. "42m" for 42 minutes)`),
		},
		Action: s.logs,
	}
}

func (s *session) logs(ctx context.Context, c *cli.Context) error {
	opts := client.ReadLogs{
		Stdout: true, Stderr: true, Follow: c.Bool("follow"), Timestamps: c.Bool("timestamps"),
		Details: c.Bool("details"), Tail: c.String("tail"),
	}
	var err error
	now := time.Now()
	if opts.Since, err = pointInTime(c.String("since"), now); err != nil {
		return fmt.Errorf("invalid value for \"since\": %w", err)
	}
	if opts.Until, err = pointInTime(c.String("until"), now); err != nil {
		return fmt.Errorf("invalid value for \"until\": %w", err)
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	info, _, err := api.ContainerInspect(ctx, c.Args().First(), false)
	if err != nil {
		return err
	}
	body, err := api.ContainerLogs(ctx, info.ID, opts)
	if err != nil {
		return err
	}
	defer body.Close()
	if info.Config.Tty {
		_, err = io.Copy(s.stdout, body)
	} else {
		_, err = stdcopy.Demux(s.stdout, s.stderr, body)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// pointInTime turns what a user writes for a time into UNIX seconds with a fraction: a
// duration ago, a date in local time or with a zone, or UNIX seconds.
func pointInTime(s string, now time.Time) (string, error) {
	if s == "" {
		return "", nil
	}
	if d, err := time.ParseDuration(s); err == nil && s != "0" { // which is the beginning of time
		return unixText(now.Add(-d)), nil
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02",
		"2006-01-02T15:04Z07:00", "2006-01-02T15Z07:00", "2006-01-02Z07:00",
	} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return unixText(t), nil
		}
	}
	whole, fraction, _ := strings.Cut(s, ".")
	if _, err := strconv.ParseInt(whole, 10, 64); err != nil {
		return "", fmt.Errorf("failed to parse value as time or duration: %q", s)
	}
	if fraction != "" {
		if _, err := strconv.ParseUint(fraction, 10, 64); err != nil {
			return "", fmt.Errorf("failed to parse value as time or duration: %q", s)
		}
	}
	return s, nil
}

func unixText(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }
