package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"strata/pkg/buildclient"
	"strata/pkg/buildkit"
	"strata/pkg/cliapp"
)

// buildCall is a question to the frontend instead of a build.
type buildCall struct {
	name         string // "" for a build
	json         bool
	ignoreStatus bool
}

// callLint is the question behind --check.
const callLint = "lint"

// parseBuildCall reads "NAME[,format=json|text][,ignorestatus=true]".
func parseBuildCall(c *cli.Context) (buildCall, error) {
	var out buildCall
	for i, field := range strings.Split(c.String("call"), ",") {
		k, v, ok := strings.Cut(field, "=")
		switch {
		case i == 0 && !ok:
			out.name = field
		case k == "format" && (v == "json" || v == "text"):
			out.json = v == "json"
		case k == "ignorestatus":
			var err error
			if out.ignoreStatus, err = strconv.ParseBool(v); err != nil {
				return out, fmt.Errorf("invalid --call %q: ignorestatus is true or false", c.String("call"))
			}
		default:
			return out, fmt.Errorf("invalid --call %q: want NAME[,format=json|text][,ignorestatus=true]", c.String("call"))
		}
	}
	if c.Bool("check") || out.name == "check" {
		out.name = callLint
	}
	if out.name == "build" {
		out.name = ""
	}
	return out, nil
}

// setBuildCall asks something instead of building.
func setBuildCall(b *buildclient.Build, c *cli.Context) error {
	call, err := parseBuildCall(c)
	if err == nil && call.name != "" {
		b.Attrs["requestid"], b.Attrs["frontend.caps"] = "frontend."+call.name, "moby.buildkit.frontend.subrequests+forward"
	}
	return err
}

// showCall prints the answer to --call, and ends with its status.
func (s *session) showCall(c *cli.Context, md map[string][]byte) error {
	call, err := parseBuildCall(c)
	if err != nil {
		return err
	}
	switch {
	case call.json:
		_, err = fmt.Fprintf(s.stdout, "%s\n", md["result.json"])
	case call.name == callLint:
		err = showLint(s.stdout, md)
	default:
		_, err = s.stdout.Write(md["result.txt"])
	}
	if err != nil {
		return err
	}
	if v := string(md["result.statuscode"]); v != "" && v != "0" && !call.ignoreStatus {
		return cliapp.Exit(1, "")
	}
	return nil
}

// showLint prints what the linter has to say as buildx does: how much, the warnings, and a
// mistake that would end the build.
func showLint(w io.Writer, md map[string][]byte) error {
	var r struct {
		Warnings []struct{}            `json:"warnings"`
		Sources  []buildkit.SourceInfo `json:"sources"`
		Error    *struct {
			Message  string `json:"message"`
			Location struct {
				SourceIndex int              `json:"sourceIndex"`
				Ranges      []buildkit.Range `json:"ranges"`
			} `json:"location"`
		} `json:"buildError"`
	}
	if err := json.Unmarshal(md["result.json"], &r); err != nil {
		return fmt.Errorf("the linter's answer: %w", err)
	}
	switch n := len(r.Warnings); {
	case n == 1:
		fmt.Fprintln(w, "Check complete, 1 warning has been found!")
	case n > 1:
		fmt.Fprintf(w, "Check complete, %d warnings have been found!\n", n)
	case r.Error == nil:
		fmt.Fprintln(w, "Check complete, no warnings found.")
	}
	if _, err := w.Write(md["result.txt"]); err != nil || r.Error == nil {
		return err
	}
	if len(r.Warnings) > 0 {
		fmt.Fprintln(w)
	}
	excerpt := ""
	if i := r.Error.Location.SourceIndex; i >= 0 && i < len(r.Sources) && len(r.Error.Location.Ranges) > 0 {
		excerpt = "\n" + buildkit.Source{Info: &r.Sources[i], Ranges: r.Error.Location.Ranges}.Excerpt()
	}
	return errors.New(r.Error.Message + excerpt)
}
