package cliapp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// StatusUsage is the exit status of a command line that could not be read, and of a run that
// failed before the container's program did.
const StatusUsage = 125

// App is a whole command line tool.
type App struct {
	Name     string
	Short    string
	Flags    []Flag // before the command
	Commands []Command
	// Version is what the global flag "version" prints.
	Version string
	// Footer ends the help text of the tool.
	Footer string
	// Before runs when the command is known, with the global flags set; the context it returns
	// is that of the command.
	Before func(context.Context, *cli.Context) (context.Context, error)
	Stdout io.Writer
	Stderr io.Writer
	// Width is the number of columns that help texts may use; 0 is 80.
	Width int
}

// ExitError ends the process with a status. An empty Message prints nothing.
type ExitError struct {
	Status  int
	Message string
}

func (e *ExitError) Error() string { return e.Message }

// Exit makes an ExitError.
func Exit(status int, format string, args ...any) error {
	return &ExitError{Status: status, Message: fmt.Sprintf(format, args...)}
}

// usageError is a command line that could not be read.
type usageError struct {
	status  int
	message string
	command string // whole: "engine run"
	usage   string // usage line; empty prints none
}

func (e *usageError) Error() string { return e.message }

// call is a command line that has been read.
type call struct {
	command Command
	path    string // "engine container ls"
	global  []string
	bare    bool // a group without a command
	parsed
}

// Run executes argv (without the name of the program) and returns the exit status.
func (a *App) Run(ctx context.Context, argv []string) int {
	err := a.run(ctx, argv)
	if err == nil {
		return 0
	}
	if u, ok := errors.AsType[*usageError](err); ok {
		a.printUsageError(u)
		return u.status
	}
	if e, ok := errors.AsType[*ExitError](err); ok {
		if e.Message != "" {
			fmt.Fprintln(a.Stderr, e.Message)
		}
		return e.Status
	}
	if !errors.Is(err, context.Canceled) { // whoever interrupted us knows
		fmt.Fprintln(a.Stderr, err)
	}
	return 1
}

func (a *App) run(ctx context.Context, argv []string) error {
	c, err := a.read(argv)
	if err != nil {
		return err
	}
	if a.Version != "" && slices.Contains(c.global, "--version=true") {
		_, err := fmt.Fprintln(a.Stdout, a.Version)
		return err
	}
	if c.help || c.bare {
		return a.writeHelp(c)
	}
	if err := checkArgs(c, a.Name); err != nil {
		return err
	}
	return a.execute(ctx, c)
}

// read finds the command and reads its flags.
func (a *App) read(argv []string) (call, error) {
	root := Command{Name: a.Name, Commands: a.Commands, Flags: a.Flags, Args: "[OPTIONS] COMMAND", Short: a.Short}
	global, err := normalise(a.Flags, argv, true)
	if err != nil {
		return call{}, &usageError{status: StatusUsage, message: err.Error(), command: a.Name, usage: a.Name + " [OPTIONS] COMMAND [ARG...]"}
	}
	c := call{command: root, path: a.Name, global: global.flags}
	if global.help {
		c.help = true
		return c, nil
	}
	rest := global.args
	if len(rest) > 0 && rest[0] == "help" {
		rest = append(slices.Clone(rest[1:]), "--help")
	}
	for len(c.command.Commands) > 0 {
		if len(rest) == 0 {
			c.bare = true
			return c, nil
		}
		if strings.HasPrefix(rest[0], "-") && len(rest[0]) > 1 {
			return c, a.groupFlag(&c, rest)
		}
		sub := find(c.command.Commands, rest[0])
		if sub == nil {
			return c, a.unknownCommand(c, rest[0])
		}
		c.command, c.path, rest = *sub, c.path+" "+rest[0], rest[1:]
	}
	if c.command.RawArgs {
		c.args = rest
		c.help = len(rest) == 1 && rest[0] == "--help"
		return c, nil
	}
	c.parsed, err = normalise(c.command.Flags, rest, c.command.StopAtArg)
	if err != nil {
		return c, &usageError{status: StatusUsage, message: err.Error(), command: c.path, usage: c.path + " " + c.command.Args}
	}
	return c, nil
}

// groupFlag handles flags after a group's name; only --help is one.
func (a *App) groupFlag(c *call, rest []string) error {
	p, err := normalise(nil, rest, true)
	if err != nil {
		return &usageError{status: StatusUsage, message: err.Error(), command: c.path, usage: c.path + " " + c.command.Args}
	}
	c.help = p.help
	return nil
}

func find(commands []Command, name string) *Command {
	for i := range commands {
		if commands[i].has(name) {
			return &commands[i]
		}
	}
	return nil
}

func (a *App) unknownCommand(c call, name string) error {
	u := &usageError{status: 1, command: c.path, message: fmt.Sprintf("%s: unknown command: %s %s", a.Name, c.path, name)}
	if c.path != a.Name {
		u.usage = c.path
	}
	if near := nearest(c.command.Commands, name); len(near) > 0 {
		u.message += "\n\nDid you mean this?\n\t" + strings.Join(near, "\n\t")
	}
	return u
}

// checkArgs compares the number of arguments with the table.
func checkArgs(c call, app string) error {
	n, lo, hi := len(c.args), c.command.Min, c.command.Max
	if n >= lo && (hi < 0 || n <= hi) {
		return nil
	}
	var want string
	switch {
	case hi == 0:
		want = "accepts no arguments"
	case lo == hi:
		want = "requires " + count(lo)
	case n < lo && hi < 0:
		want = "requires at least " + count(lo)
	case n > hi && lo == 0:
		want = "requires at most " + count(hi)
	default:
		want = fmt.Sprintf("requires at least %d and at most %s", lo, count(hi))
	}
	return &usageError{
		status: 1, command: c.path, usage: c.path + " " + c.command.Args,
		message: fmt.Sprintf("%s: '%s' %s", app, c.path, want),
	}
}

func count(n int) string {
	if n == 1 {
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", n)
}

func (a *App) printUsageError(u *usageError) {
	fmt.Fprintf(a.Stderr, "%s\n\n", u.message)
	if u.usage != "" {
		fmt.Fprintf(a.Stderr, "Usage:  %s\n\n", u.usage)
	}
	fmt.Fprintf(a.Stderr, "Run '%s --help' for more information\n", u.command)
}

// execute hands the one command that was named to urfave/cli.
func (a *App) execute(ctx context.Context, c call) error {
	cmdName := c.command.Name
	app := &cli.App{
		Name:                      a.Name,
		HideHelp:                  true,
		HideVersion:               true,
		DisableSliceFlagSeparator: true,
		Writer:                    a.Stdout,
		ErrWriter:                 a.Stderr,
		Flags:                     urfaveFlags(a.Flags),
		ExitErrHandler:            func(*cli.Context, error) {},
		Commands: []*cli.Command{{
			Name:     cmdName,
			HideHelp: true,
			Flags:    urfaveFlags(c.command.Flags),
			Action: func(cc *cli.Context) error {
				ctx, err := a.before(cc)
				if err != nil {
					return err
				}
				return c.command.Action(ctx, cc)
			},
		}},
	}
	argv := append([]string{a.Name}, c.global...)
	argv = append(argv, cmdName)
	argv = append(argv, c.flags...)
	argv = append(argv, "--")
	return app.RunContext(ctx, append(argv, c.args...))
}

func (a *App) before(cc *cli.Context) (context.Context, error) {
	if a.Before == nil {
		return cc.Context, nil
	}
	return a.Before(cc.Context, cc)
}

func urfaveFlags(flags []Flag) []cli.Flag {
	out := make([]cli.Flag, 0, len(flags))
	for _, f := range flags {
		if f.AliasOf == "" {
			out = append(out, f.urfave())
		}
	}
	return out
}
