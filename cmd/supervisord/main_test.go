package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/urfave/cli/v2"
)

// read runs the command line up to the settings.
func read(args ...string) (s settings, err error) {
	app := &cli.App{
		ExitErrHandler: func(*cli.Context, error) {},
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "address"}, &cli.StringFlag{Name: "root"}, &cli.StringFlag{Name: "state"},
			&cli.StringFlag{Name: "config"}, &cli.StringFlag{Name: "log-level"},
		},
		Action: func(c *cli.Context) (err error) {
			s, err = readSettings(c)
			return err
		},
	}
	err = app.Run(append([]string{"supervisord"}, args...))
	return s, err
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagsWinOverTheFileAndTheFileOverDefaults(t *testing.T) {
	path := writeConfig(t, "root = \"/file/root\"\nstate = \"/file/state\"\nlog_level = \"warn\"\n[runtimes]\nx = \"/bin/x\"\n")
	got, err := read("--config", path, "--root", "/flag/root")
	if err != nil {
		t.Fatal(err)
	}
	if got.config.Root != "/flag/root" || got.config.State != "/file/state" || got.config.Address != defaultAddress || got.level != slog.LevelWarn || got.config.Runtimes["x"] != "/bin/x" {
		t.Errorf("settings = %+v", got)
	}
}

func TestMistakesInTheConfigurationAreErrors(t *testing.T) {
	for name, args := range map[string][]string{
		"unknown key":     {"--config", writeConfig(t, "rooot = \"/x\"\n")},
		"broken file":     {"--config", writeConfig(t, "root = \n")},
		"missing file":    {"--config", "/no/such/file"},
		"unknown level":   {"--log-level", "loud"},
		"value of a type": {"--config", writeConfig(t, "root = 7\n")},
	} {
		if s, err := read(args...); err == nil {
			t.Errorf("%s: settings %+v, want an error", name, s)
		}
	}
}

func TestExitStatusTellsAMistakeFromAFailure(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"supervisord", "--nonsense"}, 2},
		{[]string{"supervisord", "argument"}, 2},
		{[]string{"supervisord", "--log-level", "loud"}, 2},
		{[]string{"supervisord", "--config", "/no/such/file"}, 1},
		{[]string{"supervisord", "--version"}, 0},
	} {
		if got := run(tt.args); got != tt.want {
			t.Errorf("run(%v) = %d, want %d", tt.args, got, tt.want)
		}
	}
}
