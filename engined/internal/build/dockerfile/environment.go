package dockerfile

import (
	"slices"
	"strings"
)

// environment is an ordered list of variables.
type environment struct{ list []string }

func (e *environment) set(key, value string) { e.list = setEnv(e.list, key, value) }

// Get implements shell.EnvGetter.
func (e *environment) Get(key string) (string, bool) {
	for _, kv := range e.list {
		if k, v, _ := strings.Cut(kv, "="); k == key {
			return v, true
		}
	}
	return "", false
}

// Keys implements shell.EnvGetter.
func (e *environment) Keys() []string {
	out := make([]string, 0, len(e.list))
	for _, kv := range e.list {
		k, _, _ := strings.Cut(kv, "=")
		out = append(out, k)
	}
	return out
}

func (e *environment) clone() *environment { return &environment{slices.Clone(e.list)} }

// setEnv replaces or adds a variable in a list that others may hold.
func setEnv(list []string, key, value string) []string {
	out := slices.Clone(list)
	for i, kv := range out {
		if k, _, _ := strings.Cut(kv, "="); k == key {
			out[i] = key + "=" + value
			return out
		}
	}
	return append(out, key+"="+value)
}

// nearest returns ` (did you mean x?)` for the name that is closest to wish, if any is
// close.
func nearest(wish string, names []string) string {
	best, least := "", max(2, len(wish)/3)+1
	for _, n := range names {
		if d := distance(strings.ToLower(wish), strings.ToLower(n)); d < least {
			best, least = n, d
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

// Nearest is nearest for others that name a thing which is not there.
func Nearest(wish string, names []string) string { return nearest(wish, names) }

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		prev := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			prev, row[j] = row[j], min(row[j]+1, row[j-1]+1, prev+cost)
		}
	}
	return row[len(b)]
}
