package build

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"strata/integration/harness"
)

// kitClients speak BuildKit's protocol: ours, and the stock buildx.
var kitClients = []string{"engine", "buildx"}

func TestBuildKitsProtocol(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	t.Run("a context is sent once, and then what changed of it", func(t *testing.T) { incremental(t, s.For(t)) })
	t.Run("what a stage does not take is not sent", func(t *testing.T) { takenOnly(t, s.For(t)) })
	t.Run("builds of one directory at once have their own files", func(t *testing.T) { sameDirectory(t, s.For(t)) })
	t.Run("results come as files and archives", func(t *testing.T) { outputs(t, s.For(t)) })
	t.Run("an image is pushed by its digest alone, or kept nowhere", func(t *testing.T) { byDigest(t, s.For(t)) })
	t.Run("images are written as OCI layouts", func(t *testing.T) { layoutOutputs(t, s.For(t)) })
	t.Run("a provenance lies beside the files that it is of", func(t *testing.T) { attestedFiles(t, s.For(t)) })
	t.Run("outputs that cannot be are refused before anything is built", func(t *testing.T) { badOutputs(t, s.For(t)) })
	t.Run("named contexts are directories and images", func(t *testing.T) { namedContexts(t, s.For(t)) })
	t.Run("an SSH agent is reached from a command that asks for it", func(t *testing.T) { agents(t, s.For(t)) })
	t.Run("keys of an SSH agent and of files are there for a command", func(t *testing.T) { agentKeys(t, s.For(t)) })
	t.Run("a context and a Dockerfile come from standard input", func(t *testing.T) { standardInput(t, s.For(t)) })
	t.Run("a Dockerfile may be elsewhere, with an ignore file of its own", func(t *testing.T) { elsewhere(t, s.For(t)) })
	t.Run("cache and images are kept in directories of the client", func(t *testing.T) { layouts(t, s.For(t)) })
	t.Run("caches go to several places and come from several", func(t *testing.T) { severalCaches(t, s.For(t)) })
	t.Run("caches that cannot be are refused with what there is", func(t *testing.T) { refusedCaches(t, s.For(t)) })
	t.Run("the linter is asked without a build", func(t *testing.T) { lint(t, s.For(t)) })
	t.Run("questions about a Dockerfile are answered without a build", func(t *testing.T) { calls(t, s.For(t)) })
	t.Run("files of the result say what was built", func(t *testing.T) { resultFiles(t, s.For(t)) })
	t.Run("every flag of docker build is there, or says why not", func(t *testing.T) { flags(t, s.For(t)) })
	t.Run("pruning heeds what may stay", func(t *testing.T) { pruneRoom(t, s.For(t)) })
	t.Run("the daemon remembers builds", func(t *testing.T) { history(t, s.For(t)) })
	t.Run("a build by POST of version 2 tells its story", func(t *testing.T) { versionTwo(t, s.For(t)) })
	t.Run("machines read the story as JSON", func(t *testing.T) { rawStory(t, s.For(t)) })
	t.Run("targets of bake are built upon each other", func(t *testing.T) { bake(t, s.For(t)) })
	t.Run("targets for several platforms are built upon each other", func(t *testing.T) { bakePlatforms(t, s.For(t)) })
	t.Run("a target whose base fails says why", func(t *testing.T) { bakeFails(t, s.For(t)) })
}

// transferred is what a build said about its context.
var transferred = regexp.MustCompile(`transferring context: ([0-9.]+[kM]?B)`)

func plain(t *testing.T, s *harness.Stack, client string, args ...string) string {
	t.Helper()
	return mustBuild(t, s, client, append([]string{"--progress=plain"}, args...)...)
}

func incremental(t *testing.T, s *harness.Stack) {
	files := map[string]string{"Dockerfile": "FROM busybox:test\nCOPY . /src\nRUN cat /src/d1/f1\n"}
	for i := range 20 {
		for j := range 20 {
			files[fmt.Sprintf("d%d/f%d", i, j)] = fmt.Sprintf("file %d of %d\n%s", j, i, strings.Repeat("x", 500))
		}
	}
	dir := project(t, files)
	for _, client := range kitClients {
		if m := transferred.FindStringSubmatch(plain(t, s, client, "-t", "inc", dir)); m == nil || !strings.HasSuffix(m[1], "kB") {
			t.Errorf("%s: the first build sent %q", client, m)
		}
		if m := transferred.FindStringSubmatch(plain(t, s, client, "-t", "inc", dir)); m != nil {
			t.Errorf("%s: a build in which nothing changed sent %q", client, m)
		}
		text := "changed by " + client + "\n"
		if err := os.WriteFile(filepath.Join(dir, "d1/f1"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		out := plain(t, s, client, "-t", "inc", dir)
		if m := transferred.FindStringSubmatch(out); m == nil || m[1] != fmt.Sprintf("%dB", len(text)) {
			t.Errorf("%s: one changed file: %q was sent", client, m)
		}
		if !strings.Contains(out, "changed by "+client) {
			t.Errorf("%s: the change did not arrive:\n%s", client, out)
		}
		if got := s.OK("engine", "run", "--rm", "inc", "sh", "-c", "find /src -type f | wc -l; head -n 1 /src/d19/f19"); got != "401\nfile 19 of 19" {
			t.Errorf("%s: the image has %q", client, got)
		}
	}
}

func takenOnly(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nCOPY link/a /a\nCOPY sub/*.txt /t/\n", "real/a": "12345", "sub/one.txt": "12", "sub/two.md": strings.Repeat("x", 5000), "large": strings.Repeat("x", 1<<20)})
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, client := range kitClients {
		if m := transferred.FindStringSubmatch(plain(t, s, client, "-t", "taken", dir)); m == nil || m[1] != "7B" {
			t.Errorf("%s: %q was sent", client, m)
		}
		if got := s.OK("engine", "run", "--rm", "taken", "sh", "-c", "cat /a /t/*; ls /t"); got != "1234512one.txt" {
			t.Errorf("%s: %q", client, got)
		}
	}
}

func sameDirectory(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"shared": strings.Repeat("s", 1<<16)})
	var cmds []*exec.Cmd
	var outs []*bytes.Buffer
	for i := range 6 {
		name := fmt.Sprintf("own%d", i)
		for file, text := range map[string]string{name: fmt.Sprint("text ", i, "\n"), name + ".Dockerfile": fmt.Sprintf("FROM busybox:test\nCOPY shared %s /d/\nRUN cat /d/own* && wc -c </d/shared\n", name)} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		cmd := command(s, kitClients[i%2], "--progress=plain", "-f", filepath.Join(dir, name+".Dockerfile"), dir)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds, outs = append(cmds, cmd), append(outs, &out)
	}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil || !strings.Contains(outs[i].String(), fmt.Sprint("text ", i, "\n")) || !strings.Contains(outs[i].String(), "65536") {
			t.Errorf("build %d: %v\n%s", i, err, outs[i])
		}
	}
}

// members are the names in a tar.
func members(t *testing.T, file string) []string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var out []string
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name)
	}
}

func outputs(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test AS make\nRUN mkdir /o && echo made >/o/f && chmod 750 /o/f && ln -s f /o/l && mkdir -m 1777 /o/tmp && mkdir -m 500 /o/in && mkdir -m 2750 /o/in/er\nFROM scratch\nCOPY --from=make /o/ /\n"})
	for _, client := range kitClients {
		out := t.TempDir()
		at := func(name string) string { return filepath.Join(out, name) }
		mustBuild(t, s, client, "-o", "type=local,dest="+at("dir"), dir)
		mustBuild(t, s, client, "-o", "type=tar,dest="+at("t.tar"), dir)
		mustBuild(t, s, client, "-t", "outputs:oci", "-o", "type=oci,dest="+at("oci.tar"), dir)
		mustBuild(t, s, client, "-t", "outputs:"+client, "-o", "type=docker,dest="+at("docker.tar"), dir)
		if data, err := os.ReadFile(at("dir/l")); err != nil || string(data) != "made\n" {
			t.Errorf("%s: directory: %q, %v", client, data, err)
		}
		for name, want := range map[string]os.FileMode{"f": 0o750, "tmp": os.ModeDir | os.ModeSticky | 0o777, "in": os.ModeDir | 0o500, "in/er": os.ModeDir | os.ModeSetgid | 0o750} {
			if info, err := os.Stat(at("dir/" + name)); err != nil || info.Mode() != want {
				t.Errorf("%s: directory: %v, %v", client, info, err)
			}
		}
		if list := members(t, at("t.tar")); !slices.Contains(list, "f") || !slices.Contains(list, "l") {
			t.Errorf("%s: tar: %q", client, list)
		}
		if list := members(t, at("oci.tar")); !slices.Contains(list, "index.json") || !slices.Contains(list, "oci-layout") {
			t.Errorf("%s: OCI archive: %q", client, list)
		}
		if got := s.OK("docker", "load", "-i", at("docker.tar")); !strings.Contains(got, "outputs:"+client) {
			t.Errorf("%s: docker load says %q", client, got)
		}
		if r := build(s, client, "-o", "type=local,dest=/dev/null/x", dir); r.Code == 0 {
			t.Errorf("%s: a directory that cannot be made is no error", client)
		}
	}
}

func namedContexts(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM base\nCOPY --from=extra a /a\nRUN --mount=type=bind,from=extra,target=/x cat /a /x/b\n"})
	extra := project(t, map[string]string{"a": "from a directory\n", "b": "and mounted\n"})
	for _, client := range kitClients {
		out := plain(t, s, client, "--no-cache", "--build-context", "extra="+extra, "--build-context", "base=docker-image://busybox:test", dir)
		if !strings.Contains(out, "from a directory\n") || !strings.Contains(out, "and mounted\n") {
			t.Errorf("%s:\n%s", client, out)
		}
	}
}

// agents forwards to an agent that counts who comes.
func agents(t *testing.T, s *harness.Stack) {
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { _ = l.Close() }()
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	})
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN --mount=type=ssh,required test -S \"$SSH_AUTH_SOCK\" && echo there is an agent\nRUN test -z \"$SSH_AUTH_SOCK\"\n"})
	for _, client := range kitClients {
		out := plain(t, s, client, "--no-cache", "--ssh", "default="+socket, dir)
		if !strings.Contains(out, "there is an agent\n") {
			t.Errorf("%s:\n%s", client, out)
		}
		if r := build(s, client, "--no-cache", dir); r.Code == 0 {
			t.Errorf("%s: a required agent that nobody forwards is no error", client)
		}
	}
}

func standardInput(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nCOPY a /a\nRUN cat /a\n", "a": "in the archive\n"})
	for _, client := range kitClients {
		for _, row := range []struct {
			args  []string
			stdin func() io.Reader
			want  string
		}{
			{[]string{"-"}, func() io.Reader { return strings.NewReader("FROM busybox:test\nRUN echo no context\n") }, "no context"},
			{[]string{"-f", "-", dir}, func() io.Reader { return strings.NewReader("FROM busybox:test\nCOPY a /b\nRUN cat /b\n") }, "in the archive"},
			{[]string{"-"}, func() io.Reader {
				data, err := exec.Command("tar", "-C", dir, "-cz", ".").Output()
				if err != nil {
					t.Fatal(err)
				}
				return bytes.NewReader(data)
			}, "in the archive"},
		} {
			cmd := command(s, client, append([]string{"--progress=plain", "--no-cache"}, row.args...)...)
			cmd.Stdin = row.stdin()
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), row.want+"\n") {
				t.Errorf("%s %q: %v\n%s", client, row.args, err, out)
			}
		}
	}
}

func elsewhere(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"a": "a", "b": "b", ".dockerignore": "a\n"})
	files := project(t, map[string]string{"x.Dockerfile": "FROM busybox:test\nCOPY . /c\nRUN ls -A /c | tr '\\n' ' '\n", "x.Dockerfile.dockerignore": "b\n"})
	for _, client := range kitClients {
		if out := plain(t, s, client, "--no-cache", "-f", filepath.Join(files, "x.Dockerfile"), dir); !strings.Contains(out, ".dockerignore a ") {
			t.Errorf("%s:\n%s", client, out)
		}
	}
}

func layouts(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nENV A=b\nRUN cat /proc/sys/kernel/random/uuid >/once\nLABEL c=d\nCOPY --link a /a\nCMD [\"cat\", \"/once\"]\n", "a": "a"})
	both := project(t, map[string]string{"Dockerfile": "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY a /\n", "a": "in the layout\n"})
	user := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nCOPY --from=base a /\nRUN cat /a\n"})
	for _, client := range kitClients {
		cache := filepath.Join(t.TempDir(), "cache")
		mustBuild(t, s, client, "--cache-from", "type=local,src="+cache, "--no-cache", "--cache-to", "type=local,dest="+cache, "-t", "cached:1", dir)
		if left, err := filepath.Glob(filepath.Join(cache, ".*")); err != nil || len(left) > 0 {
			t.Errorf("%s: left in the cache: %q, %v", client, left, err)
		}
		for _, other := range kitClients {
			s.OK("engine", "builder", "prune", "-af")
			if out := plain(t, s, other, "--cache-from", "type=local,src="+cache, "-t", "cached:2", dir); !strings.Contains(out, "CACHED") {
				t.Errorf("the cache of %s was of no use to %s:\n%s", client, other, out)
			}
			if one, two := s.OK("engine", "run", "--rm", "cached:1", "cat", "/once"), s.OK("engine", "run", "--rm", "cached:2", "cat", "/once"); one != two {
				t.Errorf("%s: the step ran again: %s, %s", other, one, two)
			}
			one, two := s.OK("docker", "image", "inspect", "cached:1"), s.OK("docker", "image", "inspect", "cached:2")
			if id := s.OK("docker", "image", "inspect", "-f", "{{.Id}}", "cached:2"); !strings.Contains(one, id) {
				t.Errorf("%s: another image came of the cache of %s:\n%s\n%s", other, client, one, two)
			}
		}
		// Again: what is there stays, and the index has one entry of a name.
		mustBuild(t, s, client, "--cache-to", "type=local,dest="+cache+",mode=max", "-t", "cached:1", dir)
		if list := layoutIndex(t, cache); len(list) != 1 {
			t.Errorf("%s: the cache's index has %q", client, list)
		}
		archive, layout := filepath.Join(t.TempDir(), "image.tar"), t.TempDir()
		mustBuild(t, s, client, "--platform", "linux/amd64,linux/arm64", "-t", "layout:one", "-o", "type=oci,dest="+archive, both)
		if out, err := exec.Command("tar", "-C", layout, "-xf", archive).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		list := layoutIndex(t, layout)
		if len(list) != 1 {
			t.Fatalf("%s: the layout's index has %q", client, list)
		}
		for _, ref := range []string{layout + "@" + list[0], layout + ":one"} {
			if out := plain(t, s, client, "--no-cache", "--build-context", "base=oci-layout://"+ref, user); !strings.Contains(out, "in the layout\n") {
				t.Errorf("%s: an OCI layout as a context:\n%s", client, out)
			}
		}
		for _, ref := range []string{layout + ":nosuch", layout + "@sha256:" + strings.Repeat("0", 64), layout + "/nosuch"} {
			if client == "buildx" && strings.HasSuffix(ref, ":nosuch") {
				continue // it takes the only image that there is
			}
			if r := build(s, client, "--no-cache", "--build-context", "base=oci-layout://"+ref, user); r.Code == 0 {
				t.Errorf("%s: %s is no error", client, ref)
			}
		}
	}
}

// layoutIndex are the digests in the index of an OCI layout.
func layoutIndex(t *testing.T, dir string) []string {
	t.Helper()
	var index struct{ Manifests []struct{ Digest string } }
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil {
		t.Fatalf("index %s, %v", raw, err)
	}
	var out []string
	for _, m := range index.Manifests {
		out = append(out, m.Digest)
	}
	return out
}

func lint(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test as x\nRUN echo this must not run\n"})
	for _, client := range kitClients {
		r := build(s, client, "--check", dir)
		if all := r.Stdout + r.Stderr; r.Code != 1 || !strings.Contains(all, "WARNING: FromAsCasing") || !strings.Contains(all, "1 | >>> FROM busybox:test as x") || strings.Contains(all, "this must not run\n#") {
			t.Errorf("%s: %+v", client, r)
		}
		if out := mustBuild(t, s, client, "--call=targets", dir); !strings.Contains(out, "x (default)") {
			t.Errorf("%s: targets:\n%s", client, out)
		}
	}
}

func resultFiles(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN echo files >/files\n"})
	for _, client := range kitClients {
		out := t.TempDir()
		mustBuild(t, s, client, "-t", "files", "--iidfile", filepath.Join(out, "id"), "--metadata-file", filepath.Join(out, "meta"), dir)
		id, err := os.ReadFile(filepath.Join(out, "id"))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.OK("docker", "run", "--rm", string(id), "cat", "/files"); got != "files" {
			t.Errorf("%s: image %s says %q", client, id, got)
		}
		var meta map[string]any
		raw, err := os.ReadFile(filepath.Join(out, "meta"))
		if err == nil {
			err = json.Unmarshal(raw, &meta)
		}
		if err != nil || meta["image.name"] != "docker.io/library/files:latest" || !strings.HasPrefix(fmt.Sprint(meta["containerimage.digest"]), "sha256:") || meta["buildx.build.ref"] == nil {
			t.Errorf("%s: metadata %s, %v", client, raw, err)
		}
	}
}

func history(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN echo remembered\n"})
	mustBuild(t, s, "buildx", "--no-cache", "-t", "remember:me", dir)
	r := build(s, "engine", project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN exit 9\n"}))
	if r.Code == 0 {
		t.Error("exit 9 is no error")
	}
	list := strings.Split(s.OK("engine", "builder", "history"), "\n")
	if len(list) < 3 || !strings.Contains(list[1], "Error") || !strings.Contains(list[2], "Completed") || !strings.Contains(list[2], "remember:me") {
		t.Fatalf("history:\n%s", strings.Join(list, "\n"))
	}
	ref := strings.Fields(list[2])[0]
	if story := s.OK("engine", "builder", "history", ref[:8]); !strings.Contains(story, "remembered\n") || !strings.Contains(story, "DONE") {
		t.Errorf("story:\n%s", story)
	}
	if out := s.OK("docker", "buildx", "history", "ls"); !strings.Contains(out, ref) {
		t.Errorf("buildx history ls:\n%s", out)
	}
	if r := s.Docker("buildx", "history", "logs", "--progress=plain", ref); !strings.Contains(r.Stdout+r.Stderr, "remembered\n") {
		t.Errorf("buildx history logs: %+v", r)
	}
	for filter, want := range map[string]bool{"status=error": false, "status=completed": true, "ref=" + ref[2:8]: true, "duration>1h": false, "startedAt>1h": true} {
		for _, client := range [][]string{{"engine", "builder", "history"}, {"docker", "buildx", "history", "ls"}} {
			if out := s.OK(client[0], append(client[1:], "--filter", filter)...); strings.Contains(out, ref) != want {
				t.Errorf("%s --filter %s:\n%s", client[0], filter, out)
			}
		}
	}
	if steps := regexp.MustCompile(`Build Steps:\s*([0-9]+)/([0-9]+)`).FindStringSubmatch(s.OK("docker", "buildx", "history", "inspect", ref)); steps == nil || steps[1] != steps[2] {
		t.Errorf("of a build that has ended: %q", steps)
	}
	failed := strings.Fields(list[1])[0]
	s.OK("engine", "builder", "history", "--rm", failed)
	if out := s.OK("engine", "builder", "history"); strings.Contains(out, failed) {
		t.Errorf("%s was removed:\n%s", failed, out)
	}
	s.OK("docker", "buildx", "history", "rm", ref)
	if out := s.OK("engine", "builder", "history"); strings.Contains(out, ref) {
		t.Errorf("%s was removed:\n%s", ref, out)
	}
	if out := s.OK("docker", "buildx", "du"); !strings.Contains(out, "Total:") {
		t.Errorf("buildx du:\n%s", out)
	}
}

func versionTwo(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nARG A\nRUN echo argument $A >/a\n"})
	data, err := exec.Command("tar", "-C", dir, "-c", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	post := func(query string) string {
		cmd := s.Host("curl", "-sS", "--unix-socket", s.EngineSocket(), "-H", "Content-Type: application/x-tar", "--data-binary", "@-", "http://engine/v1.47/build?version=2&"+query)
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	out := post("t=two:latest&buildargs=%7B%22A%22%3A%22given%22%7D")
	if !strings.Contains(out, `"id":"moby.buildkit.trace"`) || !strings.Contains(out, `"id":"moby.image.id"`) {
		t.Errorf("answer:\n%s", out)
	}
	if got := s.OK("engine", "run", "--rm", "two", "cat", "/a"); got != "argument given" {
		t.Errorf("the image says %q", got)
	}
	if out := post("target=none"); !strings.Contains(out, `"errorDetail"`) || !strings.Contains(out, "none") {
		t.Errorf("a target that there is not: %s", out)
	}
}

func rawStory(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN echo raw\n"})
	for _, client := range kitClients {
		r := build(s, client, "--progress=rawjson", "--no-cache", dir)
		if r.Code != 0 {
			t.Fatalf("%s: %+v", client, r)
		}
		var text []byte
		vertices := map[string]bool{}
		for line := range strings.Lines(r.Stderr) {
			var e struct {
				Vertexes []struct{ Name string }
				Logs     []struct{ Data []byte }
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %q: %v", client, line, err)
			}
			for _, v := range e.Vertexes {
				vertices[v.Name] = true
			}
			for _, l := range e.Logs {
				text = append(text, l.Data...)
			}
		}
		if string(text) != "raw\n" || !vertices["[2/2] RUN echo raw"] || !vertices["[internal] load build definition from Dockerfile"] {
			t.Errorf("%s: %q, %v", client, text, vertices)
		}
	}
}

// TestOldClientBuilds builds with Debian's docker, which has BuildKit's protocol built in: a
// session, and POST /build of version 2.
func TestOldClientBuilds(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test AS make\nRUN --mount=type=secret,id=tok wc -c </run/secrets/tok >/length\nFROM busybox:test\nCOPY --from=make /length /\nCOPY a /\n", "a": "from the session\n", "tok": "12345"})
	run := func(args ...string) harness.Result {
		cmd := s.Command(stockClient, append([]string{"build"}, args...)...)
		cmd.Env = append(cmd.Env, "DOCKER_BUILDKIT=1", "BUILDKIT_PROGRESS=plain", "DOCKER_CONFIG="+t.TempDir())
		return s.Run(cmd)
	}
	r := run("--secret", "id=tok,src="+filepath.Join(dir, "tok"), "-t", "old", dir)
	if r.Code != 0 || !strings.Contains(r.Stderr, "[make 2/2] RUN --mount=type=secret,id=tok") {
		t.Fatalf("%+v\n%s", r, s.Logs())
	}
	if got := s.OK("engine", "run", "--rm", "old", "cat", "/length", "/a"); got != "5\nfrom the session" {
		t.Errorf("the image says %q", got)
	}
	out := t.TempDir()
	if r := run("--secret", "id=tok,src="+filepath.Join(dir, "tok"), "-o", out, dir); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	if data, err := os.ReadFile(filepath.Join(out, "length")); err != nil || string(data) != "5\n" {
		t.Errorf("output: %q, %v", data, err)
	}
	if r := run(project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN exit 4\n"})); r.Code == 0 || !strings.Contains(r.Stderr, "did not complete successfully: exit code: 4") {
		t.Errorf("a command that fails: %+v", r)
	}
}

// TestStockDaemonBuildsForUs builds with our client and Debian's dockerd.
func TestStockDaemonBuildsForUs(t *testing.T) {
	s := harness.New(t)
	docker := stockDocker(t, s)
	if out, err := docker("load", "-i", s.BusyboxArchive()).CombinedOutput(); err != nil {
		t.Fatalf("load: %v\n%s", err, out)
	}
	engine := func(args ...string) (string, error) {
		cmd := docker(args...)
		cmd.Args[slices.Index(cmd.Args, stockClient)] = harness.Bin(t, "engine")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN --mount=type=secret,id=tok wc -c </run/secrets/tok >/length\nCOPY a /d/\n", "a": "ours\n", "b": strings.Repeat("x", 1<<20), "tok": "12345", ".dockerignore": "b\n"})
	out, err := engine("build", "--network", "none", "--secret", "id=tok,src="+filepath.Join(dir, "tok"), "-t", "ours", dir)
	if err != nil || !strings.Contains(out, "[2/3] RUN --mount=type=secret,id=tok") || !strings.Contains(out, "built sha256:") {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, err := docker("run", "--rm", "--network", "none", "ours", "cat", "/length", "/d/a").CombinedOutput(); err != nil || string(got) != "5\nours\n" {
		t.Errorf("the image says %q, %v", got, err)
	}
	to := t.TempDir()
	if out, err := engine("build", "--network", "none", "--secret", "id=tok,src="+filepath.Join(dir, "tok"), "-o", to, dir); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if data, err := os.ReadFile(filepath.Join(to, "d/a")); err != nil || string(data) != "ours\n" {
		t.Errorf("output: %q, %v", data, err)
	}
	if out, err := engine("build", "--network", "none", project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN exit 4\n"})); err == nil || !strings.Contains(out, "exit code: 4") {
		t.Errorf("a command that fails: %v\n%s", err, out)
	}
	shell := docker("build", "--network", "none", "--on-failure=shell", project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN sleep 1; exit 4\n"}))
	shell.Args[slices.Index(shell.Args, stockClient)] = harness.Bin(t, "engine")
	term := harness.StartTerminal(t, shell)
	term.Expect("--on-failure=shell: the daemon")
	if code := term.Wait(); code == 0 {
		t.Errorf("a shell that the daemon cannot give: exit code 0\n%s", term.Screen())
	}
}
