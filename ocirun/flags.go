package ocirun

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// flags parses one level of the command line: "--name value", "--name=value", one or
// two dashes, up to the first word that is no flag. It is small because every verb's
// start-up pays for it.
type flags struct {
	verb string
	defs map[string]flagDef
}

type flagDef struct {
	set    func(string) error
	isBool bool
}

func newFlags(verb string) *flags { return &flags{verb, map[string]flagDef{}} }

func (f *flags) add(d flagDef, names []string) {
	for _, n := range names {
		f.defs[n] = d
	}
}

func (f *flags) str(p *string, names ...string) {
	f.add(flagDef{set: func(s string) error { *p = s; return nil }}, names)
}

func (f *flags) strs(p *[]string, names ...string) {
	f.add(flagDef{set: func(s string) error { *p = append(*p, s); return nil }}, names)
}

func (f *flags) bool(p *bool, names ...string) {
	f.add(flagDef{isBool: true, set: func(s string) (err error) {
		*p, err = strconv.ParseBool(s)
		return err
	}}, names)
}

func (f *flags) int(p *int, names ...string) {
	f.add(flagDef{set: func(s string) (err error) {
		*p, err = strconv.Atoi(s)
		return err
	}}, names)
}

// ignored are flags with a value that have no meaning here and are sent by callers.
func (f *flags) ignored(names ...string) {
	f.add(flagDef{set: func(string) error { return nil }}, names)
}

// parse returns the words after the flags.
func (f *flags) parse(args []string) ([]string, error) {
	for i := 0; i < len(args); i++ {
		word := args[i]
		if word == "--" {
			return args[i+1:], nil
		}
		if len(word) < 2 || word[0] != '-' {
			return args[i:], nil
		}
		name, value, given := strings.Cut(strings.TrimLeft(word, "-"), "=")
		d, ok := f.defs[name]
		if !ok {
			return nil, fmt.Errorf("%s: flag provided but not defined: -%s: %w", f.verb, name, errdefs.ErrInvalidArgument)
		}
		switch {
		case d.isBool && !given:
			value = "true"
		case !d.isBool && !given:
			if i++; i == len(args) {
				return nil, fmt.Errorf("%s: flag needs an argument: -%s: %w", f.verb, name, errdefs.ErrInvalidArgument)
			}
			value = args[i]
		}
		if err := d.set(value); err != nil {
			return nil, fmt.Errorf("%s: invalid value %q for flag -%s: %w", f.verb, value, name, errdefs.ErrInvalidArgument)
		}
	}
	return nil, nil
}

// parseID parses a verb's flags and its one word, a container's id.
func (f *flags) parseID(args []string) (string, error) {
	rest, err := f.parseMixed(args)
	if err != nil {
		return "", err
	}
	if len(rest) != 1 {
		return "", fmt.Errorf("%q requires exactly 1 argument(s): %w", f.verb, errdefs.ErrInvalidArgument)
	}
	return rest[0], nil
}

// parseMixed also takes flags after words, as in "delete ID --force".
func (f *flags) parseMixed(args []string) ([]string, error) {
	var words []string
	for len(args) > 0 {
		rest, err := f.parse(args)
		if err != nil {
			return nil, err
		}
		if len(rest) == 0 {
			break
		}
		words = append(words, rest[0])
		args = rest[1:]
	}
	return words, nil
}
