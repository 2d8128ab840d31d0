package imageref

import (
	"strings"
	"testing"

	_ "crypto/sha512" // of digests
	"github.com/distribution/reference"
)

var samples = []string{
	"busybox", "busybox:test", "team/app", "docker.io/busybox", "index.docker.io/library/a", "localhost/x", "localhost:5000/x:y", "reg.io/a/b/c:1@sha256:" + strings.Repeat("a", 64),
	"[::1]:5000/x", "[fe80::1]/x", "a@sha256:" + strings.Repeat("b", 64), "UPPER", "Reg/x", "reg.io/Upper", "a..b", "a.b", "a__b", "a___b", "a-b--c", "-a", "a-", "a:", "a@", "", "/", "a/", "/a",
	strings.Repeat("a", 64), strings.Repeat("a", 63), strings.Repeat("x", 250), "a:" + strings.Repeat("t", 129), "a:.x", "reg_x.io/y", "1.2.3.4:80/x", "a@sha512:" + strings.Repeat("c", 128), "a b", "é", "a:b:c",
	"a@sha256:" + strings.Repeat("G", 64), "a@md5:" + strings.Repeat("a", 32), "library/x/y", "docker.io/library/x/y", ":x", "@x", "reg:port/x",
}

// compare says how Parse differs from distribution/reference; "" for not at all.
func compare(s string) string {
	got, err := Parse(s)
	want, werr := reference.ParseNormalizedNamed(s)
	if (err == nil) != (werr == nil) {
		return "error " + text(err) + ", want " + text(werr)
	}
	if err != nil {
		if !strings.HasPrefix(err.Error(), werr.Error()) && !strings.HasPrefix(err.Error(), "invalid reference format") {
			return "error " + text(err) + ", want " + text(werr)
		}
		return ""
	}
	for _, row := range [][2]string{
		{got.String(), want.String()},
		{got.Familiar(), reference.FamiliarName(want)},
		{got.FamiliarString(), reference.FamiliarString(want)},
		{got.Tagged().String(), reference.TagNameOnly(want).String()},
		{got.Domain, reference.Domain(want)},
		{got.Path, reference.Path(want)},
	} {
		if row[0] != row[1] {
			return row[0] + ", want " + row[1]
		}
	}
	if got.Bare() != reference.IsNameOnly(want) {
		return "Bare differs"
	}
	return ""
}

func text(err error) string {
	if err == nil {
		return "none"
	}
	return err.Error()
}

func TestParseSaysWhatTheReferencePackageSays(t *testing.T) {
	for _, s := range samples {
		if diff := compare(s); diff != "" {
			t.Errorf("Parse(%q): %s", s, diff)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range samples {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if diff := compare(s); diff != "" {
			t.Errorf("Parse(%q): %s", s, diff)
		}
	})
}
