package cliapp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

// newApp is a tool of two verbs and a group; seen records what reached a verb.
func newApp(seen *string) (*cliapp.App, *bytes.Buffer, *bytes.Buffer) {
	var stdout, stderr bytes.Buffer
	note := func(_ context.Context, c *cli.Context) error {
		*seen = fmt.Sprintf("force=%v env=%q args=%q host=%q", c.Bool("force"), c.StringSlice("env"), c.Args().Slice(), c.String("host"))
		if c.Args().First() == "fail" {
			return errors.New("it failed")
		}
		if c.Args().First() == "exit" {
			return cliapp.Exit(42, "leaving")
		}
		return nil
	}
	rm := cliapp.Command{
		Name: "rm", Aliases: []string{"remove"}, Args: "[OPTIONS] THING [THING...]", Min: 1, Max: -1, Short: "Remove things",
		Flags: []cliapp.Flag{
			{Name: "force", Short: "f", Usage: "Do it"},
			{Name: "env", Short: "e", Kind: cliapp.List, Usage: "Set variables"},
		},
		Action: note,
	}
	app := &cliapp.App{
		Name: "tool", Short: "A tool", Stdout: &stdout, Stderr: &stderr, Version: "tool version 1",
		Flags:    []cliapp.Flag{{Name: "host", Short: "H", Kind: cliapp.String}, {Name: "version", Short: "v"}},
		Commands: []cliapp.Command{rm, {Name: "thing", Short: "Manage things", Commands: []cliapp.Command{rm}}},
	}
	return app, &stdout, &stderr
}

func TestRunHandsTheCommandItsFlagsAndArguments(t *testing.T) {
	for _, argv := range [][]string{
		{"-H", "h", "rm", "a", "-f", "--env", "A=1,2", "b"},
		{"--host=h", "thing", "remove", "-fe", "A=1,2", "a", "b"},
	} {
		var seen string
		app, _, stderr := newApp(&seen)
		if status := app.Run(t.Context(), argv); status != 0 {
			t.Fatalf("Run(%q) = %d, %s", argv, status, stderr)
		}
		if want := `force=true env=["A=1,2"] args=["a" "b"] host="h"`; seen != want {
			t.Errorf("Run(%q) gave the command %s, want %s", argv, seen, want)
		}
	}
}

func TestRunReportsMistakesAsDockerDoes(t *testing.T) {
	for _, tc := range []struct {
		argv   []string
		status int
		stderr string
	}{
		{[]string{"rn", "x"}, 1, "tool: unknown command: tool rn\n\nRun 'tool --help' for more information\n"},
		{[]string{"thin"}, 1, "tool: unknown command: tool thin\n\nDid you mean this?\n\tthing\n\nRun 'tool --help' for more information\n"},
		{[]string{"rm"}, 1, "tool: 'tool rm' requires at least 1 argument\n\nUsage:  tool rm [OPTIONS] THING [THING...]\n\nRun 'tool rm --help' for more information\n"},
		{[]string{"rm", "--nope", "x"}, 125, "unknown flag: --nope\n\nUsage:  tool rm [OPTIONS] THING [THING...]\n\nRun 'tool rm --help' for more information\n"},
		{[]string{"--nope"}, 125, "unknown flag: --nope\n\nUsage:  tool [OPTIONS] COMMAND [ARG...]\n\nRun 'tool --help' for more information\n"},
		{[]string{"rm", "fail"}, 1, "it failed\n"},
		{[]string{"rm", "exit"}, 42, "leaving\n"},
	} {
		var seen string
		app, _, stderr := newApp(&seen)
		if status := app.Run(t.Context(), tc.argv); status != tc.status || stderr.String() != tc.stderr {
			t.Errorf("Run(%q) = %d, %q, want %d, %q", tc.argv, status, stderr, tc.status, tc.stderr)
		}
	}
}

func TestHelpGoesToStdoutWhenItWasAskedFor(t *testing.T) {
	var seen string
	for _, argv := range [][]string{{"rm", "--help"}, {"help", "rm"}, {"rm", "x", "-h"}} {
		app, stdout, stderr := newApp(&seen)
		if status := app.Run(t.Context(), argv); status != 0 || !strings.HasPrefix(stdout.String(), "Usage:  tool rm [OPTIONS]") {
			t.Errorf("Run(%q) = %d, stdout %q", argv, status, stdout)
		}
		if stderr.Len() > 0 || seen != "" {
			t.Errorf("Run(%q) wrote %q to stderr and ran %q, want neither", argv, stderr, seen)
		}
	}
	app, stdout, stderr := newApp(&seen)
	if app.Run(t.Context(), []string{"thing"}); stdout.Len() > 0 || !strings.Contains(stderr.String(), "Manage things") {
		t.Errorf("a group without a command wrote %q to stdout and %q to stderr, want its help on stderr", stdout, stderr)
	}
}

func TestCompleteOffersWhatFits(t *testing.T) {
	objects := func(path []string, position int) []string {
		return []string{strings.Join(path, "-") + fmt.Sprint(position), "other"}
	}
	for _, tc := range []struct{ words, want []string }{
		{[]string{"r"}, []string{"rm"}},
		{[]string{""}, []string{"rm", "thing"}},
		{[]string{"rm", "--f"}, []string{"--force"}},
		{[]string{"-H", "x", "thing", ""}, []string{"rm"}},
		{[]string{"rm", "-f", "r"}, []string{"rm0"}},
		{[]string{"thing", "rm", "a", "-e", "A=1", "t"}, []string{"thing-rm1"}},
		{[]string{"rm", "-e", ""}, nil},
		{[]string{"nope", ""}, nil},
	} {
		var seen string
		app, _, _ := newApp(&seen)
		if got := app.Complete(tc.words, objects); !slices.Equal(got, tc.want) {
			t.Errorf("Complete(%q) = %q, want %q", tc.words, got, tc.want)
		}
	}
}
