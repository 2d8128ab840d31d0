// Command supervisord is the supervisor daemon. Its flags are containerd's.
//
// Exit status: 0 after an orderly stop, 1 for an error, 2 for a command line that could
// not be read, 3 if another daemon is in the way.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"

	"strata/pkg/ctxlog"
	"strata/pkg/version"
	"strata/supervisord"
)

// publishTimeout bounds the publish verb, which a shim waits for.
const publishTimeout = 10 * time.Second

func main() { os.Exit(run(os.Args)) }

func run(args []string) int {
	app := &cli.App{
		Name: "supervisord", Usage: "supervise containers: content, snapshots, tasks and events", Version: version.Version,
		HideHelpCommand: true, ExitErrHandler: func(*cli.Context, error) {},
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "address", Aliases: []string{"a"}, Usage: "unix socket for clients (default: " + defaultAddress + ")"},
			&cli.StringFlag{Name: "root", Usage: "directory for what survives a reboot (default: " + defaultRoot + ")"},
			&cli.StringFlag{Name: "state", Usage: "directory for what does not (default: " + defaultState + ")"},
			&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "configuration file (default: " + defaultConfig + ", if it is there)"},
			&cli.StringFlag{Name: "log-level", Aliases: []string{"l"}, Usage: "debug, info, warn or error (default: info)"},
		},
		Action: serve,
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return fmt.Errorf("%w: %w", errUsage, err)
		},
		Commands: []*cli.Command{{
			Name: "publish", Usage: "publish an event that stdin holds; old shims run this", Hidden: true,
			Flags:  []cli.Flag{&cli.StringFlag{Name: "namespace"}, &cli.StringFlag{Name: "topic"}},
			Action: publish,
		}},
	}
	err := app.Run(args)
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "supervisord: %v\n", err)
	switch {
	case errors.Is(err, errUsage):
		return 2
	case errors.Is(err, errdefs.ErrUnavailable):
		return 3
	default:
		return 1
	}
}

// errUsage marks a command line that could not be read.
var errUsage = errors.New("usage")

func serve(c *cli.Context) error {
	if c.Args().Present() {
		return fmt.Errorf("%w: unexpected argument %q", errUsage, c.Args().First())
	}
	s, err := readSettings(c)
	if err != nil {
		return err
	}
	logger := ctxlog.New(os.Stderr, "supervisord", s.level)
	slog.SetDefault(logger)
	ctx, stop := signal.NotifyContext(ctxlog.With(context.Background(), logger), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	notify := os.Getenv("NOTIFY_SOCKET")
	_ = os.Unsetenv("NOTIFY_SOCKET") // it is for us, not for shims
	s.config.Ready = func() { tell(notify, daemon.SdNotifyReady) }
	err = supervisord.Run(ctx, s.config)
	tell(notify, daemon.SdNotifyStopping)
	return err
}

// tell notifies systemd, if it started us.
func tell(socket, state string) {
	if socket == "" {
		return
	}
	if err := os.Setenv("NOTIFY_SOCKET", socket); err != nil {
		return
	}
	if _, err := daemon.SdNotify(true, state); err != nil {
		slog.Warn("systemd was not notified", ctxlog.Error, err)
	}
}

func publish(c *cli.Context) error {
	ctx, cancel := context.WithTimeout(c.Context, publishTimeout)
	defer cancel()
	s, err := readSettings(c)
	if err != nil {
		return err
	}
	return supervisord.Publish(ctx, s.config.Address, c.String("namespace"), c.String("topic"), os.Stdin)
}
