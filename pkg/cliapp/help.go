package cliapp

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

const defaultWidth = 80

// writeHelp prints the help text of a command to stdout.
func (a *App) writeHelp(c call) error {
	width := a.Width
	if width <= 0 {
		width = defaultWidth
	}
	h := helpWriter{w: a.Stdout, width: width, app: a.Name}
	if c.bare && c.path != a.Name {
		h.w = a.Stderr // nobody asked for help: stdout may be read by a script
	}
	h.usage(c)
	h.printf("\n%s\n", orElse(c.command.Long, c.command.Short))
	h.aliases(c)
	h.commands(c.command.Commands)
	switch {
	case c.path == a.Name:
		h.flags("Global Options", a.Flags)
	case len(c.command.Flags) > 0:
		h.flags("Options", c.command.Flags)
	}
	if len(c.command.Commands) > 0 {
		h.printf("\nRun '%s COMMAND --help' for more information on a command.\n", c.path)
	}
	if c.path == a.Name && a.Footer != "" {
		h.printf("\n%s\n", a.Footer)
	}
	return h.err
}

func orElse(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

type helpWriter struct {
	w     io.Writer
	width int
	app   string
	err   error
}

func (h *helpWriter) printf(format string, args ...any) {
	if h.err == nil {
		_, h.err = fmt.Fprintf(h.w, format, args...)
	}
}

func (h *helpWriter) usage(c call) {
	args := c.command.Args
	if args == "" && len(c.command.Commands) > 0 {
		args = "COMMAND"
	}
	h.printf("Usage:  %s\n", strings.TrimSpace(c.path+" "+args))
	for _, more := range c.command.MoreUsage {
		h.printf("\t%s %s\n", c.path, more)
	}
}

func (h *helpWriter) aliases(c call) {
	if len(c.command.Also) == 0 {
		return
	}
	names := make([]string, len(c.command.Also))
	for i, also := range c.command.Also {
		names[i] = h.app + " " + also
	}
	h.printf("\nAliases:\n  %s\n", strings.Join(names, ", "))
}

// commands lists the sub-commands, by section in the order of first appearance.
func (h *helpWriter) commands(commands []Command) {
	var sections []string
	pad := 0
	for _, c := range commands {
		if c.Hidden {
			continue
		}
		pad = max(pad, len(c.Name))
		if !slices.Contains(sections, c.Section) {
			sections = append(sections, c.Section)
		}
	}
	pad = max(pad, 11)
	for _, s := range sections {
		h.printf("\n%s:\n", orElse(s, "Commands"))
		for _, c := range commands {
			if c.Section == s && !c.Hidden {
				h.printf("  %-*s %s\n", pad, c.Name, c.Short)
			}
		}
	}
}

// flags lists flags sorted by name, with descriptions wrapped into their column.
func (h *helpWriter) flags(title string, flags []Flag) {
	sorted := slices.DeleteFunc(slices.Clone(flags), func(f Flag) bool { return f.Hidden })
	if len(sorted) == 0 {
		return
	}
	slices.SortFunc(sorted, func(a, b Flag) int { return strings.Compare(a.Name, b.Name) })
	left := make([]string, len(sorted))
	pad := 0
	for i, f := range sorted {
		left[i] = leftColumn(f)
		pad = max(pad, len(left[i]))
	}
	pad += 3
	h.printf("\n%s:\n", title)
	for i, f := range sorted {
		lines := wrap(f.Usage+defaultNote(f), h.width-pad)
		h.printf("%-*s%s\n", pad, left[i], lines[0])
		for _, l := range lines[1:] {
			h.printf("%*s%s\n", pad, "", l)
		}
	}
}

func leftColumn(f Flag) string {
	s := "      --" + f.Name
	if f.Short != "" {
		s = "  -" + f.Short + ", --" + f.Name
	}
	if t := f.typeName(); t != "" {
		s += " " + t
	}
	return s
}

func defaultNote(f Flag) string {
	switch {
	case f.Default == "", f.Default == "0", f.Default == "false":
		return ""
	case f.Kind == String && f.Type == "":
		return fmt.Sprintf(" (default %q)", f.Default)
	}
	return " (default " + f.Default + ")"
}

// wrap breaks text at spaces into lines of at most width columns; line breaks in it stay.
func wrap(text string, width int) []string {
	width = max(width, 24)
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		for len(line) > width {
			cut := strings.LastIndexByte(line[:width+1], ' ')
			if cut <= 0 {
				break
			}
			out = append(out, line[:cut])
			line = strings.TrimLeft(line[cut:], " ")
		}
		out = append(out, line)
	}
	return out
}
