package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"strata/integration/harness"
)

// TestCorners has what is rare in a Dockerfile, and what BuildKit makes of it.
func TestCorners(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	t.Run("an image for one other platform is built upon, with a warning", func(t *testing.T) { otherPlatform(t, s.For(t)) })
	t.Run("warnings come with an error, too", func(t *testing.T) { warningsBeforeError(t, s.For(t)) })
	t.Run("a named context has its own patterns", func(t *testing.T) { ownPatterns(t, s.For(t)) })
	t.Run("a named context may be the empty image", func(t *testing.T) { emptyContext(t, s.For(t)) })
	t.Run("commands may have another host name", func(t *testing.T) { hostNames(t, s.For(t)) })
	t.Run("a mount of a stage is found by what is in it", func(t *testing.T) { mountContent(t, s.For(t)) })
	t.Run("directories that a COPY makes have its mode", func(t *testing.T) { madeDirectories(t, s.For(t)) })
	t.Run("a client looks into a repository before it builds of it", func(t *testing.T) { remoteDefinitions(t, s.For(t)) })
}

// remoteDefinitions builds what the newest buildx asks for with definitions of its own: a
// repository (where a policy may be), the bake file in one, and a Dockerfile at a URL.
func remoteDefinitions(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{
		"Dockerfile":       "FROM busybox:test\nCOPY a /a\nRUN cat /a\n",
		"a":                "in the repository\n",
		"docker-bake.json": `{"target":{"default":{"args":{"X":"y"}}}}`,
		"other.Dockerfile": "FROM busybox:test\nRUN echo from a URL\n",
	})
	git := exec.Command("sh", "-ec", "git init -q -b main .; git add .; git -c user.name=a -c user.email=a@b commit -qm one; git update-server-info")
	git.Dir = dir
	if out, err := git.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	base := "http://" + mirror(t, s, "", dir)
	if out := plain(t, s, "buildx", "--no-cache", base+"/.git#main"); !strings.Contains(out, "in the repository\n") {
		t.Errorf("a repository:\n%s", out)
	}
	if out := plain(t, s, "buildx", "--no-cache", "-f", base+"/other.Dockerfile", dir); !strings.Contains(out, "from a URL\n") {
		t.Errorf("a Dockerfile at a URL:\n%s", out)
	}
	s.Plugin("buildx")
	bake := s.Command("docker", "buildx", "bake", "--progress=plain", "--no-cache", base+"/.git#main")
	bake.Dir = t.TempDir()
	if out, err := bake.CombinedOutput(); err != nil || !strings.Contains(string(out), "in the repository\n") {
		t.Errorf("a bake file in a repository: %v\n%s", err, out)
	}
}

func mountContent(t *testing.T, s *harness.Stack) {
	const text = "FROM busybox:test AS made\nARG BUST\nRUN echo $BUST >/bust; mkdir /out; echo same >/out/f; ln -s /bust /out/link\n" +
		"FROM busybox:test\nRUN --mount=from=made,source=out,target=/in,rw touch /in/new; cat /in/f; cat /proc/sys/kernel/random/uuid >/unique\n" +
		"FROM scratch\nCOPY --from=1 /unique /\n"
	dir := project(t, map[string]string{"Dockerfile": text})
	result := func(client, bust string) string {
		out := t.TempDir()
		mustBuild(t, s, client, "--build-arg", "BUST="+bust, "-o", out, dir)
		data, err := os.ReadFile(filepath.Join(out, "unique"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	first := result("engine", "one")
	for _, client := range kitClients {
		if got := result(client, "of "+client); got != first {
			t.Errorf("%s: what the command sees is the same, and it ran again", client)
		}
	}
}

func madeDirectories(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nCOPY --chmod=711 a /d/one/a\nCOPY --chmod=u=rwx a /d2/a\nCOPY a /d3/a\nRUN stat -c %a /d /d/one /d2 /d3 | tr '\\n' ' '\n", "a": ""})
	for _, client := range kitClients {
		if out := plain(t, s, client, "--no-cache", dir); !strings.Contains(out, " 711 711 755 755 ") {
			t.Errorf("%s:\n%s", client, out)
		}
	}
}

func ownPatterns(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nCOPY --from=more . /c\nRUN ls -A /c | tr '\\n' ' '\n", ".dockerignore": "b\n"})
	more := project(t, map[string]string{"a": "a", "b": "b", ".dockerignore": "a\n"})
	for _, client := range kitClients {
		if out := plain(t, s, client, "--no-cache", "--build-context", "more="+more, dir); !strings.Contains(out, ".dockerignore b ") || !strings.Contains(out, "[context more] load from client") {
			t.Errorf("%s:\n%s", client, out)
		}
	}
}

func emptyContext(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM nosuch AS all\nCOPY a /\nFROM busybox:test\nRUN --mount=type=bind,from=nosuch,target=/m ls -A /m | wc -l\nCOPY --from=all / /c\nRUN ls -A /c\n", "a": ""})
	for _, client := range kitClients {
		if out := plain(t, s, client, "--no-cache", "--build-context", "nosuch=docker-image://scratch", dir); !strings.Contains(out, " 0\n") || !strings.Contains(out, " a\n") {
			t.Errorf("%s:\n%s", client, out)
		}
	}
}

func hostNames(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN hostname; grep -c \"$(hostname)\" /etc/hosts\n"})
	for _, client := range kitClients {
		for _, name := range []string{"", "other"} {
			args := []string{dir}
			want := "buildkitsandbox"
			if name != "" {
				args, want = append([]string{"--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=" + name}, args...), name
			}
			if out := plain(t, s, client, append([]string{"--no-cache"}, args...)...); !strings.Contains(out, " "+want+"\n") || !strings.Contains(out, " 1\n") {
				t.Errorf("%s, host name %q:\n%s", client, name, out)
			}
		}
	}
}

func otherPlatform(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN echo made >/made\n"})
	for _, client := range kitClients {
		out := plain(t, s, client, "--platform", "linux/s390x", "-t", "other:"+client, dir)
		if !strings.Contains(out, "InvalidBaseImagePlatform") {
			t.Errorf("%s: no warning:\n%s", client, out)
		}
		if got := s.OK("docker", "inspect", "-f", "{{.Architecture}}", "other:"+client); got != "s390x" {
			t.Errorf("%s: the image is for %s", client, got)
		}
	}
}

func warningsBeforeError(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test AS Upper\nBADCMD\n"})
	for _, client := range kitClients {
		r := build(s, client, "--progress=plain", dir)
		if r.Code == 0 || !strings.Contains(r.Stderr, "StageNameCasing") || !strings.Contains(r.Stderr, "unknown instruction: BADCMD") {
			t.Errorf("%s: %+v", client, r)
		}
	}
}
