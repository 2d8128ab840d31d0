package ocirun

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"strata/ocirun/internal/state"
	"strata/pkg/ctxlog"
)

// Version and Commit are set by the linker (-X).
var (
	Version = "dev"
	Commit  = "unknown"
)

// specVersion is the runtime-spec that is implemented.
const specVersion = "1.3.0"

// runcVersion is the release of runc whose command line is spoken.
const runcVersion = "1.3.0"

// Config is what a process is started with.
type Config struct {
	Args           []string // without the program's name
	Stdin          *os.File
	Stdout, Stderr *os.File
}

// global are the flags in front of the verb.
type global struct {
	root, log, logFormat string
	debug, systemdCgroup bool
	rootless             string
	version, help        bool
}

// app is one invocation.
type app struct {
	cfg   Config
	glob  global
	store state.Store
	log   io.Writer

	logFile *os.File // nil unless --log names one
}

func (a *app) closeLog() {
	if a.logFile != nil {
		_ = a.logFile.Close() // written to, never buffered
	}
}

// exitError is a status that a verb ends with, without a message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Run does what the arguments say and returns the exit status. Errors go to the log
// and to standard error.
func Run(ctx context.Context, cfg Config) int {
	a := &app{cfg: cfg, log: cfg.Stderr}
	defer a.closeLog()
	err := a.run(ctx)
	if err == nil {
		return 0
	}
	var status exitError
	if errors.As(err, &status) {
		return int(status)
	}
	a.complain(a.context(ctx), err)
	return 1
}

// complain writes an error to the log and, if that is a file, to standard error. Its
// words are read by callers; its class only by us.
func (a *app) complain(ctx context.Context, err error) {
	ctxlog.From(ctx).Error(message(err))
	if a.log != io.Writer(a.cfg.Stderr) {
		fmt.Fprintln(a.cfg.Stderr, "ocirun: "+message(err))
	}
}

// message is the text of err without the name of its class, which the style puts last.
func message(err error) string {
	text := err.Error()
	for _, class := range []error{
		errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrFailedPrecondition,
		errdefs.ErrPermissionDenied, errdefs.ErrUnavailable,
	} {
		if suffix := ": " + class.Error(); errors.Is(err, class) && len(text) > len(suffix) && text[len(text)-len(suffix):] == suffix {
			return text[:len(text)-len(suffix)]
		}
	}
	return text
}

func (a *app) context(ctx context.Context) context.Context {
	level := slog.LevelInfo
	if a.glob.debug {
		level = slog.LevelDebug
	}
	return ctxlog.With(ctx, slog.New(&logHandler{w: a.log, json: a.glob.logFormat == "json", level: level}))
}

func (a *app) run(ctx context.Context) error {
	f := newFlags("ocirun")
	g := &a.glob
	f.str(&g.root, "root")
	f.str(&g.log, "log")
	f.str(&g.logFormat, "log-format")
	f.bool(&g.debug, "debug")
	f.bool(&g.systemdCgroup, "systemd-cgroup")
	f.str(&g.rootless, "rootless")
	f.ignored("criu")
	f.bool(&g.version, "version", "v")
	f.bool(&g.help, "help", "h")
	rest, err := f.parse(a.cfg.Args)
	if err != nil {
		return err
	}
	switch g.logFormat {
	case "", "text", "json":
	default:
		return fmt.Errorf("unknown log-format %q: %w", g.logFormat, errdefs.ErrInvalidArgument)
	}
	if g.log != "" {
		file, err := os.OpenFile(g.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return err
		}
		a.log, a.logFile = file, file
	}
	if a.store.Root, err = rootDir(g.root); err != nil {
		return err
	}
	if g.version {
		a.printVersion()
		return nil
	}
	if g.help || len(rest) == 0 {
		_, err := io.WriteString(a.cfg.Stdout, usage)
		return err
	}
	return a.verb(a.context(ctx), rest[0], rest[1:])
}

// rootDir is where states are kept.
func rootDir(flag string) (string, error) {
	if flag != "" {
		return filepath.Abs(flag)
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		return filepath.Join(dir, "ocirun"), nil
	}
	return "/run/ocirun", nil
}

func (a *app) verb(ctx context.Context, verb string, args []string) error {
	if len(args) > 0 && (args[0] == "-h" || args[0] == "--help") && strings.Contains(usage, "\n  "+verb) {
		_, err := fmt.Fprintf(a.cfg.Stdout, "NAME:\n   ocirun %s - see runc-%s(8) for its flags\n", verb, verb)
		return err
	}
	switch verb {
	case "create":
		return a.create(ctx, args)
	case "run":
		return a.runVerb(ctx, args)
	case "start":
		return a.start(ctx, args)
	case "state":
		return a.state(args)
	case "kill":
		return a.kill(args)
	case "delete":
		return a.delete(ctx, args)
	case "exec":
		return a.exec(ctx, args)
	case "list":
		return a.list(args)
	case "ps":
		return a.ps(args)
	case "pause":
		return a.pause(ctx, args)
	case "resume":
		return a.resume(ctx, args)
	case "update":
		return a.update(args)
	case "spec":
		return a.spec(args)
	case "features":
		return a.features(args)
	case "events":
		return a.events(ctx, args)
	case "checkpoint", "restore":
		return fmt.Errorf("%s: %w", verb, errdefs.ErrNotImplemented)
	case "help":
		_, err := io.WriteString(a.cfg.Stdout, usage)
		return err
	}
	return fmt.Errorf("No help topic for '%s'", verb) //nolint:staticcheck // callers know these words
}

// printVersion has runc's three lines: go-runc wants "runc version " in front, and
// callers compare what follows with releases of runc.
func (a *app) printVersion() {
	fmt.Fprintf(a.cfg.Stdout, "runc version %s+ocirun-%s\ncommit: %s\nspec: %s\n", runcVersion, Version, Commit, specVersion)
}

const usage = `NAME:
   ocirun - runs containers from OCI bundles, with runc's command line

USAGE:
   ocirun [--root DIR] [--log FILE] [--log-format json|text] [--debug] [--systemd-cgroup] [--rootless BOOL] VERB …

  create   make a container that waits for its start
  start    let it run
  run      create, start and wait
  exec     run another process in it
  state    print its state
  list     print all containers
  ps       print its processes
  kill     send it a signal
  pause    freeze it
  resume   let it go on
  update   change its limits
  events   print its counters
  delete   free what a stopped container holds
  spec     write a sample config.json
  features print what this runtime can do
  checkpoint
  restore  are not implemented
`
