package filters

import (
	"regexp"
	"strings"
)

// Adaptor gives a filter the fields of an object.
type Adaptor interface {
	// Field returns the value at a path, {"labels", "a.b"}, and whether it is there.
	Field(path []string) (value string, present bool)
}

// AdapterFunc is a function that is an Adaptor.
type AdapterFunc func(path []string) (string, bool)

// Field calls f.
func (f AdapterFunc) Field(path []string) (string, bool) { return f(path) }

// Filter decides about objects. It is safe for concurrent use.
type Filter interface {
	Match(a Adaptor) bool
}

// Labels looks up the label that path, "labels" and what follows, names. A key with
// dots may be written quoted or not.
func Labels(labels map[string]string, path []string) (string, bool) {
	if len(path) == 0 {
		return "", false
	}
	value, ok := labels[strings.Join(path, ".")]
	return value, ok
}

// all matches what each of its selectors matches; without any, it matches everything.
type all []selector

func (f all) Match(a Adaptor) bool {
	for _, s := range f {
		if !s.match(a) {
			return false
		}
	}
	return true
}

// anyOf matches what one of its filters matches.
type anyOf []all

func (f anyOf) Match(a Adaptor) bool {
	for _, filter := range f {
		if filter.Match(a) {
			return true
		}
	}
	return false
}

type operator uint8

const (
	opPresent operator = iota
	opEqual
	opNotEqual
	opMatches
)

type selector struct {
	path  []string
	op    operator
	value string
	re    *regexp.Regexp // with opMatches
}

func (s selector) match(a Adaptor) bool {
	value, present := a.Field(s.path)
	switch s.op {
	case opEqual:
		return present && value == s.value
	case opNotEqual:
		return value != s.value
	case opMatches:
		return present && s.re.MatchString(value)
	case opPresent:
	}
	return present
}
