// Command engined is the engine daemon. Its flags are dockerd's.
//
// Exit status: 0 after an orderly stop, 1 for an error, 2 for a command line or
// configuration that is not valid, 3 if another daemon is in the way.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"strata/engined"
	"strata/pkg/ctxlog"
	"strata/pkg/version"
)

func main() { os.Exit(run(os.Args)) }

// errUsage marks a command line that could not be read.
var errUsage = errors.New("usage")

func run(args []string) int {
	app := &cli.App{
		Name: "engined", Usage: "serve the Docker Engine API", Version: version.Version, HideHelpCommand: true,
		DisableSliceFlagSeparator: true, ExitErrHandler: func(*cli.Context, error) {}, Flags: flags(), Action: serve,
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return fmt.Errorf("%w: %w", errUsage, err) },
	}
	err := app.Run(args)
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "engined: %v\n", err)
	switch {
	case errors.Is(err, errUsage), errdefs.IsInvalidArgument(err):
		return 2
	case errdefs.IsUnavailable(err):
		return 3
	default:
		return 1
	}
}

func serve(c *cli.Context) error {
	if c.Args().Present() {
		return fmt.Errorf("%w: unexpected argument %q", errUsage, c.Args().First())
	}
	file := c.String("config-file")
	set, err := settings(c)
	if err != nil {
		return err
	}
	cfg, err := engined.Load(file, set)
	if err != nil {
		return err
	}
	if c.Bool("validate") {
		fmt.Println("configuration OK")
		return nil
	}
	level := &slog.LevelVar{}
	if l, err := cfg.Level(); err == nil { // Load has checked it
		level.Set(l)
	}
	logger := newLogger(cfg, level)
	slog.SetDefault(logger)
	ctx, stop := signal.NotifyContext(ctxlog.With(context.Background(), logger), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return engined.Run(ctx, cfg, engined.Daemon{Level: level, Reload: reloads(ctx, file, set)})
}

func newLogger(cfg engined.Config, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(os.Stderr, opts)
	if cfg.LogFormat == "json" {
		h = slog.NewJSONHandler(os.Stderr, opts)
	}
	return slog.New(h).With(ctxlog.Component, "engined")
}

// reloads reads the configuration again at each SIGHUP, until ctx is done.
func reloads(ctx context.Context, file string, set map[string]any) <-chan engined.Config {
	out := make(chan engined.Config)
	hup := make(chan os.Signal, 1) // one is as good as many
	signal.Notify(hup, syscall.SIGHUP)
	go func() { // ends with ctx, as the process does
		defer signal.Stop(hup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
			}
			cfg, err := engined.Load(file, set)
			if err != nil {
				ctxlog.From(ctx).Error("configuration was not reloaded", ctxlog.Error, err)
				continue
			}
			select {
			case out <- cfg:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
