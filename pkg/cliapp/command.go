package cliapp

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"
)

// Command is one verb, or a group of verbs when Commands is not empty.
type Command struct {
	Name string
	// Aliases are other names in the same place ("ls" → "list").
	Aliases []string
	// Also lists whole command lines that do the same, for the help text ("ps").
	Also []string
	// Args is the usage after the name: "[OPTIONS] IMAGE [COMMAND] [ARG...]".
	Args string
	// MoreUsage are further usage lines, each after the name.
	MoreUsage []string
	Short     string
	// Long replaces Short at the top of the help text.
	Long string
	// Section is the heading in the list of commands of the parent.
	Section string
	Hidden  bool

	Min int
	// Max is the largest number of arguments; -1 is any.
	Max int
	// StopAtArg ends the flags at the first argument, so that what follows belongs to another program.
	StopAtArg bool
	// RawArgs leaves everything after the name to the command, flags too.
	RawArgs bool

	Flags    []Flag
	Commands []Command
	Action   func(context.Context, *cli.Context) error
}

func (c *Command) has(name string) bool { return c.Name == name || slices.Contains(c.Aliases, name) }

// Kind is how the value of a flag is kept.
type Kind int

// The kinds of flags, and the method of cli.Context that reads each.
const (
	Bool     Kind = iota // Bool
	String               // String
	List                 // StringSlice
	Int                  // Int64
	Duration             // Duration
)

// Flag is one row of the flag table of a command.
type Flag struct {
	Name  string
	Short string // one letter or empty
	Kind  Kind
	// Type is the word for the value in the help text; empty takes that of the Kind.
	Type  string
	Usage string
	// Default is what holds without the flag; in the help text unless it is the zero value.
	Default string
	// Check, if set, looks at each value before the command runs.
	Check  func(string) error
	Hidden bool
	// AliasOf makes the flag another name of that one ("net" of "network").
	AliasOf string
}

func (f Flag) typeName() string {
	if f.Type != "" {
		return f.Type
	}
	return [...]string{Bool: "", String: "string", List: "list", Int: "int", Duration: "duration"}[f.Kind]
}

// check validates one value as the kind and the flag want it.
func (f Flag) check(v string) error {
	var err error
	switch f.Kind {
	case Bool:
		_, err = strconv.ParseBool(v)
	case Int:
		_, err = strconv.ParseInt(v, 10, 64)
	case Duration:
		_, err = time.ParseDuration(v)
	case String, List:
	}
	if err == nil && f.Check != nil {
		err = f.Check(v)
	}
	return err
}

// urfave is the flag as the library knows it.
func (f Flag) urfave() cli.Flag {
	switch f.Kind {
	case Bool:
		v, _ := strconv.ParseBool(f.Default)
		return &cli.BoolFlag{Name: f.Name, Value: v}
	case Int:
		v, _ := strconv.ParseInt(f.Default, 10, 64)
		return &cli.Int64Flag{Name: f.Name, Value: v}
	case Duration:
		v, _ := time.ParseDuration(f.Default)
		return &cli.DurationFlag{Name: f.Name, Value: v}
	case List:
		return &cli.StringSliceFlag{Name: f.Name}
	case String:
	}
	return &cli.StringFlag{Name: f.Name, Value: f.Default}
}

// described is the flag in the words of an error: "-t, --timeout".
func (f Flag) described() string {
	if f.Short != "" {
		return fmt.Sprintf("-%s, --%s", f.Short, f.Name)
	}
	return "--" + f.Name
}
