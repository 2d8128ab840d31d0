package identifiers

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		id string
		ok bool
	}{
		{"web", true},
		{"a-b_c.d", true},
		{strings.Repeat("a", 76), true},
		{strings.Repeat("a", 77), false},
		{"", false},
		{".", false},
		{"..", false},
		{"a--b", false},
		{"a/b", false},
		{"-a", false},
	} {
		err := Validate(tt.id)
		if (err == nil) != tt.ok {
			t.Errorf("Validate(%q) = %v, want ok %v", tt.id, err, tt.ok)
		}
		if err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("Validate(%q) = %v, want class ErrInvalidArgument", tt.id, err)
		}
	}
}

func TestNewIsA64DigitID(t *testing.T) {
	a, b := New(), New()
	if len(a) != 64 || a == b || Validate(a) != nil {
		t.Errorf("New() = %q, %q", a, b)
	}
}
