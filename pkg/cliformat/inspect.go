package cliformat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/template"
)

// Element is an inspected object: decoded, and as the daemon wrote it.
type Element struct {
	Typed any
	Raw   []byte
}

// Inspect prints what get finds for each name. The objects that are found are printed even if
// others are not; the first error is returned.
func Inspect(w io.Writer, format string, names []string, get func(name string) (Element, error)) error {
	var tmpl *template.Template
	if format != "" && format != "json" {
		var err error
		if tmpl, err = Compile(format); err != nil {
			return err
		}
	}
	var found []json.RawMessage
	var firstErr error
	for _, name := range names {
		e, err := get(name)
		if err == nil && tmpl != nil {
			err = execute(w, tmpl, e)
		}
		if err != nil {
			if firstErr == nil {
				firstErr = err
			} else {
				firstErr = fmt.Errorf("%w\n%w", firstErr, err)
			}
			continue
		}
		found = append(found, e.Raw)
	}
	if tmpl != nil {
		return firstErr
	}
	if err := writeArray(w, found, format == ""); err != nil {
		return err
	}
	return firstErr
}

// execute tries the decoded object, and the daemon's own words where the template names something
// that our types do not have.
func execute(w io.Writer, tmpl *template.Template, e Element) error {
	var buf bytes.Buffer
	if err := tmpl.Execute(&buf, e.Typed); err != nil {
		var raw any
		dec := json.NewDecoder(bytes.NewReader(e.Raw))
		dec.UseNumber()
		if err := dec.Decode(&raw); err != nil {
			return fmt.Errorf("decode object: %w", err)
		}
		buf.Reset()
		if err := tmpl.Option("missingkey=error").Execute(&buf, raw); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
	}
	buf.WriteByte('\n')
	_, err := w.Write(buf.Bytes())
	return err
}

func writeArray(w io.Writer, elems []json.RawMessage, indent bool) error {
	var buf bytes.Buffer
	buf.WriteByte('[')
	for i, e := range elems {
		if i > 0 {
			buf.WriteByte(',')
		}
		buf.Write(e)
	}
	buf.WriteByte(']')
	var out bytes.Buffer
	var err error
	if indent {
		err = json.Indent(&out, buf.Bytes(), "", "    ")
	} else {
		err = json.Compact(&out, buf.Bytes())
	}
	if err != nil {
		return fmt.Errorf("layout objects: %w", err)
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}
