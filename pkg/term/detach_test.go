package term_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"

	"strata/pkg/term"
)

func TestParseKeysReadsLettersAndControlKeys(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"ctrl-p,ctrl-q", "\x10\x11"},
		{"a", "a"},
		{"ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", "\x00\x1b\x1c\x1d\x1e\x1f"},
		{"CTRL-A,b", "\x01b"},
	} {
		got, err := term.ParseKeys(tc.in)
		if err != nil || string(got) != tc.want {
			t.Errorf("ParseKeys(%q) = %q, %v, want %q", tc.in, got, err, tc.want)
		}
	}
	for _, bad := range []string{"", "ctrl-", "ctrl-1", "ab", "a,,b"} {
		if got, err := term.ParseKeys(bad); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("ParseKeys(%q) = %q, %v, want an invalid argument", bad, got, err)
		}
	}
}

func TestDetachReaderPassesEverythingButTheSequence(t *testing.T) {
	keys := []byte{16, 17}
	for _, tc := range []struct {
		name, in, want string
		detached       bool
	}{
		{"plain input", "hello", "hello", false},
		{"sequence at the end", "hi\x10\x11", "hi", true},
		{"nothing after the sequence", "hi\x10\x11more", "hi", true},
		{"half a sequence is input", "a\x10b", "a\x10b", false},
		{"half a sequence at the end is input", "a\x10", "a\x10", false},
		{"first key twice", "\x10\x10\x11", "\x10", true},
		{"second key alone", "\x11", "\x11", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(tc.in), iotest.OneByteReader(strings.NewReader(tc.in))} {
				got, err := io.ReadAll(term.NewDetachReader(r, keys))
				if string(got) != tc.want {
					t.Errorf("read %q, want %q", got, tc.want)
				}
				if detached := errors.Is(err, term.ErrDetached); detached != tc.detached {
					t.Errorf("detached = %v (%v), want %v", detached, err, tc.detached)
				}
			}
		})
	}
}
