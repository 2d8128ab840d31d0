package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/moby/moby/api/types/system"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/version"
)

func versionCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "version", Args: "[OPTIONS]", Section: commonSection,
		Short:  "Show the version information of client and server",
		Flags:  []cliapp.Flag{stringFlag("format", "f", inspectFormatUsage)},
		Action: s.version,
	}
}

// versions is what a template of version may name.
type versions struct {
	Client clientVersion
	Server *system.VersionResponse
}

type clientVersion struct {
	Version           string
	APIVersion        string `json:"ApiVersion"`
	DefaultAPIVersion string
	GoVersion         string
	Os                string
	Arch              string
	Context           string
}

func (s *session) version(ctx context.Context, c *cli.Context) error {
	v := versions{Client: clientVersion{
		Version: version.Version, APIVersion: client.MaxVersion, DefaultAPIVersion: client.MaxVersion, GoVersion: runtime.Version(),
		Os: runtime.GOOS, Arch: runtime.GOARCH, Context: s.contextName(),
	}}
	serverErr := s.serverVersion(ctx, &v)
	if format := c.String("format"); format != "" {
		if err := s.template(format, v); err != nil {
			return err
		}
		return serverErr
	}
	if err := printVersions(s.stdout, v); err != nil {
		return err
	}
	return serverErr
}

func (s *session) serverVersion(ctx context.Context, v *versions) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	negotiated, err := api.Version(ctx)
	if err != nil {
		return err
	}
	v.Client.APIVersion = negotiated
	server, err := api.ServerVersion(ctx)
	if err != nil {
		return err
	}
	v.Server = &server
	return nil
}

func printVersions(out io.Writer, v versions) error {
	w := tabwriter.NewWriter(out, 20, 1, 1, ' ', 0)
	c := v.Client
	apiVersion := c.APIVersion
	if apiVersion != c.DefaultAPIVersion {
		apiVersion += fmt.Sprintf(" (downgraded from %s)", c.DefaultAPIVersion)
	}
	fmt.Fprintf(w, "Client:\n Version:\t%s\n API version:\t%s\n Go version:\t%s\n OS/Arch:\t%s/%s\n Context:\t%s\n",
		c.Version, apiVersion, c.GoVersion, c.Os, c.Arch, c.Context)
	if v.Server != nil {
		printServer(w, v.Server)
	}
	return w.Flush()
}

func printServer(w io.Writer, s *system.VersionResponse) {
	fmt.Fprint(w, "\nServer:")
	if s.Platform.Name != "" {
		fmt.Fprintf(w, " %s", s.Platform.Name)
	}
	fmt.Fprintln(w)
	components := s.Components
	if len(components) == 0 {
		components = []system.ComponentVersion{{Name: "Engine", Version: s.Version, Details: map[string]string{"ApiVersion": s.APIVersion, "MinAPIVersion": s.MinAPIVersion}}}
	}
	for _, c := range components {
		fmt.Fprintf(w, " %s:\n  Version:\t%s\n", c.Name, c.Version)
		if c.Name == "Engine" {
			printEngine(w, c.Details)
			continue
		}
		for _, k := range slices.Sorted(maps.Keys(c.Details)) {
			fmt.Fprintf(w, "  %s:\t%s\n", k, c.Details[k])
		}
	}
}

func printEngine(w io.Writer, d map[string]string) {
	fmt.Fprintf(w, "  API version:\t%s (minimum version %s)\n", d["ApiVersion"], d["MinAPIVersion"])
	for _, row := range [][2]string{{"Go version", "GoVersion"}, {"Git commit", "GitCommit"}, {"Built", "BuildTime"}} {
		if d[row[1]] != "" {
			fmt.Fprintf(w, "  %s:\t%s\n", row[0], d[row[1]])
		}
	}
	fmt.Fprintf(w, "  OS/Arch:\t%s/%s\n  Experimental:\t%s\n", d["Os"], d["Arch"], orDefault(strings.TrimSpace(d["Experimental"]), "false"))
}
