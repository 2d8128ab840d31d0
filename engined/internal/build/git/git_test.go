package git

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestRepositoriesAreToldFromFilesAndURLs(t *testing.T) {
	for name, want := range map[string]bool{
		"https://example.com/a.git": true, "https://example.com/a.git#v1:dir": true, "http://example.com/a.git?ref=x": true,
		"git://example.com/a": true, "ssh://git@example.com/a": true, "git@example.com:team/a.git": true, "github.com/team/a": true,
		"https://example.com/a.tar": false, "a.git": false, "dir/git@x": false, "./git@x:y": false, "-git@x:y": false,
	} {
		if got := Is(name); got != want {
			t.Errorf("Is(%q) = %v", name, got)
		}
	}
}

func TestReferenceAndDirectoryAreRead(t *testing.T) {
	for _, row := range []struct{ text, url, ref, dir string }{
		{"https://h/a.git", "https://h/a.git", "", ""},
		{"https://h/a.git#v1", "https://h/a.git", "v1", ""},
		{"https://h/a.git#:x/y", "https://h/a.git", "", "x/y"},
		{"https://h/a.git#main:../../x", "https://h/a.git", "main", "x"},
		{"https://h/a.git?branch=b&subdir=c", "https://h/a.git", "b", "c"},
		{"git@h:a.git#feature/x:d", "git@h:a.git", "feature/x", "d"},
		{"github.com/a/b#v2", "https://github.com/a/b", "v2", ""},
	} {
		r, err := Parse(row.text)
		if err != nil || r.URL != row.url || r.Ref != row.ref || r.Subdir != row.dir {
			t.Errorf("Parse(%q) = %+v, %v", row.text, r, err)
		}
	}
	for _, bad := range []string{"https://h/a.git#--upload-pack=x", "https://h/a.git#a b", "https://h/a.git#a~1", "https://h/%zz.git"} {
		if r, err := Parse(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Parse(%q) = %+v, %v", bad, r, err)
		}
	}
}

func TestPasswordsAreNotShown(t *testing.T) {
	r, err := Parse("https://user:hunter2@h/a.git#v1:d")
	if err != nil || strings.Contains(r.String(), "hunter2") || !strings.HasSuffix(r.String(), "#v1:d") {
		t.Errorf("%s, %v", r, err)
	}
	env := strings.Join(Access{Token: "hunter2"}.environment(Repo{URL: "http://h/a.git"}), "\n")
	if strings.Contains(env, "Authorization") {
		t.Error("a token goes to a server without TLS")
	}
}
