package build

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"strata/integration/harness"
)

// project writes files into a directory of its own and returns it.
func project(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// clients are the ways to build: ours and the stock buildx by BuildKit's protocol, the stock
// CLI by the classic one.
var clients = []string{"engine", "docker", "buildx"}

// build builds with a client and returns what it said.
func build(s *harness.Stack, client string, args ...string) harness.Result {
	return s.Run(command(s, client, args...))
}

// command is a build with a client.
func command(s *harness.Stack, client string, args ...string) *exec.Cmd {
	kit := "0"
	if client == "buildx" {
		s.Plugin("buildx")
		client, kit = "docker", "1"
	}
	cmd := s.Command(client, append([]string{"build"}, args...)...)
	cmd.Env = append(cmd.Env, "DOCKER_BUILDKIT="+kit)
	return cmd
}

func mustBuild(t *testing.T, s *harness.Stack, client string, args ...string) string {
	t.Helper()
	r := build(s, client, args...)
	if r.Code != 0 {
		t.Fatalf("%s build %q: exit code %d\n%s%s\n%s", client, args, r.Code, r.Stdout, r.Stderr, s.Logs())
	}
	if slices.Contains(args, "-q") {
		return r.Stdout // the image's id
	}
	return r.Stdout + r.Stderr
}

func TestBuilds(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	t.Run("a multi-stage Dockerfile makes the same image through both doors, and runs", func(t *testing.T) { multiStage(t, s.For(t)) })
	t.Run("a build in which nothing changed runs nothing", func(t *testing.T) { cached(t, s.For(t)) })
	t.Run("equal files of another origin are a cache hit", func(t *testing.T) { contentAddressed(t, s.For(t)) })
	t.Run("a secret is seen by its command and is nowhere else", func(t *testing.T) { secrets(t, s.For(t)) })
	t.Run("a command that fails says its code, its line and its output", func(t *testing.T) { failing(t, s.For(t)) })
	t.Run("a cancelled build stops its command at once", func(t *testing.T) { cancelled(t, s.For(t)) })
	t.Run("mistakes are said with what to do", func(t *testing.T) { mistakes(t, s.For(t)) })
	t.Run("a linked copy is the same layer upon any base", func(t *testing.T) { linked(t, s.For(t)) })
	t.Run("files arrive with the owners and modes that were asked for", func(t *testing.T) { copies(t, s.For(t)) })
	t.Run("SOURCE_DATE_EPOCH makes layers and image reproducible", func(t *testing.T) { reproducible(t, s.For(t)) })
	t.Run("cache mounts outlive builds and are pruned", func(t *testing.T) { cacheMounts(t, s.For(t)) })
	t.Run("equal steps of builds at the same time run once", func(t *testing.T) { together(t, s.For(t)) })
	t.Run("an engine that is killed in a build leaves nothing", func(t *testing.T) { killed(t, s.For(t)) })
	t.Run("a command that needs too much memory is killed, and the build says so", func(t *testing.T) { outOfMemory(t, s.For(t)) })
	t.Run("archives cannot write beyond their directory", func(t *testing.T) { hostileArchives(t, s.For(t)) })
	t.Run("remote contexts are fetched by the engine", func(t *testing.T) { remotes(t, s.For(t)) })
	t.Run("prune leaves images that were built as they are", func(t *testing.T) { prune(t, s.For(t)) })
}

const multiStageFile = `ARG TAG=test
FROM busybox:$TAG AS maker
RUN mkdir /out && echo made >/out/made
FROM busybox:test AS unused
RUN echo this must not run && false
FROM busybox:$TAG
LABEL who=test
ENV GREETING="hello world"
WORKDIR /srv/app
COPY --from=maker --chown=nobody:nogroup /out/ ./
COPY hello.txt .
COPY <<EOF inline
$GREETING
EOF
USER nobody
ENTRYPOINT ["/bin/cat"]
CMD ["made", "hello.txt", "inline"]
`

func multiStage(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": multiStageFile, "hello.txt": "from the context\n"})
	for _, client := range clients {
		out := mustBuild(t, s, client, "--no-cache", "-t", "multi:"+client, "-t", "second:"+client, "--label", "from=cli", dir)
		if strings.Contains(out, "this must not run") {
			t.Errorf("%s: a stage that nobody needs was built:\n%s", client, out)
		}
		for _, name := range []string{"multi:", "second:"} {
			if got, want := s.OK("docker", "run", "--rm", name+client), "made\nfrom the context\nhello world"; got != want {
				t.Errorf("%s: run says %q, want %q", client, got, want)
			}
		}
		if got := s.OK("docker", "run", "--rm", "--entrypoint", "stat", "multi:"+client, "-c", "%U:%G", "/srv/app/made"); got != "nobody:nogroup" {
			t.Errorf("%s: owner %q", client, got)
		}
	}
	var images []struct {
		Config struct {
			Env, Cmd, Entrypoint []string
			User, WorkingDir     string
			Labels               map[string]string
		}
		RootFS struct{ Layers []string }
	}
	if err := json.Unmarshal([]byte(s.OK("docker", "image", "inspect", "multi:engine", "multi:docker")), &images); err != nil {
		t.Fatal(err)
	}
	a, b := images[0].Config, images[1].Config
	if !slices.Equal(a.Env, b.Env) || !slices.Equal(a.Cmd, b.Cmd) || a.User != "nobody" || b.User != a.User || a.WorkingDir != "/srv/app" || a.Labels["from"] != "cli" || b.Labels["who"] != "test" {
		t.Errorf("configurations differ or lack something: %+v, %+v", a, b)
	}
	if history := s.OK("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", "multi:docker"); !strings.Contains(history, "COPY hello.txt . # buildkit") || !strings.Contains(history, `CMD ["made" "hello.txt" "inline"]`) {
		t.Errorf("history:\n%s", history)
	}
}

func cached(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nCOPY a /a\nRUN cat /a && cat /proc/sys/kernel/random/uuid >/stamp\nRUN true\n", "a": "1\n"})
	first := mustBuild(t, s, "docker", "-q", dir)
	start := time.Now()
	again := build(s, "docker", dir)
	t.Logf("a build in which nothing changed took %v", time.Since(start))
	if n := strings.Count(again.Stdout, "---> Using cache"); n != 3 {
		t.Errorf("%d steps from the cache, want 3:\n%s", n, again.Stdout)
	}
	if got := mustBuild(t, s, "engine", "-q", dir); got != first {
		t.Errorf("second image %s, want %s", got, first)
	}
	// Times of files do not matter, contents do.
	now := time.Now()
	if err := os.Chtimes(filepath.Join(dir, "a"), now, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := mustBuild(t, s, "engine", "-q", dir); got != first {
		t.Errorf("a file that is newer only made another image")
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := build(s, "docker", dir); !strings.Contains(got.Stdout, "\n2\n") || strings.Contains(got.Stdout, "Using cache") {
		t.Errorf("a changed file was not noticed:\n%s", got.Stdout)
	}
	if got := mustBuild(t, s, "engine", "-q", "--no-cache", dir); got == first {
		t.Error("--no-cache used the cache")
	}
}

func contentAddressed(t *testing.T, s *harness.Stack) {
	file := func(how string) string {
		return "FROM busybox:test AS a\nRUN " + how + "\nFROM busybox:test\nCOPY --from=a /same /same\nRUN cat /proc/sys/kernel/random/uuid >/stamp\n"
	}
	one := mustBuild(t, s, "engine", "-q", project(t, map[string]string{"Dockerfile": file("echo same >/same")}))
	two := mustBuild(t, s, "engine", "-q", project(t, map[string]string{"Dockerfile": file("echo noise >/noise; echo same >/same")}))
	if one != two {
		t.Errorf("images %s and %s: what was copied is the same", one, two)
	}
}

func secrets(t *testing.T, s *harness.Stack) {
	const secret = "xyzzy-plugh-secret"
	dir := project(t, map[string]string{
		"Dockerfile": "FROM busybox:test\nRUN --mount=type=secret,id=tok wc -c </run/secrets/tok >/length\nRUN --mount=type=secret,id=tok,env=TOK test ${#TOK} = 18\nRUN test ! -e /run/secrets/tok && test -z \"$TOK\"\n",
	})
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	mustBuild(t, s, "engine", "-t", "secret", "--secret", "id=tok,src="+file, dir)
	if got := s.OK("engine", "run", "--rm", "secret", "cat", "/length"); got != "18" {
		t.Errorf("the command saw %q bytes", got)
	}
	archive := filepath.Join(t.TempDir(), "image.tar")
	s.OK("engine", "save", "-o", archive, "secret")
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	left := s.OK("engine", "run", "--rm", "secret", "sh", "-c", "ls -R /run 2>/dev/null; true")
	if bytes.Contains(data, []byte(secret)) || strings.Contains(left, "secrets") || strings.Contains(s.OK("engine", "history", "--no-trunc", "secret"), secret) {
		t.Error("the secret is in the image")
	}
	if bytes.Contains([]byte(s.Logs()), []byte(secret)) {
		t.Error("the secret is in the daemons' logs")
	}
	missing := build(s, "engine", project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN --mount=type=secret,id=none,required true\n"}))
	if missing.Code == 0 || !strings.Contains(missing.Stderr, "secret none: not found") {
		t.Errorf("a required secret is missing: %+v", missing)
	}
}

func failing(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN echo last words; exit 7\n"})
	for _, client := range clients {
		r := build(s, client, dir)
		all := r.Stdout + r.Stderr
		want := `process "/bin/sh -c echo last words; exit 7" did not complete successfully: exit code: 7`
		if client == "docker" {
			want = "The command '/bin/sh -c echo last words; exit 7' returned a non-zero code: 7"
		} else if !strings.Contains(all, "Dockerfile:2") || !strings.Contains(all, "2 | >>> RUN echo last words; exit 7") {
			t.Errorf("%s: the line is not shown: %s", client, all)
		}
		if r.Code == 0 || !strings.Contains(all, want) || !strings.Contains(all, "last words\n") {
			t.Errorf("%s: %+v", client, r)
		}
	}
}

func cancelled(t *testing.T, s *harness.Stack) {
	for _, client := range clients {
		dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN echo started " + client + "; sleep 987\n"})
		cmd := command(s, client, "--progress=plain", dir)
		if client == "docker" {
			cmd = command(s, client, dir)
		}
		pr, pw, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = pw, pw
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = pw.Close() // the child has it
		seen := make(chan bool, 1)
		go func() {
			var all bytes.Buffer
			buf := make([]byte, 4096)
			for {
				n, err := pr.Read(buf)
				all.Write(buf[:n])
				// The command's own words, not the step's name.
				if strings.Contains(all.String(), "started "+client+"\n") {
					seen <- true
					_, _ = io.Copy(io.Discard, pr)
					return
				}
				if err != nil {
					seen <- false
					return
				}
			}
		}()
		select {
		case ok := <-seen:
			if !ok {
				t.Fatalf("%s: the command did not start", client)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: the command did not start within 20 s", client)
		}
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		_ = cmd.Wait() // interrupted: the status says nothing
		if !harness.Eventually(5*time.Second, func() bool { return !sleeping(t) }) {
			t.Errorf("%s: the command of a cancelled build runs on", client)
		}
	}
}

// sleeping reports whether a command of a cancelled build runs.
func sleeping(t *testing.T) bool {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range found {
		if line, err := os.ReadFile(name); err == nil && string(line) == "sleep\x00987\x00" {
			return true
		}
	}
	return false
}

func mistakes(t *testing.T, s *harness.Stack) {
	for _, row := range []struct {
		name  string
		files map[string]string
		args  []string
		want  string
	}{
		{"unknown instruction", map[string]string{"Dockerfile": "FROM busybox:test\nRUNN x\n"}, nil, "dockerfile parse error on line 2: unknown instruction: RUNN"},
		{"missing file", map[string]string{"Dockerfile": "FROM busybox:test\nCOPY maek /\n", "make": ""}, nil, `"/maek": not found in build context or excluded by .dockerignore (did you mean make?)`},
		{"missing file of a stage", map[string]string{"Dockerfile": "FROM busybox:test AS a\nFROM a\nCOPY --from=a /nope /\n"}, nil, `"/nope": not found`},
		{"ignored file", map[string]string{"Dockerfile": "FROM busybox:test\nCOPY key /\n", "key": "", ".dockerignore": "key\n"}, nil, "excluded by .dockerignore"},
		{"missing target", map[string]string{"Dockerfile": "FROM busybox:test AS builder\n"}, []string{"--target", "bilder"}, "did you mean builder?"},
		{"symlink out of the context", map[string]string{"Dockerfile": "FROM busybox:test\nCOPY link/passwd /x\n", "link@": "/etc"}, nil, "not found"},
		{"file to a directory", map[string]string{"Dockerfile": "FROM busybox:test\nCOPY a /etc/passwd/\n", "a": ""}, nil, "is a file, not a directory"},
		{"syntax error with a suggestion", map[string]string{"Dockerfile": "FROM busybox:test\nCOPPY a /\n"}, nil, "dockerfile parse error on line 2: unknown instruction: COPPY (did you mean COPY?)"},
		{"bad flag with a suggestion", map[string]string{"Dockerfile": "FROM busybox:test\nCOPY --form=x a /\n"}, nil, "line 2: unknown flag: --form"},
		{"bad JSON", map[string]string{"Dockerfile": "FROM busybox:test\nHEALTHCHECK --interval=soon CMD true\n"}, nil, "line 2"},
		{"empty Dockerfile", map[string]string{"Dockerfile": "\n# nothing\n"}, nil, "file with no instructions"},
		{"Dockerfile over the limit", map[string]string{"Dockerfile": "FROM busybox:test\n# " + strings.Repeat("x", 5<<20) + "\n"}, nil, "larger than 4194304 bytes"},
		{"no Dockerfile", map[string]string{"Dockerfile.other": "FROM busybox:test\n"}, nil, "ockerfile"},
		{"stage that is not there", map[string]string{"Dockerfile": "FROM busybox:test AS builder\nFROM busybox:test\nCOPY --from=bilder /etc /x\n"}, nil, "did you mean builder?"},
		{"stages in a circle", map[string]string{"Dockerfile": "FROM busybox:test AS a\nCOPY --from=b /etc /x\nFROM busybox:test AS b\nCOPY --from=a /etc /x\n"}, nil, "circular dependency detected on stage: "},
		{"a stage of itself", map[string]string{"Dockerfile": "FROM busybox:test AS a\nCOPY --from=a /etc /x\n"}, nil, "circular dependency detected on stage: a"},
		{"a mount of a later number", map[string]string{"Dockerfile": "FROM busybox:test\nRUN --mount=type=bind,from=1,target=/x true\nFROM busybox:test\n"}, []string{"--target", "0"}, "a later build stage"},
		{"path above the context", map[string]string{"Dockerfile": "FROM busybox:test\nCOPY ../../../../etc/passwd /x\n"}, nil, `"/etc/passwd": not found`},
		{"absolute symlink out of the context", map[string]string{"Dockerfile": "FROM busybox:test\nCOPY pw /x\n", "pw@": "/etc/passwd"}, nil, `"/pw": not found`},
		{"symlink out of a stage", map[string]string{"Dockerfile": "FROM busybox:test AS a\nRUN ln -s ../../../../../../../root/.ssh /out && ln -s /proc/self/root/etc/hostname /h\nFROM busybox:test\nCOPY --from=a /out/id /x\n"}, nil, `"/out/id": not found`},
		{"proc of a stage", map[string]string{"Dockerfile": "FROM busybox:test AS a\nRUN ln -s /proc/self/root/etc/hostname /h\nFROM busybox:test\nCOPY --from=a /h /x\n"}, nil, `"/h": not found`},
		{"bind mount out of the context", map[string]string{"Dockerfile": "FROM busybox:test\nRUN --mount=type=bind,source=link,target=/x ls /x\n", "link@": "/etc/ssl"}, nil, "not found"},
		{"base image that is not there", map[string]string{"Dockerfile": "FROM 127.0.0.1:1/nosuch:1\n"}, nil, "127.0.0.1:1"},
		{"bad name of a base image", map[string]string{"Dockerfile": "FROM Busybox:Test:x\n"}, nil, "invalid reference format"},
		{"command that is not there", map[string]string{"Dockerfile": "FROM busybox:test\nRUN [\"/nosuch\"]\n"}, nil, "/nosuch"},
		{"bad build argument", map[string]string{"Dockerfile": "ARG N\nFROM busybox:$N\n"}, nil, "line 2"},
		{"archive that is none", map[string]string{"Dockerfile": "FROM busybox:test\nADD a.tar.xz /x/\n", "a.tar.xz": "\xfd7zXZ\x00rest"}, nil, "a.tar.xz"},
		{"insecure command", map[string]string{"Dockerfile": "FROM busybox:test\nRUN --security=insecure true\n"}, nil, "security.insecure is not allowed"},
		{"unknown user", map[string]string{"Dockerfile": "FROM busybox:test\nCOPY --chown=nosuch a /\n", "a": ""}, nil, "nosuch"},
	} {
		t.Run(row.name, func(t *testing.T) {
			files := map[string]string{}
			for k, v := range row.files {
				if !strings.HasSuffix(k, "@") {
					files[k] = v
				}
			}
			dir := project(t, files)
			for k, v := range row.files {
				if link, ok := strings.CutSuffix(k, "@"); ok {
					if err := os.Symlink(v, filepath.Join(dir, link)); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, client := range clients {
				if r := build(s, client, append(row.args, dir)...); r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, row.want) {
					t.Errorf("%s: exit code %d, want %q in:\n%s%s", client, r.Code, row.want, r.Stdout, r.Stderr)
				}
			}
		})
	}
}

func copies(t *testing.T, s *harness.Stack) {
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	for _, h := range []tar.Header{{Name: "in/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 7}, {Name: "in/f", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 7, Gid: 8, Size: 2}} {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = tw.Write([]byte("x\n"))
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	dir := project(t, map[string]string{
		"a.tar": archive.String(), "src/one.txt": "1", "src/sub/two.md": "2", "src/sub/three.txt": "3", "x/y/z": "z",
		"Dockerfile": `FROM busybox:test
RUN mkdir -p /real && ln -s /real /link
ADD a.tar /unpacked/
COPY a.tar /kept/
COPY --chmod=600 --chown=5:6 src/one.txt /modes
COPY --exclude=**/*.md src /filtered
COPY src/*/t* /globbed/
COPY --parents x/./y/z /parents/
COPY src/one.txt /link/
ADD --chown=9 a.tar /owned/
`,
	})
	for _, client := range clients {
		mustBuild(t, s, client, "--no-cache", "-t", "copies", dir)
		got := s.OK("engine", "run", "--rm", "copies", "sh", "-c",
			"stat -c '%n %a %u:%g' /unpacked/in /unpacked/in/f /kept/a.tar /modes /owned/in/f; for f in /filtered/* /filtered/sub/* /globbed/* /parents/y/* /real/*; do test -f $f && echo $f; done; test -L /link && echo still a link")
		want := `/unpacked/in 750 7:0
/unpacked/in/f 640 7:8
/kept/a.tar 644 0:0
/modes 600 5:6
/owned/in/f 640 9:9
/filtered/one.txt
/filtered/sub/three.txt
/globbed/three.txt
/globbed/two.md
/parents/y/z
/real/one.txt
still a link`
		if got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", client, got, want)
		}
	}
}

func reproducible(t *testing.T, s *harness.Stack) {
	file := map[string]string{"Dockerfile": "FROM busybox:test\nCOPY a /a\nRUN echo x >/x && mkdir /d\n", "a": "a"}
	one := mustBuild(t, s, "engine", "-q", "--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000000", project(t, file))
	two := mustBuild(t, s, "engine", "-q", "--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000000", project(t, file))
	if one != two {
		t.Errorf("images %s and %s differ", one, two)
	}
}

func cacheMounts(t *testing.T, s *harness.Stack) {
	const run = "FROM busybox:test\nRUN --mount=type=cache,target=/c echo x >>/c/n; echo lines $(wc -l </c/n); test -f /c/n\n"
	dir := project(t, map[string]string{"Dockerfile": run})
	for i, want := range []string{"lines 1", "lines 2"} {
		if out := build(s, "docker", "--no-cache", dir); !strings.Contains(out.Stdout, want+"\n") {
			t.Errorf("build %d: want %q in:\n%s", i, want, out.Stdout)
		}
	}
	if out := s.OK("engine", "builder", "du"); !strings.Contains(out, "cached mount /c") {
		t.Errorf("du:\n%s", out)
	}
	s.OK("engine", "builder", "prune", "-af")
	if out := build(s, "docker", "--no-cache", dir); !strings.Contains(out.Stdout, "lines 1\n") {
		t.Errorf("after prune:\n%s", out.Stdout)
	}
}

func prune(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN echo kept >/kept\n"})
	mustBuild(t, s, "engine", "-t", "kept", dir)
	s.OK("engine", "builder", "prune", "-af")
	if out := s.OK("engine", "builder", "du"); strings.Contains(out, "RUN") {
		t.Errorf("records are left:\n%s", out)
	}
	if got := s.OK("engine", "run", "--rm", "kept", "cat", "/kept"); got != "kept" {
		t.Errorf("the image says %q", got)
	}
	mustBuild(t, s, "engine", "-t", "kept", dir)
	if got := s.OK("engine", "run", "--rm", "kept", "cat", "/kept"); got != "kept" {
		t.Errorf("built again, the image says %q", got)
	}
}

func together(t *testing.T, s *harness.Stack) {
	const n = 5
	var cmds []*exec.Cmd
	for i := range n {
		dir := project(t, map[string]string{"Dockerfile": fmt.Sprintf("FROM busybox:test\nRUN sleep 1; cat /proc/sys/kernel/random/uuid >/once\nRUN echo %d >/own\n", i)})
		cmd := s.Command("engine", "build", "-q", "-t", fmt.Sprintf("together:%d", i), dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, s.Logs())
		}
	}
	first := s.OK("engine", "run", "--rm", "together:0", "cat", "/once")
	for i := range n {
		if got, want := s.OK("engine", "run", "--rm", fmt.Sprintf("together:%d", i), "cat", "/once", "/own"), fmt.Sprintf("%s\n%d", first, i); got != want {
			t.Errorf("image %d: %q, want %q", i, got, want)
		}
	}
}

func killed(t *testing.T, s *harness.Stack) {
	cmd := s.Command("engine", "build", project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN sleep 987\n"}))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !harness.Eventually(20*time.Second, func() bool { return sleeping(t) }) {
		t.Fatal("the command did not start")
	}
	s.KillEngine()
	_ = cmd.Wait() // its daemon is gone: the status says nothing
	s.StartEngine()
	s.WaitReady()
	if !harness.Eventually(10*time.Second, func() bool { return !sleeping(t) }) {
		t.Error("the command runs on")
	}
	if left, err := os.ReadDir(filepath.Join(s.Root, "run/engine/build")); err != nil || !harness.Eventually(5*time.Second, func() bool {
		left, err = os.ReadDir(filepath.Join(s.Root, "run/engine/build"))
		return err == nil && len(left) == 0
	}) {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func outOfMemory(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN dd if=/dev/zero of=/dev/null bs=200M count=1\n"})
	r := build(s, "docker", "-m", "24m", "--memory-swap", "24m", dir)
	if all := r.Stdout + r.Stderr; r.Code == 0 || !strings.Contains(all, "returned a non-zero code: ") {
		t.Errorf("%+v", r)
	}
	if out := build(s, "docker", "--no-cache", project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN true\n"})); out.Code != 0 {
		t.Errorf("afterwards: %+v", out)
	}
}

func hostileArchives(t *testing.T, s *harness.Stack) {
	pack := func(list ...tar.Header) string {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		for _, h := range list {
			if err := tw.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				_, _ = tw.Write(bytes.Repeat([]byte("x"), int(h.Size)))
			}
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	victim := filepath.Join(t.TempDir(), "victim")
	evil := pack(
		tar.Header{Name: "../../../../.." + victim, Typeflag: tar.TypeReg, Mode: 0o644, Size: 1},
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "../../../../../../../.." + filepath.Dir(victim)},
		tar.Header{Name: "link/victim", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"},
	)
	for _, client := range clients {
		build(s, client, project(t, map[string]string{"Dockerfile": "FROM busybox:test\nADD evil.tar /a/b/\n", "evil.tar": evil})) // may fail or not
		cmd := s.Command(client, "build", "-")
		cmd.Env = append(cmd.Env, "DOCKER_BUILDKIT=0")
		cmd.Stdin = strings.NewReader(evil) // as a context: it has no Dockerfile either
		if r := s.Run(cmd); r.Code == 0 {
			t.Errorf("%s: a context without a Dockerfile was built", client)
		}
		if _, err := os.Stat(victim); err == nil {
			t.Fatalf("%s: %s was written", client, victim)
		}
	}
}

func remotes(t *testing.T, s *harness.Stack) {
	var context bytes.Buffer
	tw := tar.NewWriter(&context)
	for name, text := range map[string]string{"Dockerfile": "FROM busybox:test\nCOPY . /c/\n", "a": "from the tar\n", "b.log": "", ".dockerignore": "*.log\n"} {
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		_, _ = tw.Write([]byte(text))
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"c.tar": context.String(), "text": "FROM busybox:test\nLABEL of=text\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	url := "http://" + mirror(t, s, "http://127.0.0.1:1", dir)
	// The stock client downloads a tar itself: SDKs let the engine do it.
	post := func(query string) harness.Result {
		return s.Run(s.Host("curl", "-sS", "--unix-socket", s.EngineSocket(), "-X", "POST", "http://engine/build?"+query))
	}
	if r := post("t=remote:tar&remote=" + url + "/c.tar"); !strings.Contains(r.Stdout, "Successfully built") {
		t.Fatalf("a tar: %+v", r)
	}
	if got := s.OK("engine", "run", "--rm", "--network", "none", "remote:tar", "sh", "-c", "cat /c/a; ls /c"); got != "from the tar\nDockerfile\na" {
		t.Errorf("a tar: %q", got)
	}
	if r := post("t=remote:text&remote=" + url + "/text"); !strings.Contains(r.Stdout, "Successfully built") {
		t.Fatalf("a Dockerfile: %+v", r)
	}
	if got := s.OK("engine", "image", "inspect", "--format", "{{index .Config.Labels \"of\"}}", "remote:text"); got != "text" {
		t.Errorf("a Dockerfile: %q", got)
	}
	if r := post("remote=" + url + "/nosuch.tar"); !strings.Contains(r.Stdout, "remote context") {
		t.Errorf("a context that is not there: %+v", r)
	}
	mustBuild(t, s, "docker", "-t", "remote:client", url+"/c.tar")
}

// TestDiskFullInTheMiddle builds on a small filesystem: the build fails with a word about
// it, nothing is left, and what fits is built afterwards.
func TestDiskFullInTheMiddle(t *testing.T) {
	s := harness.New(t, harness.SmallDisk(96<<20))
	s.LoadBusybox()
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN dd if=/dev/urandom of=/big bs=1M count=200\n"})
	full := func(r harness.Result) bool {
		return r.Code != 0 && strings.Contains(strings.ToLower(r.Stdout+r.Stderr), "no space left on device")
	}
	if r := build(s, "docker", dir); !full(r) || !strings.Contains(r.Stdout, "returned a non-zero code") && !strings.Contains(r.Stderr, "returned a non-zero code") {
		t.Fatalf("a command: %+v", r)
	}
	// What the supervisor's collector has not removed yet may be in the way of the next.
	for range 2 {
		if r := build(s, "docker", dir); !full(r) {
			t.Fatalf("a command again: %+v", r)
		}
	}
	big := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nCOPY big /\nCOPY big /again\nCOPY big /third\n"})
	if err := os.WriteFile(filepath.Join(big, "big"), random(40<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := build(s, "docker", big); !full(r) {
		t.Errorf("files: %+v", r)
	}
	small := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN dd if=/dev/urandom of=/big bs=1M count=8\n"})
	var last harness.Result
	if !harness.Eventually(20*time.Second, func() bool {
		s.Engine("builder", "prune", "-af")
		last = build(s, "docker", "-t", "fits", small)
		return last.Code == 0
	}) {
		t.Errorf("what fits is not built afterwards: %+v", last)
	}
}

// random is bytes that nothing compresses.
func random(n int) []byte {
	out := make([]byte, n)
	_, _ = rand.Read(out) // never fails
	return out
}
