package build

import (
	"bytes"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// ignored reports whether a .dockerignore leaves a file out.
func ignored(text []byte, name string) bool {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(text))
	if err != nil {
		return false
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return false
	}
	out, err := m.MatchesOrParentMatches(name)
	return err == nil && out
}

// ShortHash names a text.
func ShortHash(text string) string { return key(text)[len("sha256:") : len("sha256:")+12] }
