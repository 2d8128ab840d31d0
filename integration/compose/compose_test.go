// Package compose runs projects with the stock docker compose, built from its module, against
// our engine and against a stock dockerd, and compares what they say.
package compose

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"strata/integration/harness"
)

// docker runs one command of the stock client.
type docker func(args ...string) harness.Result

// project writes a project's files into a directory of its own.
func project(t *testing.T, s *harness.Stack, files map[string]string) (dir string) {
	t.Helper()
	dir = filepath.Join(s.Root, filepath.Base(t.Name()))
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// stacks returns our engine and a stock dockerd with the same image; commands run in dir.
func stacks(t *testing.T, s *harness.Stack, dir string) (ours, stock docker) {
	t.Helper()
	s.Plugin("compose")
	s.LoadBusybox()
	at := func(make func(args ...string) *exec.Cmd) docker {
		return func(args ...string) harness.Result {
			cmd := make(args...)
			cmd.Dir = dir
			return s.Run(cmd)
		}
	}
	ours, stock = at(func(args ...string) *exec.Cmd { return s.Command("docker", args...) }), at(s.StockDocker())
	if r := stock("load", "-q", "-i", s.BusyboxArchive()); r.Code != 0 {
		t.Fatalf("stock load: %+v", r)
	}
	return ours, stock
}

// noise is what differs from run to run.
var noise = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`[0-9a-f]{64}`), "ID"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "ID"},
	{regexp.MustCompile(`[0-9]+ (seconds?|minutes?) ago|Less than a second ago|About a minute ago`), "AGO"},
	{regexp.MustCompile(`Up ([0-9]+ (seconds?|minutes?)|Less than a second|About a minute)`), "Up"},
	{regexp.MustCompile(` +`), " "},
}

// said is a result without noise. What compose does in parallel comes in any order.
func said(r harness.Result) string {
	lines := strings.Split(r.Stdout+"\n"+r.Stderr, "\n")
	for i := range lines {
		for _, n := range noise {
			lines[i] = n.pattern.ReplaceAllString(lines[i], n.instead)
		}
		lines[i] = strings.TrimSpace(lines[i])
	}
	slices.Sort(lines)
	return fmt.Sprintf("exit code %d%s", r.Code, strings.Join(slices.Compact(lines), "\n"))
}

// same runs commands on both and compares code and output.
func same(t *testing.T, ours, stock docker, commands [][]string) {
	t.Helper()
	for _, args := range commands {
		args = append([]string{"compose"}, args...)
		got, want := said(ours(args...)), said(stock(args...))
		if got != want {
			t.Errorf("docker %s\n--- ours\n%s\n--- dockerd\n%s", strings.Join(args, " "), got, want)
		}
	}
}

func words(lines ...string) [][]string {
	var out [][]string
	for _, l := range lines {
		out = append(out, strings.Fields(l))
	}
	return out
}

const shop = `
name: shop
services:
  nginx:
    image: busybox:test
    command: sh -c "echo nginx >/tmp/index.html; exec httpd -f -p 80 -h /tmp"
    networks: [frontend]
    ports: ["8088:80", "127.0.0.1:8089:80/udp"]
    depends_on:
      api: {condition: service_healthy}
    labels: {tier: front}
    stop_grace_period: 0s
  api:
    image: busybox:test
    command: sh -c "echo api >/data/index.html; exec httpd -f -p 80 -h /data"
    networks:
      frontend: {aliases: [backend-api]}
      backend: {}
    volumes: [state:/data]
    healthcheck: {test: [CMD, wget, -q, -O, "-", "http://127.0.0.1/"], interval: 1s, timeout: 5s, retries: 20}
    stop_grace_period: 0s
  database:
    image: busybox:test
    command: sh -c "echo database >/tmp/index.html; exec httpd -f -p 80 -h /tmp"
    networks: {backend: {ipv4_address: 10.91.0.77}}
    stop_grace_period: 0s
  worker:
    image: busybox:test
    command: sleep 100000
    networks: [frontend]
    expose: ["80"]
    restart: unless-stopped
    stop_grace_period: 0s
    deploy: {replicas: 2}
networks:
  frontend: {labels: {side: out}}
  backend: {internal: true, ipam: {config: [{subnet: 10.91.0.0/24}]}}
volumes:
  state: {}
`

func TestProjectBehavesAsOnDockerd(t *testing.T) {
	s := harness.New(t)
	dir := project(t, s, map[string]string{"compose.yaml": shop})
	ours, stock := stacks(t, s, dir)
	if r := ours("compose", "up", "-d", "--wait"); r.Code != 0 {
		t.Fatalf("up: %+v\n%s", r, s.Logs())
	}
	if r := stock("compose", "up", "-d", "--wait"); r.Code != 0 {
		t.Fatalf("up on dockerd: %+v", r)
	}
	const columns = "{{.Name}} {{.State}} {{.ExitCode}} {{.Health}} {{.Ports}} {{.Status}}"
	ps := []string{"ps", "-a", "--format", columns}
	same(t, ours, stock, append(words(
		"ls", "volumes", "port nginx 80", "port --protocol udp nginx 80", "port --index 2 worker 80",
		"exec -T nginx wget -q -O - http://backend-api/", "exec -T api wget -q -O - http://database/", "exec -T database wget -q -O - http://api/",
		"exec -T database cat /absent", "exec -T -e A=b -u nobody worker id", "logs nginx", "cp nginx:/tmp/index.html copied", "cp compose.yaml nginx:/tmp/there",
		"exec -T nginx head -n 2 /tmp/there", "run --rm --no-deps -T worker echo once", "run --rm --no-deps -T worker false",
		"pause nginx", "ps nginx --format {{.Name}}:{{.State}}", "unpause nginx", "restart -t 0 worker", "stop worker", "ps --status exited --format {{.Name}}:{{.ExitCode}}", "start worker",
		"up -d --scale worker=4", "ps --format {{.Name}}", "up -d --scale worker=1", "kill -s KILL worker", "up -d", "up -d --force-recreate nginx", "export -o tar nginx", "rm -fs worker", "create worker",
	), ps))
	compareInspect(t, ours, stock)
	same(t, ours, stock, append(words("down -v", "ls -a"), ps))
	if r := ours("network", "ls", "-q", "--filter", "name=shop"); r.Stdout != "" {
		t.Errorf("networks are left: %s", r.Stdout)
	}
	if r := ours("volume", "ls", "-q"); r.Stdout != "" {
		t.Errorf("volumes are left: %s", r.Stdout)
	}
}

// compareInspect compares the members that inspect prints of containers and networks, and
// their types.
func compareInspect(t *testing.T, ours, stock docker) {
	t.Helper()
	// What versions after 20.10, Debian's, print differently: a policy has a name, and so on.
	newer := regexp.MustCompile(`\.(EnableIPv4|GwPriority|KernelMemory|KernelMemoryTCP|OnBuild|Gateway|DNSNames\b.*|ImageManifestDescriptor.*|Health.*|GraphDriver.*|Storage.*|Aliases.*) `)
	// A health check that is under way has an exec.
	momentary := regexp.MustCompile(`^shop-api-1\[\]\.ExecIDs`)
	for _, name := range []string{"shop-nginx-1", "shop-api-1", "shop-database-1", "shop_frontend", "shop_backend"} {
		var shapes [2][]string
		for i, do := range []docker{ours, stock} {
			var v any
			if err := json.Unmarshal([]byte(do("inspect", name).Stdout), &v); err != nil {
				t.Fatal(err)
			}
			shapes[i] = shape(name, v)
		}
		for i, who := range []string{"we have not", "dockerd has not"} {
			for _, line := range shapes[1-i] {
				if !slices.Contains(shapes[i], line) && !newer.MatchString(line+" ") && !momentary.MatchString(line) {
					t.Errorf("%s %s", who, line)
				}
			}
		}
	}
}

var id = regexp.MustCompile(`^[0-9a-f]{64}$`)

// shape lists the paths of a JSON value with the types of their values.
func shape(path string, v any) []string {
	switch v := v.(type) {
	case map[string]any:
		out := []string{path + " {}"}
		for key, value := range v {
			if id.MatchString(key) {
				key = "ID"
			}
			out = append(out, shape(path+"."+key, value)...)
		}
		return out
	case []any:
		out := []string{path + " []"}
		for _, value := range v {
			out = append(out, shape(path+"[]", value)...)
		}
		return out
	}
	return []string{fmt.Sprintf("%s %T", path, v)}
}

// TestProjectIsNetworked looks from inside at what the project's networks promise, also with
// both daemons killed.
func TestProjectIsNetworked(t *testing.T) {
	s := harness.New(t)
	s.Plugin("compose")
	s.LoadBusybox()
	dir := project(t, s, map[string]string{"compose.yaml": shop})
	compose := func(args ...string) harness.Result {
		cmd := s.Command("docker", append([]string{"compose"}, args...)...)
		cmd.Dir = dir
		return s.Run(cmd)
	}
	if r := compose("up", "-d", "--wait", "--scale", "worker=3"); r.Code != 0 {
		t.Fatalf("up: %+v\n%s", r, s.Logs())
	}
	if body, failure := s.Curl("http://127.0.0.1:8088/"); body != "nginx\n" {
		t.Errorf("the published port: %q %s", body, failure)
	}
	for _, name := range []string{"database", "10.91.0.77"} {
		if r := compose("exec", "-T", "nginx", "busybox", "timeout", "2", "wget", "-q", "-O", "-", "http://"+name+"/"); r.Code == 0 {
			t.Errorf("nginx reaches %s of another network: %+v", name, r)
		}
	}
	first := map[string]int{}
	address := regexp.MustCompile(`(?m)^Address: +(172\S+)$`)
	for range 9 {
		r := compose("exec", "-T", "nginx", "nslookup", "-type=a", "worker")
		found := address.FindAllStringSubmatch(r.Stdout, -1)
		if len(found) != 3 {
			t.Fatalf("a service of three has %d addresses: %s", len(found), r.Stdout)
		}
		first[found[0][1]]++
	}
	if len(first) != 3 {
		t.Errorf("first addresses of nine answers: %v, want three to take turns", first)
	}
	before := compose("ps", "-aq").Stdout
	s.KillEngine()
	s.KillSupervisor()
	if body, failure := s.Curl("http://127.0.0.1:8088/"); body != "nginx\n" {
		t.Errorf("the published port with dead daemons: %q %s", body, failure)
	}
	s.StartSupervisor()
	s.StartEngine()
	s.WaitReady()
	if after := compose("ps", "-aq").Stdout; after != before {
		t.Errorf("after kill -9 of both daemons ps lists\n%swant\n%s", after, before)
	}
	if r := compose("up", "-d", "--wait", "--scale", "worker=3"); strings.Contains(r.Stderr, "Starting") || strings.Contains(r.Stderr, "Recreate") {
		t.Errorf("after kill -9 of both daemons up has something to do: %+v", r)
	}
	begin := time.Now()
	if r := compose("down", "-v"); r.Code != 0 {
		t.Errorf("down: %+v", r)
	}
	t.Logf("down of six containers took %v", time.Since(begin))
}

// TestProjectIsBuilt builds a project's images by the stock buildx, at the first up and when
// asked for.
func TestProjectIsBuilt(t *testing.T) {
	s := harness.New(t)
	s.Plugin("compose")
	s.Plugin("buildx")
	s.LoadBusybox()
	dir := project(t, s, map[string]string{
		"compose.yaml": `
name: made
services:
  web:
    build: {context: web, args: {WORD: first}, target: final, labels: {made: by-compose}}
    image: made-web:1
    command: cat /said
  tool:
    build:
      context: tool
      dockerfile_inline: |
        FROM busybox:test
        COPY file /file
    command: cat /file
`,
		"web/Dockerfile": "FROM busybox:test AS final\nARG WORD\nRUN echo \"the $WORD word\" >/said\nFROM final\nRUN false\n",
		"tool/file":      "of the tool\n",
	})
	compose := func(args ...string) harness.Result {
		cmd := s.Command("docker", append([]string{"compose"}, args...)...)
		cmd.Dir = dir
		return s.Run(cmd)
	}
	if r := compose("build"); r.Code != 0 || !strings.Contains(r.Stderr+r.Stdout, "made-web:1") {
		t.Fatalf("build: %+v", r)
	}
	for service, want := range map[string]string{"web": "the first word\n", "tool": "of the tool\n"} {
		if r := compose("run", "--rm", "-T", service); r.Code != 0 || r.Stdout != want {
			t.Errorf("run %s: %+v, want %q", service, r, want)
		}
	}
	if got := s.OK("engine", "image", "inspect", "--format", "{{.Config.Labels.made}}", "made-web:1"); got != "by-compose" {
		t.Errorf("the label is %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "tool/file"), []byte("of another\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := compose("build", "--build-arg", "WORD=second", "web"); r.Code != 0 {
		t.Errorf("build of one: %+v", r)
	}
	if r := compose("up", "--build", "--abort-on-container-exit", "--exit-code-from", "tool", "tool"); r.Code != 0 || !strings.Contains(r.Stdout, "of another") {
		t.Errorf("up --build: %+v", r)
	}
	if r := compose("run", "--rm", "-T", "web"); r.Stdout != "the second word\n" {
		t.Errorf("after a build with another argument: %+v", r)
	}
	if err := os.WriteFile(filepath.Join(dir, "web/Dockerfile"), []byte("FROM busybox:test AS final\nRUN echo gone wrong; exit 3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := compose("build", "web"); r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, "gone wrong") || !strings.Contains(r.Stdout+r.Stderr, "exit code: 3") {
		t.Errorf("a build that fails: %+v", r)
	}
	if r := compose("down", "--rmi", "local", "-v"); r.Code != 0 {
		t.Errorf("down: %+v", r)
	}
}

// TestServiceIsBuiltUponAnother builds a service upon the image of another, which is no
// service that runs.
func TestServiceIsBuiltUponAnother(t *testing.T) {
	s := harness.New(t)
	s.Plugin("compose")
	s.Plugin("buildx")
	s.LoadBusybox()
	dir := project(t, s, map[string]string{
		"compose.yaml": `
name: upon
services:
  base:
    build: base
    scale: 0
  app:
    build:
      context: app
      additional_contexts: {base: "service:base", files: app/more}
    command: cat /said /more
`,
		"base/Dockerfile": "FROM busybox:test\nENV SAID=by-the-base\nCOPY file /file\n",
		"base/file":       "file of the base\n",
		"app/Dockerfile":  "FROM base\nRUN echo $SAID | cat - /file >/said\nCOPY --from=files more /\n",
		"app/more/more":   "file of another directory\n",
	})
	compose := func(args ...string) harness.Result {
		cmd := s.Command("docker", append([]string{"compose"}, args...)...)
		cmd.Dir = dir
		return s.Run(cmd)
	}
	for _, want := range []string{"file of the base\n", "changed\n"} {
		if err := os.WriteFile(filepath.Join(dir, "base/file"), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		if r := compose("build", "app"); r.Code != 0 {
			t.Fatalf("build: %+v\n%s", r, s.Logs())
		}
		if r := compose("run", "--rm", "-T", "app"); r.Code != 0 || !strings.HasSuffix(r.Stdout, "by-the-base\n"+want+"file of another directory\n") {
			t.Errorf("run: %+v", r)
		}
	}
	if r := compose("down", "--rmi", "local"); r.Code != 0 {
		t.Errorf("down: %+v", r)
	}
}
