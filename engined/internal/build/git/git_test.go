package git

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
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
		{"https://h/a.git?ref=b&subdir=c", "https://h/a.git", "b", "c"},
		{"https://h/a.git?branch=b", "https://h/a.git", "refs/heads/b", ""},
		{"https://h/a.git?tag=v1&keep-git-dir&submodules=0#refs/tags/v1", "https://h/a.git", "refs/tags/v1", ""},
		{"git@h:a.git#feature/x:d", "git@h:a.git", "feature/x", "d"},
		{"github.com/a/b#v2", "https://github.com/a/b", "v2", ""},
	} {
		r, err := Parse(row.text)
		if err != nil || r.URL != row.url || r.Ref != row.ref || r.Subdir != row.dir {
			t.Errorf("Parse(%q) = %+v, %v", row.text, r, err)
		}
	}
	for _, bad := range []string{
		"https://h/a.git#--upload-pack=x", "https://h/a.git#a b", "https://h/a.git#a~1", "https://h/%zz.git",
		"https://h/a.git?tag=v1#main", "https://h/a.git?branch=b&tag=v1", "https://h/a.git?ref=", "https://h/a.git?submodules=perhaps", "https://h/a.git?what=1", "https://h/a.git?ref=a&ref=b",
	} {
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

// serve serves a work tree's repository as plain files on loopback: a server that gives no
// single commits.
func serve(t *testing.T, dir string) string {
	t.Helper()
	shell(t, dir, "git update-server-info")
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	return server.URL + "/.git"
}

// shell runs commands in dir and returns the last line of their output.
func shell(t *testing.T, dir string, lines ...string) string {
	t.Helper()
	cmd := exec.Command("sh", "-ec", strings.Join(lines, "\n"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", lines, err, out)
	}
	all := strings.Split(strings.TrimSpace(string(out)), "\n")
	return all[len(all)-1]
}

func TestWhatAURLAsksForIsCheckedOut(t *testing.T) {
	inner := t.TempDir()
	shell(t, inner, "git init -q -b main .", "echo inner >file", "git add .", "git commit -qm one")
	innerURL := serve(t, inner)
	outer := t.TempDir()
	first := shell(t, outer, "git init -q -b main .", "echo first >file", "git add .", "git submodule --quiet add "+innerURL+" mod", "git commit -qm one", "git tag -am annotated v1", "git rev-parse HEAD")
	second := shell(t, outer, "echo second >file", "git commit -qam two", "git branch v2", "git rev-parse HEAD")
	u := serve(t, outer)
	for _, row := range []struct{ query, sum, file, failure string }{
		{"", second, "second\n", ""},
		{"?tag=v1", first, "first\n", ""},
		{"?tag=v1&commit=" + first[:8], first, "first\n", ""},
		{"?ref=" + first + "&checksum=" + first, first, "first\n", ""},
		{"?tag=v1&commit=" + second, "", "", "expected checksum to match " + second + ", got " + first},
		{"?tag=v1&fetch-by-commit&commit=" + second, second, "second\n", ""},
		{"?branch=v1", "", "", "repository does not contain ref refs/heads/v1"},
		{"?tag=v2", "", "", "repository does not contain ref refs/tags/v2"},
		{"?submodules=false&keep-git-dir", second, "second\n", ""},
	} {
		r, err := Parse(u + row.query)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := r.Resolve(t.Context(), Access{})
		if row.failure != "" {
			if err == nil || !strings.Contains(err.Error(), row.failure) {
				t.Errorf("%q: error %v, want %q", row.query, err, row.failure)
			}
			continue
		}
		if err != nil || sum != row.sum {
			t.Errorf("%q: commit %s, want %s, %v", row.query, sum, row.sum, err)
			continue
		}
		dir := t.TempDir()
		if _, err := r.Checkout(t.Context(), Access{}, sum, dir); err != nil {
			t.Errorf("%q: %v", row.query, err)
		}
		if data, err := os.ReadFile(filepath.Join(dir, "file")); string(data) != row.file {
			t.Errorf("%q: file %q, %v", row.query, data, err)
		}
		_, err = os.Stat(filepath.Join(dir, "mod/file"))
		if without := strings.Contains(row.query, "submodules=false"); without != os.IsNotExist(err) {
			t.Errorf("%q: submodule: %v", row.query, err)
		}
		_, err = os.Stat(filepath.Join(dir, ".git"))
		if kept := strings.Contains(row.query, "keep-git-dir"); kept != (err == nil) {
			t.Errorf("%q: .git: %v", row.query, err)
		}
	}
}

func TestRepositoriesMayNameTheirObjectsBySHA256(t *testing.T) {
	dir := t.TempDir()
	want := shell(t, dir, "git init -q --object-format=sha256 -b main .", "echo text >file", "git add .", "git commit -qm one", "git rev-parse HEAD")
	r, err := Parse(serve(t, dir) + "#main")
	if err != nil {
		t.Fatal(err)
	}
	sum, err := r.Resolve(t.Context(), Access{})
	if err != nil || sum != want {
		t.Fatalf("commit %s, want %s, %v", sum, want, err)
	}
	to := t.TempDir()
	if _, err := r.Checkout(t.Context(), Access{}, sum, to); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(to, "file")); string(data) != "text\n" {
		t.Errorf("%q, %v", data, err)
	}
}
