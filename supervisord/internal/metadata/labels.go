package metadata

import (
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/errdefs"
)

// maxLabel bounds key and value of a label together, in bytes, as containerd does.
const maxLabel = 4096

// ValidateLabels returns an error of class ErrInvalidArgument if a label is too long or
// has no key.
func ValidateLabels(labels map[string]string) error {
	for k, v := range labels {
		switch {
		case k == "":
			return fmt.Errorf("label with empty key: %w", errdefs.ErrInvalidArgument)
		case len(k)+len(v) > maxLabel:
			return fmt.Errorf("label %.64q: key and value have %d bytes, more than %d: %w", k, len(k)+len(v), maxLabel, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// MergeLabels applies the update of a field mask to current and returns the result:
// without fieldpaths or with "labels" all labels are replaced, with "labels.KEY" one is
// set, or deleted if update has it empty or not at all. A path that names something else
// is of class ErrInvalidArgument.
func MergeLabels(current, update map[string]string, fieldpaths []string) (map[string]string, error) {
	if len(fieldpaths) == 0 {
		fieldpaths = []string{"labels"}
	}
	out := maps.Clone(current)
	for _, path := range fieldpaths {
		key, ok := strings.CutPrefix(path, "labels.")
		switch {
		case path == "labels":
			out = compact(update)
		case ok && key != "":
			out = MergeKey(out, update, key)
		default:
			return nil, fmt.Errorf("cannot update %q: %w", path, errdefs.ErrInvalidArgument)
		}
	}
	return out, ValidateLabels(out)
}

// MergeKey returns current with key as update has it; an empty value deletes.
func MergeKey(current, update map[string]string, key string) map[string]string {
	if value := update[key]; value != "" {
		out := maps.Clone(current)
		if out == nil {
			out = map[string]string{}
		}
		out[key] = value
		return out
	}
	out := maps.Clone(current)
	delete(out, key)
	return out
}

// compact drops labels without a value when all are replaced.
func compact(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels))
	for k, v := range labels {
		if v != "" {
			out[k] = v
		}
	}
	return out
}
