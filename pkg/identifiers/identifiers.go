package identifiers

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"

	"github.com/containerd/errdefs"
)

// maxLength is the longest identifier that containerd's clients may send.
const maxLength = 76

var (
	identifier = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`)
	name       = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)
)

// Validate checks a container, exec, snapshotter or namespace id as containerd
// does: alphanumerics separated by single '.', '_' or '-', at most 76 bytes. The
// error is of class ErrInvalidArgument and names the id.
func Validate(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("identifier must not be empty: %w", errdefs.ErrInvalidArgument)
	case len(id) > maxLength:
		return fmt.Errorf("identifier %q is longer than %d bytes: %w", id, maxLength, errdefs.ErrInvalidArgument)
	case !identifier.MatchString(id):
		return fmt.Errorf("identifier %q must match %s: %w", id, identifier, errdefs.ErrInvalidArgument)
	}
	return nil
}

// ValidName reports whether s may name a container or a volume of the engine:
// [a-zA-Z0-9][a-zA-Z0-9_.-]+ (Docker Engine API).
func ValidName(s string) bool { return name.MatchString(s) }

// New returns 64 random hexadecimal digits, the id of a container, exec or network.
func New() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand.Read, Go 1.24
	return hex.EncodeToString(b[:])
}

// Short returns the first 12 characters of an id, as users see it.
func Short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}
