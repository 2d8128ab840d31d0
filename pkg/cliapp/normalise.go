package cliapp

import (
	"fmt"
	"strings"
)

// parsed is an argument list read by the table of a command.
type parsed struct {
	flags []string // canonical: --name=value, one per occurrence
	args  []string
	help  bool
	dash  bool // flags were ended by "--"
}

// normalise reads argv by the flags of a command. With stopAtArg, everything from the first argument
// on is left alone.
func normalise(flags []Flag, argv []string, stopAtArg bool) (parsed, error) {
	t := table{flags: flags}
	var p parsed
	for i := 0; i < len(argv); i++ {
		a := argv[i]
		switch {
		case a == "--":
			p.args = append(p.args, argv[i+1:]...)
			p.dash = true
			return p, nil
		case len(a) < 2 || a[0] != '-':
			if stopAtArg {
				p.args = append(p.args, argv[i:]...)
				return p, nil
			}
			p.args = append(p.args, a)
		case strings.HasPrefix(a, "--"):
			used, err := t.long(&p, a, argv[i+1:])
			if err != nil {
				return p, err
			}
			i += used
		default:
			used, err := t.bundle(&p, a, argv[i+1:])
			if err != nil {
				return p, err
			}
			i += used
		}
		if p.help {
			return p, nil
		}
	}
	return p, nil
}

type table struct{ flags []Flag }

// long reads --name, --name=value or --name value; used counts the arguments taken from rest.
func (t table) long(p *parsed, arg string, rest []string) (used int, err error) {
	name, value, hasValue := strings.Cut(arg[2:], "=")
	if name == "" || name[0] == '-' {
		return 0, fmt.Errorf("bad flag syntax: %s", arg)
	}
	f, ok := t.find(name, "")
	if !ok {
		if name == "help" {
			p.help = true
			return 0, nil
		}
		return 0, fmt.Errorf("unknown flag: --%s", name)
	}
	switch {
	case hasValue:
	case f.Kind == Bool:
		value = "true"
	case len(rest) == 0:
		return 0, fmt.Errorf("flag needs an argument: --%s", name)
	default:
		value, used = rest[0], 1
	}
	return used, t.set(p, f, value)
}

// bundle reads -abc, -avalue, -a=value or -a value.
func (t table) bundle(p *parsed, arg string, rest []string) (used int, err error) {
	letters := arg[1:]
	for letters != "" {
		letter := letters[:1]
		letters = letters[1:]
		f, ok := t.find("", letter)
		if !ok {
			if letter == "h" {
				p.help = true
				return 0, nil
			}
			return 0, fmt.Errorf("unknown shorthand flag: '%s' in %s", letter, arg)
		}
		var value string
		switch {
		case len(letters) > 1 && letters[0] == '=': // -n=1; a lone "-n=" keeps the sign, as pflag does
			value, letters = letters[1:], ""
		case f.Kind == Bool:
			value = "true"
		case letters != "":
			value, letters = letters, ""
		case len(rest) == 0:
			return 0, fmt.Errorf("flag needs an argument: '%s' in %s", letter, arg)
		default:
			value, used = rest[0], 1
		}
		if err := t.set(p, f, value); err != nil {
			return used, err
		}
	}
	return used, nil
}

func (t table) set(p *parsed, f Flag, value string) error {
	if err := f.check(value); err != nil {
		return fmt.Errorf("invalid argument %q for %q flag: %w", value, f.described(), err)
	}
	name := f.Name
	if f.AliasOf != "" {
		name = f.AliasOf
	}
	p.flags = append(p.flags, "--"+name+"="+value)
	return nil
}

func (t table) find(name, short string) (Flag, bool) {
	for _, f := range t.flags {
		if name != "" && f.Name == name || short != "" && f.Short == short {
			return f, true
		}
	}
	return Flag{}, false
}
