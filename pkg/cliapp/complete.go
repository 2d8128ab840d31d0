package cliapp

import (
	"slices"
	"strings"
)

// Complete returns the candidates for the last of words: commands, flags, or what objects says for
// the argument at a position of the command at path.
func (a *App) Complete(words []string, objects func(path []string, position int) []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	c := Command{Commands: a.Commands, Flags: a.Flags}
	var path []string
	position, skip := 0, false
	for _, w := range words[:len(words)-1] {
		switch {
		case skip:
			skip = false
		case strings.HasPrefix(w, "-"):
			skip = takesNext(c.Flags, w)
		case len(c.Commands) > 0:
			sub := find(c.Commands, w)
			if sub == nil {
				return nil
			}
			c, path = *sub, append(path, sub.Name)
		default:
			position++
		}
	}
	var out []string
	switch {
	case skip:
		return nil // the value of a flag
	case c.StopAtArg && position > 0 && len(c.Commands) == 0:
		out = objects(path, position)
	case strings.HasPrefix(last, "-"):
		out = flagNames(c.Flags)
	case len(c.Commands) > 0:
		out = commandNames(c.Commands)
	case c.Max != 0 && (c.Max < 0 || position < c.Max):
		out = objects(path, position)
	}
	out = slices.DeleteFunc(out, func(s string) bool { return !strings.HasPrefix(s, last) })
	slices.Sort(out)
	return slices.Compact(out)
}

// takesNext says whether the word after flag w is its value.
func takesNext(flags []Flag, w string) bool {
	if strings.Contains(w, "=") {
		return false
	}
	t := table{flags: flags}
	if name, ok := strings.CutPrefix(w, "--"); ok {
		f, known := t.find(name, "")
		return known && f.Kind != Bool
	}
	for i := 1; i < len(w); i++ {
		f, known := t.find("", w[i:i+1])
		if known && f.Kind != Bool {
			return i == len(w)-1
		}
	}
	return false
}

func flagNames(flags []Flag) []string {
	out := []string{"--help"}
	for _, f := range flags {
		if !f.Hidden {
			out = append(out, "--"+f.Name)
		}
	}
	return out
}

func commandNames(commands []Command) []string {
	var out []string
	for _, c := range commands {
		if !c.Hidden {
			out = append(out, c.Name)
		}
	}
	return out
}
