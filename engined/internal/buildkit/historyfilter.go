package buildkit

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strata/engined/internal/build"
	"strata/pkg/buildkit/controlpb"
)

// condition is one of a filter of the history.
type condition func(*controlpb.BuildHistoryRecord) bool

// historyFilter is lists of conditions: a record fits if it meets all of one list. None fits
// every record.
type historyFilter [][]condition

func (f historyFilter) fits(r *controlpb.BuildHistoryRecord) bool {
	for _, list := range f {
		met := true
		for _, c := range list {
			met = met && c(r)
		}
		if met {
			return true
		}
	}
	return len(f) == 0
}

// parseHistoryFilter reads BuildKit's filters: each is a line of CSV, "status==error",
// "ref~=REGEXP", "repository!=URL", "startedAt>24h" (longer ago than that or, of a time,
// later), "duration<=1m".
//
// Source: moby/buildkit solver/llbsolver/history/filter.go.
func parseHistoryFilter(list []string, now time.Time) (historyFilter, error) {
	var out historyFilter
	for _, line := range list {
		fields, err := csv.NewReader(strings.NewReader(line)).Read()
		if errors.Is(err, io.EOF) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("filter %q: %w: %w", line, err, errdefs.ErrInvalidArgument)
		}
		var all []condition
		for _, f := range fields {
			c, err := parseCondition(f, now)
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
		out = append(out, all)
	}
	return out, nil
}

// operators are tried in their order.
var operators = regexp.MustCompile(`==|~=|!=|>=|<=|>|<`)

func parseCondition(text string, now time.Time) (condition, error) {
	at := operators.FindStringIndex(text)
	if at == nil {
		return nil, fmt.Errorf("filter %q: %w", text, errdefs.ErrInvalidArgument)
	}
	key, op, value := text[:at[0]], text[at[0]:at[1]], text[at[1]:]
	if plain, err := strconv.Unquote(value); err == nil {
		value = plain
	}
	bad := fmt.Errorf("filter %q: %w", text, errdefs.ErrInvalidArgument)
	switch key {
	case "ref", "status", "repository":
		return textCondition(recordTexts[key], op, value, bad)
	case "startedAt", "completedAt":
		limit, err := time.Parse(time.RFC3339, value)
		if d, derr := time.ParseDuration(value); derr == nil {
			limit, err = now.Add(-d), nil
		}
		if err != nil {
			return nil, bad
		}
		return orderCondition(op, bad, func(r *controlpb.BuildHistoryRecord) (int, bool) {
			if key == "startedAt" {
				return r.CreatedAt.AsTime().Compare(limit), true
			}
			return r.CompletedAt.AsTime().Compare(limit), r.CompletedAt != nil
		})
	case "duration":
		limit, err := time.ParseDuration(value)
		if err != nil {
			return nil, bad
		}
		return orderCondition(op, bad, func(r *controlpb.BuildHistoryRecord) (int, bool) {
			return cmp.Compare(r.CompletedAt.AsTime().Sub(r.CreatedAt.AsTime()), limit), r.CompletedAt != nil
		})
	}
	return nil, fmt.Errorf("filter %q: there are ref, status, repository, startedAt, completedAt and duration: %w", text, errdefs.ErrInvalidArgument)
}

func textCondition(of func(*controlpb.BuildHistoryRecord) string, op, value string, bad error) (condition, error) {
	switch op {
	case "==":
		return func(r *controlpb.BuildHistoryRecord) bool { return of(r) == value }, nil
	case "!=":
		return func(r *controlpb.BuildHistoryRecord) bool { return of(r) != value }, nil
	case "~=":
		pattern, err := regexp.Compile(value)
		if err != nil {
			return nil, bad
		}
		return func(r *controlpb.BuildHistoryRecord) bool { return pattern.MatchString(of(r)) }, nil
	}
	return nil, bad
}

// orderCondition compares; what there is nothing to compare of does not fit.
func orderCondition(op string, bad error, compare func(*controlpb.BuildHistoryRecord) (int, bool)) (condition, error) {
	wanted := map[string]func(int) bool{
		">": func(n int) bool { return n > 0 }, ">=": func(n int) bool { return n >= 0 },
		"<": func(n int) bool { return n < 0 }, "<=": func(n int) bool { return n <= 0 },
	}[op]
	if wanted == nil {
		return nil, bad
	}
	return func(r *controlpb.BuildHistoryRecord) bool {
		n, ok := compare(r)
		return ok && wanted(n)
	}, nil
}

// recordTexts are the fields of a record that filters compare as texts.
var recordTexts = map[string]func(*controlpb.BuildHistoryRecord) string{
	"ref": func(r *controlpb.BuildHistoryRecord) string { return r.Ref },
	"status": func(r *controlpb.BuildHistoryRecord) string {
		switch {
		case r.CompletedAt == nil:
			return "running"
		case r.Error == nil:
			return "completed"
		case strings.Contains(r.Error.Message, "context canceled"):
			return "canceled"
		}
		return "error"
	},
	"repository": func(r *controlpb.BuildHistoryRecord) string {
		if v := r.FrontendAttrs["vcs:source"]; v != "" {
			return v
		}
		if v := r.FrontendAttrs["context"]; build.IsRemote(v) {
			v, _, _ = strings.Cut(v, "#")
			return v
		}
		return ""
	},
}
