package build

import (
	"strings"
	"testing"

	"strata/integration/harness"
)

// linked builds the same COPY --link upon two bases, through both doors.
func linked(t *testing.T, s *harness.Stack) {
	base := func(what string) string {
		return mustBuild(t, s, "engine", "-q", "-t", "base:"+what, project(t, map[string]string{
			"Dockerfile": "FROM busybox:test\nRUN mkdir -p /real/dir && ln -s /real /place && chmod 700 /real && chmod 751 / && echo " + what + " >/real/dir/base\n",
		}))
	}
	base("one")
	base("two")
	files := map[string]string{"a": "from the context\n"}
	dir := func(base string) string {
		files["Dockerfile"] = "FROM base:" + base + "\nCOPY --link a /opt/\nADD --link a /place/dir/\n"
		return project(t, files)
	}
	for i, client := range clients {
		files["a"] = "of " + client + "\n"
		first := mustBuild(t, s, client, "-t", "linked:one", dir("one"))
		if strings.Contains(first, "CACHED") || strings.Contains(first, "Using cache") {
			t.Errorf("%s: the first build found it made:\n%s", client, first)
		}
		second := mustBuild(t, s, clients[(i+1)%len(clients)], "-t", "linked:two", dir("two"))
		if n := strings.Count(second, "CACHED") + strings.Count(second, "Using cache"); n < 2 {
			t.Errorf("%s: upon another base %d steps were cached:\n%s", client, n, second)
		}
		layers := func(image string) []string {
			list := strings.Fields(s.OK("docker", "image", "inspect", "-f", "{{range .RootFS.Layers}}{{.}} {{end}}", image))
			return list[len(list)-2:]
		}
		if a, b := layers("linked:one"), layers("linked:two"); a[0] != b[0] || a[1] != b[1] {
			t.Errorf("%s: layers %v, upon another base %v", client, a, b)
		}
		for _, tag := range []string{"one", "two"} {
			// The symlink of the base has become the directory that the instruction says.
			got := s.OK("docker", "run", "--rm", "linked:"+tag, "sh", "-c", "cat /opt/a /place/dir/a /real/dir/base; test ! -L /place && ls /place/dir /real/dir; stat -c %a /real /")
			if want := files["a"] + files["a"] + tag + "\n/place/dir:\na\n\n/real/dir:\nbase\n700\n751"; got != want {
				t.Errorf("%s: base %s: %q, want %q", client, tag, got, want)
			}
		}
	}
}
