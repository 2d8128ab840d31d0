package filters

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// maxLength bounds a filter, in bytes: regular expressions are compiled from it.
const maxLength = 64 << 10

// ParseAll returns a filter that matches what any of the given ones matches; none match
// everything. Errors are of class ErrInvalidArgument and show where.
func ParseAll(filters ...string) (Filter, error) {
	if len(filters) == 0 {
		return all(nil), nil
	}
	out := make(anyOf, 0, len(filters))
	for _, s := range filters {
		f, err := parse(s)
		if err != nil {
			return nil, fmt.Errorf("filter %q: %w: %w", s, err, errdefs.ErrInvalidArgument)
		}
		out = append(out, f)
	}
	return out, nil
}

// parser reads one filter from left to right.
type parser struct {
	s   string
	pos int // in bytes
}

func parse(s string) (all, error) {
	if len(s) > maxLength {
		return nil, fmt.Errorf("longer than %d bytes", maxLength)
	}
	p := parser{s: s}
	var out all
	if s == "" {
		return out, nil
	}
	for {
		sel, err := p.selector()
		if err != nil {
			return nil, fmt.Errorf("at byte %d: %w", p.pos, err)
		}
		out = append(out, sel)
		if p.pos == len(p.s) {
			return out, nil
		}
		if !p.take(",") {
			return nil, fmt.Errorf("at byte %d: want a comma, have %q", p.pos, p.s[p.pos:])
		}
	}
}

func (p *parser) take(prefix string) bool {
	if strings.HasPrefix(p.s[p.pos:], prefix) {
		p.pos += len(prefix)
		return true
	}
	return false
}

func (p *parser) selector() (selector, error) {
	var s selector
	for {
		field, err := p.field()
		if err != nil {
			return s, err
		}
		s.path = append(s.path, field)
		if !p.take(".") {
			break
		}
	}
	switch {
	case p.take("=="):
		s.op = opEqual
	case p.take("!="):
		s.op = opNotEqual
	case p.take("~="):
		s.op = opMatches
	default:
		return s, nil
	}
	var err error
	if s.value, err = p.value(s.op == opMatches); err != nil {
		return s, err
	}
	if s.op == opMatches {
		if s.re, err = regexp.Compile(s.value); err != nil {
			return s, err
		}
	}
	return s, nil
}

// field reads a name: letters, digits and underscores, where the latter two do not
// begin it, or anything in double quotes.
func (p *parser) field() (string, error) {
	if p.pos < len(p.s) && p.s[p.pos] == '"' {
		return p.quoted('"')
	}
	start := p.pos
	for p.pos < len(p.s) {
		r, size := utf8.DecodeRuneInString(p.s[p.pos:])
		if r == utf8.RuneError || !(r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r)) {
			break
		}
		p.pos += size
	}
	if p.pos == start {
		return "", fmt.Errorf("want a field, have %q", p.s[p.pos:])
	}
	return p.s[start:p.pos], nil
}

// value reads what follows an operator: up to the next comma, or quoted. After "~=" a
// slash or a bar may quote too.
func (p *parser) value(regular bool) (string, error) {
	if p.pos == len(p.s) {
		return "", fmt.Errorf("want a value, have the end")
	}
	if c := p.s[p.pos]; c == '"' || regular && (c == '/' || c == '|') {
		return p.quoted(c)
	}
	value, _, _ := strings.Cut(p.s[p.pos:], ",")
	if !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return r == '"' || unicode.IsControl(r) }) {
		return "", fmt.Errorf("value %q must be quoted", value)
	}
	p.pos += len(value)
	if value == "" {
		return "", fmt.Errorf("want a value, have %q", p.s[p.pos:])
	}
	return value, nil
}

// quoted reads up to the closing quote and unescapes as Go does. Where that fails
// between slashes or bars ("|\d|"), the backslashes are the regular expression's own.
func (p *parser) quoted(quote byte) (string, error) {
	start := p.pos
	for i := start + 1; i < len(p.s); i++ {
		switch p.s[i] {
		case '\\':
			i++
		case quote:
			p.pos = i + 1
			return unquote(p.s[start+1:i], quote)
		}
	}
	return "", fmt.Errorf("quote %q is not closed", quote)
}

func unquote(body string, quote byte) (string, error) {
	if quote == '"' {
		s, err := strconv.Unquote(`"` + body + `"`)
		if err != nil {
			return "", fmt.Errorf("quoted string %q: %w", body, err)
		}
		return s, nil
	}
	plain := strings.ReplaceAll(body, `\`+string(quote), string(quote))
	if s, err := strconv.Unquote(`"` + strings.ReplaceAll(plain, `"`, `\"`) + `"`); err == nil {
		return s, nil
	}
	return plain, nil
}
