package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"strata/pkg/api"
	"strata/pkg/cliapp"
)

func doctorCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "doctor", Args: "[OPTIONS]",
		Short: "Compare what the engine has recorded with what there is",
		Long: `Compare what the engine has recorded with what there is: leaked processes, mounts,
network objects, cgroups and files, and records without substance. The exit status is 1 if
something is left that is not as it should be.`,
		Flags: []cliapp.Flag{
			stringFlag("format", "f", inspectFormatUsage),
			boolFlag("repair", "", "Mend what is safe to mend"),
		},
		Action: s.doctor,
	}
}

func (s *session) doctor(ctx context.Context, c *cli.Context) error {
	cl, err := s.api()
	if err != nil {
		return err
	}
	findings, err := cl.Doctor(ctx, c.Bool("repair"))
	if err != nil {
		return onlyEngined("doctor", err)
	}
	if format := c.String("format"); format != "" {
		err = s.template(format, findings)
	} else {
		err = printFindings(s.stdout, findings)
	}
	if err != nil {
		return err
	}
	for _, f := range findings {
		if !f.Repaired {
			return &cliapp.ExitError{Status: 1}
		}
	}
	return nil
}

func printFindings(out io.Writer, findings []api.Finding) error {
	if len(findings) == 0 {
		_, err := fmt.Fprintln(out, "All is well: what is recorded is there, and nothing else.")
		return err
	}
	repaired := 0
	for _, f := range findings {
		fmt.Fprintf(out, "%s: %s: %s\n", f.Layer, f.Code, f.Subject)
		if f.Detail != "" {
			fmt.Fprintf(out, "  %s\n", f.Detail)
		}
		switch {
		case f.Repaired:
			repaired++
			fmt.Fprintln(out, "  repaired")
		case f.Remedy != "":
			fmt.Fprintf(out, "  remedy: %s\n", f.Remedy)
		}
	}
	_, err := fmt.Fprintf(out, "\n%d found, %d repaired\n", len(findings), repaired)
	return err
}
