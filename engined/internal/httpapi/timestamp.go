package httpapi

import (
	"strconv"
	"strings"
	"time"

	"strata/engined/internal/filters"
)

// parseTimestamp reads unix seconds with an optional fraction, or RFC 3339; "" and "0"
// are the zero time.
func parseTimestamp(s string) (time.Time, error) {
	if s == "" || s == "0" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	secs, frac, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(secs, 10, 64)
	if err != nil {
		return time.Time{}, invalid("invalid timestamp %q", s)
	}
	if len(frac) > 9 {
		frac = frac[:9]
	}
	var nsec int64
	if frac != "" {
		if nsec, err = strconv.ParseInt((frac + "000000000")[:9], 10, 64); err != nil {
			return time.Time{}, invalid("invalid timestamp %q", s)
		}
	}
	return time.Unix(sec, nsec), nil
}

// untilFilter reads the "until" filter of a prune: a timestamp, or how long ago. The zero
// time means that there is none.
func untilFilter(f filters.Args) (time.Time, error) {
	switch values := f["until"]; len(values) {
	case 0:
		return time.Time{}, nil
	case 1:
		if d, err := time.ParseDuration(values[0]); err == nil {
			return time.Now().Add(-d), nil
		}
		for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02Z07:00", "2006-01-02"} {
			if t, err := time.ParseInLocation(layout, values[0], time.Local); err == nil { //nolint:gosmopolitan // docker's meaning
				return t, nil
			}
		}
		return parseTimestamp(values[0])
	default:
		return time.Time{}, invalid("more than one until filter specified")
	}
}
