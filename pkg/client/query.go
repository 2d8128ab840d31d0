package client

import (
	"encoding/json"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
)

// Filters are the filters of a list, prune or events call: key → wanted values.
type Filters map[string]map[string]bool

// ParseFilters reads KEY=VALUE pairs, as a user writes them.
func ParseFilters(pairs []string) (Filters, error) {
	f := Filters{}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok {
			return nil, errBadFilter{}
		}
		f.Add(strings.ToLower(strings.TrimSpace(k)), strings.TrimSpace(v))
	}
	return f, nil
}

// Add adds one wanted value.
func (f Filters) Add(key, value string) {
	if f[key] == nil {
		f[key] = map[string]bool{}
	}
	f[key][value] = true
}

func (f Filters) addTo(q url.Values) {
	if len(f) == 0 {
		return
	}
	if data, err := json.Marshal(f); err == nil { // a map of maps of bool always encodes
		q.Set("filters", string(data))
	}
}

func (f Filters) query() url.Values {
	q := url.Values{}
	f.addTo(q)
	return q
}

type errBadFilter struct{}

func (errBadFilter) Error() string { return "bad format of filter (expected name=value)" }
func (errBadFilter) Unwrap() error { return errdefs.ErrInvalidArgument }

func setBool(q url.Values, key string, v bool) {
	if v {
		q.Set(key, "1")
	}
}

func setString(q url.Values, key, v string) {
	if v != "" {
		q.Set(key, v)
	}
}
