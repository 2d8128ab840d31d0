package stdio

import "strings"

import "testing"

func TestDetachKeysAreFoundAcrossReads(t *testing.T) {
	const p, q = "\x10", "\x11"
	for _, tc := range []struct {
		name, keys string
		reads      []string
		pass       string
		detach     bool
	}{
		{"none are looked for", "", []string{p + q}, p + q, false},
		{"in one read", p + q, []string{"ab" + p + q + "c"}, "ab", true},
		{"in two reads", p + q, []string{"a" + p, q}, "a", true},
		{"half of them are passed on", p + q, []string{p, "x"}, p + "x", false},
		{"the first twice", p + q, []string{p, p, q}, p, true},
		{"a beginning within a beginning", "aab", []string{"a", "a", "a", "b"}, "a", true},
		{"one key", "x", []string{"abx"}, "ab", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := detacher{keys: []byte(tc.keys)}
			var pass strings.Builder
			var detach bool
			for _, r := range tc.reads {
				var b []byte
				b, detach = d.scan([]byte(r))
				pass.WriteString(string(b))
			}
			if pass.String() != tc.pass || detach != tc.detach {
				t.Errorf("passed %q, detach %v; want %q, %v", pass.String(), detach, tc.pass, tc.detach)
			}
		})
	}
}
