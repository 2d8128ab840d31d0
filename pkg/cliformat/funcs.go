package cliformat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/template"
	"unicode"
	"unicode/utf8"
)

// functions are what a template of --format may call.
func functions() template.FuncMap {
	return template.FuncMap{
		"json":     toJSON,
		"split":    strings.Split,
		"join":     join,
		"title":    title,
		"lower":    strings.ToLower,
		"upper":    strings.ToUpper,
		"pad":      pad,
		"truncate": truncate,
	}
}

// headerFunctions leave the heading of a column alone.
func headerFunctions() template.FuncMap {
	same := func(s string) string { return s }
	return template.FuncMap{
		"json":     same,
		"title":    same,
		"lower":    same,
		"upper":    same,
		"split":    func(s, _ string) string { return s },
		"join":     func(s, _ string) string { return s },
		"pad":      func(s string, _, _ int) string { return s },
		"truncate": func(s string, _ int) string { return s },
	}
}

func toJSON(v any) (string, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(buf.String(), "\n"), nil
}

func join(list any, sep string) (string, error) {
	switch l := list.(type) {
	case []string:
		return strings.Join(l, sep), nil
	case []any:
		parts := make([]string, len(l))
		for i, v := range l {
			parts[i] = fmt.Sprint(v)
		}
		return strings.Join(parts, sep), nil
	case nil:
		return "", nil
	}
	return "", fmt.Errorf("join: want a list, not %T", list)
}

// title makes the first letter of each word upper case.
func title(s string) string {
	prev := ' '
	return strings.Map(func(r rune) rune {
		begins := !unicode.IsLetter(prev) && !unicode.IsDigit(prev) && prev != '_' && prev != '\''
		prev = r
		if begins {
			return unicode.ToTitle(r)
		}
		return r
	}, s)
}

// pad puts spaces around a text that is not empty.
func pad(s string, before, after int) string {
	if s == "" {
		return s
	}
	return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
}

func truncate(s string, n int) string {
	if n >= 0 && len(s) > n {
		return s[:n]
	}
	return s
}

// Ellipsis shortens s to at most n characters, the last of which says that there was more.
func Ellipsis(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	return string(r[:n-1]) + "…"
}

// ShortID is the first 12 characters of an id, without its algorithm.
func ShortID(id string) string {
	if _, hex, ok := strings.Cut(id, ":"); ok {
		id = hex
	}
	return truncate(id, 12)
}

// Compile parses a template of --format.
func Compile(format string) (*template.Template, error) {
	t, err := parse(format, functions())
	if err != nil {
		return nil, fmt.Errorf("template parsing error: %w", err)
	}
	return t, nil
}

func parse(format string, funcs template.FuncMap) (*template.Template, error) {
	return template.New("").Funcs(funcs).Parse(format)
}
