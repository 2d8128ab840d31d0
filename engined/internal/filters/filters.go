// Package filters reads the "filters" parameter of the Engine API, in both its forms,
// and matches labels and names against it.
package filters

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Args are the values of each filter key. The zero Args filters nothing out.
type Args map[string][]string

// Parse reads {"label":{"a=b":true}} or the older {"label":["a=b"]}; "" is no filter. Keys
// other than known ones are an error of class ErrInvalidArgument, with dockerd's words.
func Parse(s string, known ...string) (Args, error) {
	if s == "" {
		return Args{}, nil
	}
	args := Args{}
	var sets map[string]map[string]bool
	if err := json.Unmarshal([]byte(s), &sets); err == nil {
		for k, set := range sets {
			for v := range set {
				args[k] = append(args[k], v)
			}
			slices.Sort(args[k])
		}
	} else if err := json.Unmarshal([]byte(s), &args); err != nil {
		return nil, fmt.Errorf("invalid filter: %w", errdefs.ErrInvalidArgument)
	}
	for k := range args {
		if !slices.Contains(known, k) {
			return nil, fmt.Errorf("invalid filter '%s': %w", k, errdefs.ErrInvalidArgument)
		}
	}
	return args, nil
}

// Has reports whether there are values for key.
func (a Args) Has(key string) bool { return len(a[key]) > 0 }

// Exact reports whether value is one of the values of key, or key is not filtered.
func (a Args) Exact(key, value string) bool { return !a.Has(key) || slices.Contains(a[key], value) }

// Bool returns the value of a boolean key, or def without one. Anything but a boolean is
// of class ErrInvalidArgument.
func (a Args) Bool(key string, def bool) (bool, error) {
	if !a.Has(key) {
		return def, nil
	}
	switch strings.ToLower(a[key][0]) {
	case "1", "true", "t":
		return true, nil
	case "0", "false", "f":
		return false, nil
	}
	return false, fmt.Errorf("invalid filter '%s=%s': want true or false: %w", key, a[key][0], errdefs.ErrInvalidArgument)
}

// Match reports whether value matches one of the values of key as a regular expression
// or as a substring, or key is not filtered.
func (a Args) Match(key, value string) bool {
	if !a.Has(key) {
		return true
	}
	return slices.ContainsFunc(a[key], func(pattern string) bool {
		if re, err := regexp.Compile(pattern); err == nil && re.MatchString(value) {
			return true
		}
		return strings.Contains(value, pattern)
	})
}

// Labels reports whether labels satisfy every "label" value ("k" or "k=v") and none of
// the "label!" ones.
func (a Args) Labels(labels map[string]string) bool {
	has := func(want string) bool {
		k, v, exact := strings.Cut(want, "=")
		got, ok := labels[k]
		return ok && (!exact || got == v)
	}
	for _, want := range a["label"] {
		if !has(want) {
			return false
		}
	}
	return !slices.ContainsFunc(a["label!"], has)
}
