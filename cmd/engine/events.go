package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/cliformat"
)

func eventsCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "events", Args: "[OPTIONS]",
		Short: "Get real time events from the server",
		Also:  []string{"system events", "events"},
		Flags: []cliapp.Flag{
			filterFlag("f", "Filter output based on conditions provided"),
			stringFlag("format", "", inspectFormatUsage),
			stringFlag("since", "", "Show all events created since a time"),
			stringFlag("until", "", "Stream events until a time"),
		},
		Action: s.events,
	}
}

func (s *session) events(ctx context.Context, c *cli.Context) error {
	f, err := client.ParseFilters(c.StringSlice("filter"))
	if err != nil {
		return err
	}
	now := time.Now()
	since, err := pointInTime(c.String("since"), now)
	if err != nil {
		return err
	}
	until, err := pointInTime(c.String("until"), now)
	if err != nil {
		return err
	}
	show, err := eventPrinter(c.String("format"))
	if err != nil {
		return cliapp.Exit(64, "Error parsing format: %v", err)
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	body, err := api.Events(ctx, since, until, f)
	if err != nil {
		return err
	}
	defer body.Close()
	dec := json.NewDecoder(body)
	for {
		var m events.Message
		switch err := dec.Decode(&m); {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read events: %w", err)
		}
		if err := show(s.stdout, m); err != nil {
			return err
		}
	}
}

func eventPrinter(format string) (func(io.Writer, events.Message) error, error) {
	if format == "" {
		return printEvent, nil
	}
	if format == "json" {
		format = "{{json .}}"
	}
	tmpl, err := cliformat.Compile(format)
	if err != nil {
		return nil, err
	}
	return func(w io.Writer, m events.Message) error { return printTemplate(w, tmpl, m) }, nil
}

func printTemplate(w io.Writer, tmpl *template.Template, m events.Message) error {
	var b strings.Builder
	if err := tmpl.Execute(&b, m); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}

// eventTime is RFC 3339 with all nine digits, so that columns line up.
const eventTime = "2006-01-02T15:04:05.000000000Z07:00"

func printEvent(w io.Writer, m events.Message) error {
	var b strings.Builder
	switch {
	case m.TimeNano != 0:
		b.WriteString(time.Unix(0, m.TimeNano).Format(eventTime) + " ")
	case m.Time != 0:
		b.WriteString(time.Unix(m.Time, 0).Format(eventTime) + " ")
	}
	fmt.Fprintf(&b, "%s %s %s", m.Type, m.Action, m.Actor.ID)
	var attrs []string
	for _, k := range slices.Sorted(maps.Keys(m.Actor.Attributes)) {
		attrs = append(attrs, k+"="+m.Actor.Attributes[k])
	}
	if len(attrs) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(attrs, ", "))
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}
