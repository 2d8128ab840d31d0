package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strata/integration/harness"
)

// realBuildTime bounds a build that installs packages.
const realBuildTime = 10 * time.Minute

// through builds the same directory with each client, and hands each image to check. The
// first one's build has everything to do; what the others do comes of the cache.
func through(t *testing.T, s *harness.Stack, name string, args []string, dir string, check func(t *testing.T, image string)) {
	t.Helper()
	for _, client := range clients {
		image := name + ":" + client
		cmd := command(s, client, append(append([]string{"-t", image}, args...), dir)...)
		start := time.Now()
		timer := time.AfterFunc(realBuildTime, func() { _ = cmd.Process.Kill() })
		out, err := cmd.CombinedOutput()
		timer.Stop()
		if err != nil {
			t.Fatalf("%s: %v\n%s\n%s", client, err, out, s.Logs())
		}
		t.Logf("%s: %v", client, time.Since(start).Round(time.Millisecond))
		check(t, image)
	}
}

// TestRealDockerfiles builds what people build, on bases made of this machine.
func TestRealDockerfiles(t *testing.T) {
	s := harness.New(t)
	t.Run("a Go program with a module cache, to scratch", func(t *testing.T) { goProgram(t, s.For(t)) })
	t.Run("a Node app with npm", func(t *testing.T) { nodeApp(t, s.For(t)) })
	t.Run("nginx and python from Debian's packages", func(t *testing.T) { debian(t, s.For(t)) })
}

const goFile = `FROM golang:test AS build
WORKDIR /src
ENV CGO_ENABLED=0 GOFLAGS=-mod=mod GOTOOLCHAIN=local GOSUMDB=off
ARG GOPROXY
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/root/go/pkg/mod go mod download
COPY . .
RUN --mount=type=cache,target=/root/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    go build -trimpath -ldflags='-s -w' -o /out/app .
RUN test -z "$(ls /root/go/pkg/mod 2>/dev/null)"

FROM scratch
COPY --from=build /out/app /app
USER 1000:1000
ENTRYPOINT ["/app"]
CMD ["world"]
`

const goMain = `package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		panic(err)
	}
	entries, _ := os.ReadDir("/")
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && e.Name() != ".dockerenv" {
			names = append(names, e.Name())
		}
	}
	fmt.Printf("hello %s on %s as %d, files %v\n", os.Args[1], unix.ByteSliceToString(u.Sysname[:]), os.Getuid(), names)
}
`

func goProgram(t *testing.T, s *harness.Stack) {
	goroot := said(t, "go", "env", "GOROOT")
	imported(t, s, "golang:test", exec.Command("tar", "-c", "--sort=name",
		"--exclude=*_test.go", "--exclude=testdata", "--transform", "s,^bin/go,usr/local/go/bin/go,;s,^\\(src\\|pkg\\|go.env\\|VERSION\\),usr/local/go/\\1,",
		"-C", busyboxRoot(t), "./bin", "./etc", "./root", "./tmp",
		"-C", goroot, "bin/go", "src", "pkg/tool", "pkg/include", "go.env", "VERSION",
	), "ENV PATH=/usr/local/go/bin:/bin")
	sums := ""
	all, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(all)) {
		if strings.HasPrefix(line, "golang.org/x/sys ") {
			sums += line
		}
	}
	version := said(t, "go", "list", "-m", "-f", "{{.Version}}", "golang.org/x/sys")
	dir := project(t, map[string]string{
		"Dockerfile": goFile, "main.go": goMain, "go.sum": sums,
		"go.mod": "module hello\n\ngo 1.26.0\n\nrequire golang.org/x/sys " + version + "\n",
	})
	proxy := "http://" + mirror(t, s, goProxy(t), filepath.Join(said(t, "go", "env", "GOMODCACHE"), "cache/download"))
	args := []string{"--network", "host", "--build-arg", "GOPROXY=" + proxy}
	through(t, s, "hello", args, dir, func(t *testing.T, image string) {
		if got, want := s.OK("docker", "run", "--rm", "--network", "none", image), "hello world on Linux as 1000, files [app]"; got != want {
			t.Errorf("%s says %q, want %q", image, got, want)
		}
	})
	// One file changed: the modules are in the cache mount, the compiler's results, too.
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(strings.Replace(goMain, "hello", "goodbye", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	through(t, s, "goodbye", args, dir, func(t *testing.T, image string) {
		if got := s.OK("docker", "run", "--rm", "--network", "none", image, "moon"); !strings.HasPrefix(got, "goodbye moon") {
			t.Errorf("%s says %q", image, got)
		}
	})
}

const nodeFile = `FROM node:test
WORKDIR /app
ARG REGISTRY
COPY package.json ./
RUN --mount=type=cache,target=/root/.npm npm install --registry=$REGISTRY --no-audit --no-fund --omit=dev
COPY . .
USER nobody
CMD ["node", "index.js"]
`

func nodeApp(t *testing.T, s *harness.Stack) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("needs node and npm")
	}
	upstream := strings.TrimSuffix(said(t, "npm", "config", "get", "registry"), "/")
	needsMirror(t, "the npm registry", upstream+"/left-pad")
	npm, err := filepath.EvalSymlinks(said(t, "sh", "-c", "command -v npm"))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-c", "--dereference", "--sort=name", "-C", busyboxRoot(t), "./etc", "./root", "./tmp", "./bin", "-C", "/", strings.TrimPrefix(node, "/"), strings.TrimPrefix(filepath.Dir(filepath.Dir(npm)), "/")}
	for _, lib := range libraries(t, node) {
		args = append(args, strings.TrimPrefix(lib, "/"))
	}
	imported(t, s, "node-base:test", exec.Command("tar", args...), "ENV PATH=/usr/local/bin:/usr/bin:/bin")
	base := project(t, map[string]string{"Dockerfile": "FROM node-base:test\nRUN mkdir -p /usr/local/bin && printf '#!/bin/sh\\nexec node " + npm + " \"$@\"\\n' >/usr/local/bin/npm && chmod +x /usr/local/bin/npm\n"})
	mustBuild(t, s, "engine", "-t", "node:test", base)
	dir := project(t, map[string]string{
		"Dockerfile": nodeFile, ".dockerignore": "node_modules\n", "node_modules/wrong": "",
		"package.json": `{"name":"app","version":"1.0.0","dependencies":{"left-pad":"1.3.0"}}`,
		"index.js":     "console.log(require('left-pad')('node', 8, '.'), process.getuid(), require('fs').existsSync('node_modules/wrong'))\n",
	})
	registry := "http://" + mirror(t, s, upstream, "")
	through(t, s, "app", []string{"--network", "host", "--build-arg", "REGISTRY=" + registry}, dir, func(t *testing.T, image string) {
		if got, want := s.OK("docker", "run", "--rm", "--network", "none", image), "....node 65534 false"; got != want {
			t.Errorf("%s says %q, want %q", image, got, want)
		}
	})
}

const debianFile = `FROM debian:test
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends nginx-light python3-minimal && \
    rm -rf /var/lib/apt/lists/*
COPY --chown=www-data:www-data site/ /var/www/html/
RUN python3 - <<EOF >/var/www/html/python.txt
import sys
print("python", sys.version_info.major, sum(range(10)))
EOF
EXPOSE 80
STOPSIGNAL SIGQUIT
HEALTHCHECK NONE
CMD ["nginx", "-g", "daemon off;"]
`

func debian(t *testing.T, s *harness.Stack) {
	packages := aptMirror(t)
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Fatalf("%v: .ci/deps installs it", err)
	}
	needsMirror(t, "Debian's packages", packages+"/dists/bookworm/InRelease")
	imported(t, s, "debian:test", exec.Command("mmdebstrap", "--quiet", "--variant=apt", "bookworm", "-", packages), "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	dir := project(t, map[string]string{"Dockerfile": debianFile, "site/index.html": "built from packages\n"})
	proxy := "http://" + mirror(t, s, "", "")
	through(t, s, "web", []string{"--network", "host", "--build-arg", "http_proxy=" + proxy}, dir, func(t *testing.T, image string) {
		id := s.OK("docker", "run", "-d", image)
		defer s.OK("docker", "rm", "-f", id)
		ip := s.OK("docker", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", id)
		var page, failure string
		if !harness.Eventually(20*time.Second, func() bool { page, failure = s.Curl("http://" + ip + "/"); return failure == "" }) {
			t.Fatalf("%s does not answer: %s\n%s", image, failure, s.OK("docker", "logs", id))
		}
		if page != "built from packages\n" {
			t.Errorf("%s says %q", image, page)
		}
		if page, _ := s.Curl("http://" + ip + "/python.txt"); page != "python 3 45\n" {
			t.Errorf("python said %q", page)
		}
		if env := s.OK("docker", "image", "inspect", "--format", "{{.Config.Env}}", image); strings.Contains(env, "proxy") {
			t.Errorf("the proxy is in the image: %s", env)
		}
		if left := s.OK("docker", "run", "--rm", "--network", "none", image, "sh", "-c", "ls /var/cache/apt /var/lib/apt/lists"); strings.Contains(left, ".deb") || strings.Contains(left, "InRelease") {
			t.Errorf("left in the image: %s", left)
		}
	})
}

// goProxy is where this machine gets modules from, and aptMirror where its packages of
// bookworm come from.
func goProxy(t *testing.T) string {
	t.Helper()
	proxy, _, _ := strings.Cut(said(t, "go", "env", "GOPROXY"), ",")
	if !strings.HasPrefix(proxy, "http") {
		t.Fatalf("GOPROXY begins with %q, want the address of a module proxy", proxy)
	}
	return proxy
}

func aptMirror(t *testing.T) string {
	t.Helper()
	site, _, _ := strings.Cut(said(t, "apt-get", "indextargets", "--format", "$(SITE)", "Codename: bookworm"), "\n")
	if site == "" {
		t.Skip("needs Debian bookworm's packages among apt's sources")
	}
	return site
}

// said runs a program of this machine and returns what it says.
func said(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return strings.TrimSpace(string(out))
}

// busyboxRoot is a small root filesystem with a shell.
func busyboxRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("%v: install busybox-static", err)
	}
	for _, dir := range []string{"bin", "etc", "root", "tmp"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"bin/busybox": string(text), "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", "etc/group": "root:x:0:\nnogroup:x:65534:\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range []string{"sh", "ls", "test", "env", "mkdir", "printf", "chmod", "cat", "rm"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// libraries are the files that a program is linked with.
func libraries(t *testing.T, program string) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(said(t, "ldd", program)) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				out = append(out, word)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
