package cliformat

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Header maps the field of a row to the heading of its column.
type Header map[string]string

// Label is the heading of a column {{.Label "key"}}: the last part of the key.
func (Header) Label(key string) string {
	parts := strings.FieldsFunc(key, func(r rune) bool { return r == '.' || r == '-' || r == '_' })
	if len(parts) == 0 {
		return ""
	}
	return parts[len(parts)-1]
}

// Table is how a list of objects of one kind is printed.
type Table struct {
	Header Header
	// Columns is the template of one line of the default table.
	Columns string
	// Quiet is the template of one line with -q.
	Quiet string
}

// Choose turns the flags of a list command into a format for Write. configured is the user's own
// default; it does not hold with quiet.
func (t Table) Choose(format, configured string, quiet bool) string {
	if format == "" && !quiet {
		format = configured
	}
	switch {
	case format == "" && quiet, format == "table" && quiet:
		return t.Quiet
	case format == "", format == "table":
		return "table " + t.Columns
	case format == "json":
		return "{{json .}}"
	}
	return format
}

// Write prints one line per row.
func Write[R any](w io.Writer, t Table, format string, rows []R) error {
	format, isTable := strings.CutPrefix(format, "table")
	format = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(strings.TrimSpace(format))
	tmpl, err := parse(format, functions())
	if err != nil {
		return fmt.Errorf("failed to parse template: %w", err)
	}
	var buf bytes.Buffer
	for _, r := range rows {
		if err := tmpl.Execute(&buf, r); err != nil {
			return fmt.Errorf("failed to execute template: %w", err)
		}
		buf.WriteByte('\n')
	}
	if !isTable {
		_, err := w.Write(buf.Bytes())
		return err
	}
	heading, err := parse(format, headerFunctions())
	if err != nil {
		return fmt.Errorf("failed to parse template: %w", err)
	}
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if err := heading.Execute(tw, t.Header); err != nil {
		return fmt.Errorf("failed to execute template: %w", err)
	}
	fmt.Fprintln(tw)
	if _, err := tw.Write(buf.Bytes()); err != nil {
		return err
	}
	return tw.Flush()
}
