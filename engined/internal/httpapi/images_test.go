package httpapi

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"strata/engined/internal/images"
	"strata/engined/internal/supervisor/supervisortest"
)

func TestMain(m *testing.M) { os.Exit(supervisortest.Main(m)) }

// imagesServer is the image routes in front of a real supervisor.
type imagesServer struct {
	*httptest.Server
	sup  *supervisortest.Supervisor
	svc  *images.Service
	uses []images.Use
}

type pingTable struct{}

func (pingTable) routes() []route {
	ping := func(w http.ResponseWriter, _ *request) error { _, err := io.WriteString(w, "OK"); return err }
	return []route{{http.MethodGet, "/_ping", ping}, {http.MethodHead, "/_ping", ping}}
}

func startImages(t *testing.T) *imagesServer {
	t.Helper()
	s := &imagesServer{sup: supervisortest.Start(t, "")}
	s.svc = images.New(images.Config{StateDir: t.TempDir(), HostDir: t.TempDir()}, s.sup.Client, nil, images.Hooks{
		Users: func(_ context.Context) []images.Use { return s.uses },
	})
	h := http.Header{"Api-Version": {DefaultVersion}, "Ostype": {"linux"}}
	s.Server = httptest.NewServer(newRouter(h, Images(s.svc).routes(), pingTable{}.routes()))
	t.Cleanup(s.Close)
	return s
}

// call makes a request and returns status and body.
func (s *imagesServer) call(t *testing.T, method, path string, body io.Reader) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// docker runs the stock client against the routes.
func (s *imagesServer) docker(t *testing.T, stdin io.Reader, args ...string) (string, error) {
	t.Helper()
	bin, err := exec.LookPath("docker")
	if err != nil {
		t.Skip("needs the docker CLI")
	}
	cmd := exec.CommandContext(t.Context(), bin, append([]string{"-H", "tcp://" + s.Listener.Addr().String()}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+t.TempDir(), "DOCKER_CLI_HINTS=false")
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *imagesServer) mustDocker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.docker(t, nil, args...)
	if err != nil {
		t.Fatalf("docker %v: %v\n%s", args, err, out)
	}
	return out
}

// rootfs returns a small file system as a tar.
func rootfs(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, f := range files {
		data := strings.Repeat(f, 1000)
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f, Size: int64(len(data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// registry runs Debian's docker-registry on loopback, with a password if auth is not "".
func startRegistry(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("needs docker-registry (Debian package docker-registry)")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	dir := t.TempDir()
	conf := filepath.Join(dir, "config.yml")
	text := "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: " + dir + "/data}}\nhttp: {addr: '" + addr + "'}\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // polls another process
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatal("registry did not start")
		}
	}
}

func (s *imagesServer) importImage(t *testing.T, name string, files ...string) string {
	t.Helper()
	out, err := s.docker(t, bytes.NewReader(rootfs(t, files...)), "import", "-c", "CMD [\"/x\"]", "-c", "ENV A=b", "-", name)
	if err != nil {
		t.Fatalf("docker import: %v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

func TestStockClientWorksWithImages(t *testing.T) {
	s := startImages(t)
	reg := startRegistry(t)
	id := s.importImage(t, "first:1", "a", "b")
	if got := s.mustDocker(t, "image", "inspect", "-f", "{{.Id}} {{.Config.Cmd}} {{index .Config.Env 0}} {{.Os}} {{len .RootFS.Layers}}", "first:1"); got != id+" [/x] A=b linux 1\n" {
		t.Errorf("inspect = %q", got)
	}
	name := reg + "/team/app:v1"
	s.mustDocker(t, "tag", "first:1", name)
	if out := s.mustDocker(t, "push", name); !strings.Contains(out, "The push refers to repository ["+reg+"/team/app]") || !strings.Contains(out, "Pushed") || !strings.Contains(out, "v1: digest: sha256:") {
		t.Errorf("push printed %q", out)
	}
	if out := s.mustDocker(t, "push", name); !strings.Contains(out, "Layer already exists") {
		t.Errorf("second push printed %q", out)
	}
	out := s.mustDocker(t, "rmi", name, "first:1")
	if !strings.Contains(out, "Untagged: "+name) || !strings.Contains(out, "Untagged: first:1") || !strings.Contains(out, "Deleted: "+id) {
		t.Errorf("rmi printed %q", out)
	}
	if out := s.mustDocker(t, "images", "-aq"); out != "" {
		t.Errorf("images after rmi: %q", out)
	}
	out = s.mustDocker(t, "pull", name)
	for _, want := range []string{"v1: Pulling from team/app", "Pull complete", "Digest: sha256:", "Status: Downloaded newer image for " + name} {
		if !strings.Contains(out, want) {
			t.Errorf("pull printed %q, want %q", out, want)
		}
	}
	if out := s.mustDocker(t, "pull", name); !strings.Contains(out, "Status: Image is up to date for "+name) {
		t.Errorf("second pull printed %q", out)
	}
	if got := strings.TrimSpace(s.mustDocker(t, "images", "-q", "--no-trunc")); got != id {
		t.Errorf("id after push and pull = %s, want %s", got, id)
	}
	if out := s.mustDocker(t, "history", "--format", "{{.Comment}}", name); out != "Imported from -\n" {
		t.Errorf("history = %q", out)
	}
	file := filepath.Join(t.TempDir(), "i.tar")
	s.mustDocker(t, "save", "-o", file, name)
	s.mustDocker(t, "rmi", "-f", id[7:19])
	if out := s.mustDocker(t, "load", "-i", file); out != "Loaded image: "+name+"\n" {
		t.Errorf("load printed %q", out)
	}
	s.mustDocker(t, "save", "-o", file, id)
	s.mustDocker(t, "rmi", name)
	if out := s.mustDocker(t, "load", "-i", file); out != "Loaded image ID: "+id+"\n" {
		t.Errorf("load without a name printed %q", out)
	}
	if out := s.mustDocker(t, "image", "prune", "-f"); !strings.Contains(out, "deleted: "+id) || strings.Contains(out, "reclaimed space: 0B") {
		t.Errorf("prune printed %q", out)
	}
}

func TestImageErrorsAreDockers(t *testing.T) {
	s := startImages(t)
	reg := startRegistry(t)
	id := s.importImage(t, "one:1", "a")
	for _, tt := range []struct {
		method, path string
		status       int
		text         string
	}{
		{"GET", "/images/nope/json", 404, `{"message":"No such image: nope:latest"}`},
		{"GET", "/images/sha256:" + strings.Repeat("0", 64) + "/json", 404, "No such image: sha256:000"},
		{"GET", "/images/UPPER/json", 400, "invalid reference format"},
		{"DELETE", "/images/nope", 404, "No such image: nope:latest"},
		{"POST", "/images/one:1/tag?repo=a/b&tag=%2F", 400, "invalid tag format"},
		{"POST", "/images/one:1/tag?repo=x@sha256:" + strings.Repeat("0", 64), 400, "refusing to create a tag with a digest reference"},
		{"POST", "/images/one:1/tag?repo=two&tag=2", 201, ""},
		{"DELETE", "/images/" + id[7:19], 409, "(must be forced) - image is referenced in multiple repositories"},
		{"GET", "/images/json?filters=%7B%22bogus%22%3A%5B%22x%22%5D%7D", 400, "invalid filter 'bogus'"},
		{"POST", "/images/create", 400, "fromImage or fromSrc"},
		{"POST", "/images/create?fromImage=" + reg + "/no/such&tag=1", 404, "manifest for " + reg + "/no/such:1 not found: manifest unknown"},
		{"POST", "/images/create?fromImage=127.0.0.1:1/x&tag=1", 503, "connection refused"},
		{"POST", "/images/none/push?tag=1", 404, "An image does not exist locally with the tag: none"},
		{"GET", "/images/get?names=nope", 404, "No such image: nope:latest"},
		{"POST", "/images/load", 200, `"errorDetail"`},
		{"GET", "/images/search?term=x", 501, ""},
		{"GET", "/distribution/" + reg + "/no/such/json", 404, "manifest unknown"},
	} {
		status, body := s.call(t, tt.method, tt.path, strings.NewReader(""))
		if tt.path == "/images/load" {
			if status != 400 && !strings.Contains(body, tt.text) {
				t.Errorf("%s %s = %d %s", tt.method, tt.path, status, body)
			}
			continue
		}
		if status != tt.status || !strings.Contains(body, tt.text) {
			t.Errorf("%s %s = %d %s, want %d %q", tt.method, tt.path, status, body, tt.status, tt.text)
		}
	}
	s.uses = []images.Use{{ContainerID: strings.Repeat("c", 64), ImageID: digest.Digest(id), ImageRef: "one:1"}}
	if _, body := s.call(t, "DELETE", "/images/two:2", nil); body != `[{"Untagged":"two:2"}]`+"\n" {
		t.Errorf("removing one of two names = %s", body)
	}
	if status, body := s.call(t, "DELETE", "/images/one:1", nil); status != 409 || !strings.Contains(body, `conflict: unable to remove repository reference \"one:1\" (must force) - container cccccccccccc is using its referenced image `+id[7:19]) {
		t.Errorf("removing a used name = %d %s", status, body)
	}
	if status, body := s.call(t, "DELETE", "/images/"+id, nil); status != 409 || !strings.Contains(body, "(must be forced) - image is being used by stopped container cccccccccccc") {
		t.Errorf("removing a used id = %d %s", status, body)
	}
	s.uses[0].Running = true
	if status, body := s.call(t, "DELETE", "/images/"+id+"?force=1", nil); status != 409 || !strings.Contains(body, "(cannot be forced) - image is being used by running container cccccccccccc") {
		t.Errorf("removing a running id = %d %s", status, body)
	}
	if status, body := s.call(t, "DELETE", "/images/one:1?force=1", nil); status != 200 || body != `[{"Untagged":"one:1"}]`+"\n" {
		t.Errorf("forcing a running name = %d %s", status, body)
	}
	if _, body := s.call(t, "GET", `/images/json?filters={"dangling":["true"]}`, nil); !strings.Contains(body, id) || !strings.Contains(body, `"RepoTags":[]`) {
		t.Errorf("dangling images = %s", body)
	}
	if _, body := s.call(t, "GET", `/v1.42/images/json`, nil); !strings.Contains(body, `"<none>:<none>"`) || !strings.Contains(body, "VirtualSize") {
		t.Errorf("images for an old client = %s", body)
	}
}

func TestProgressIsDockersStream(t *testing.T) {
	s := startImages(t)
	reg := startRegistry(t)
	s.importImage(t, "x:1", "a")
	s.mustDocker(t, "tag", "x:1", reg+"/x:1")
	_, body := s.call(t, "POST", "/images/"+reg+"/x/push?tag=1", nil)
	lines := strings.Split(strings.TrimSuffix(body, "\r\n"), "\r\n")
	last := lines[len(lines)-1]
	var aux struct {
		Aux struct {
			Tag, Digest string
			Size        int
		}
		ProgressDetail *struct{}
	}
	if err := json.Unmarshal([]byte(last), &aux); err != nil || aux.Aux.Tag != "1" || !strings.HasPrefix(aux.Aux.Digest, "sha256:") || aux.Aux.Size == 0 || aux.ProgressDetail == nil {
		t.Errorf("last line of a push = %s (%v)", last, err)
	}
	s.mustDocker(t, "rmi", "x:1", reg+"/x:1")
	_, body = s.call(t, "POST", "/images/create?fromImage="+reg+"/x&tag=1", nil)
	var got []string
	for l := range strings.SplitSeq(strings.TrimSuffix(body, "\r\n"), "\r\n") {
		var m struct {
			Status, ID     string
			ProgressDetail *struct{ Current, Total int64 }
		}
		if err := json.Unmarshal([]byte(l), &m); err != nil {
			t.Fatalf("line %q: %v", l, err)
		}
		st, _, _ := strings.Cut(m.Status, ": sha256")
		if !slices.Contains(got, st) {
			got = append(got, st)
		}
	}
	want := []string{
		"Pulling from x", "Pulling fs layer", "Verifying Checksum", "Download complete", "Extracting", "Pull complete",
		"Digest", "Status: Downloaded newer image for " + reg + "/x:1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("pull told %q, want %q", got, want)
	}
}

func TestImagesFollowWhatOthersDo(t *testing.T) {
	s := startImages(t)
	id := s.importImage(t, "a:1", "a")
	other := s.importImage(t, "tool:1", "b")
	ctr, err := exec.LookPath("ctr")
	if err != nil {
		t.Skip("needs ctr (Debian package containerd)")
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(ctr, append([]string{"-a", s.sup.Address, "-n", "moby"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("ctr %v: %v\n%s", args, err, out)
		}
	}
	resolve := func(ref string) string {
		img, err := s.svc.Resolve(t.Context(), ref, nil)
		if err != nil {
			return err.Error()
		}
		return img.ID.String()
	}
	if resolve("a:1") != id || resolve(id) != id || resolve(id[7:20]) != id {
		t.Fatal("image is not found by name, id and prefix")
	}
	run("images", "tag", "--force", "docker.io/library/tool:1", "docker.io/library/a:1")
	if got := resolve("a:1"); got != other {
		t.Errorf("after ctr moved the name it means %s, want %s", got, other)
	}
	if got := resolve(id); !strings.Contains(got, "No such image") {
		t.Errorf("the id that lost its name means %s", got)
	}
	run("images", "rm", "docker.io/library/a:1")
	if got := resolve("a:1"); !strings.Contains(got, "No such image: a:1") {
		t.Errorf("after ctr removed the name it means %s", got)
	}
	if got := resolve("tool"); !strings.Contains(got, "No such image: tool:latest") {
		t.Errorf("tool = %s", got)
	}
}

func TestResolveTakesUnderAMillisecond(t *testing.T) {
	if testing.Short() {
		t.Skip("measures")
	}
	s := startImages(t)
	id := s.importImage(t, "a:1", "a")
	for _, ref := range []string{"a:1", id} {
		best := time.Hour
		for range 50 {
			start := time.Now()
			if _, err := s.svc.ForContainer(t.Context(), ref, ""); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(start))
		}
		t.Logf("ForContainer(%.10s) takes %v", ref, best)
	}
}

func TestRegistryAuthIsReadInAllItsForms(t *testing.T) {
	raw := []byte(`{"username":"u?>","password":"p?>~"}`)
	for _, enc := range []string{base64.URLEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw), base64.StdEncoding.EncodeToString(raw)} {
		r := &request{Request: httptest.NewRequest("POST", "/", nil)}
		r.Header.Set("X-Registry-Auth", enc)
		if got := registryAuth(r); got.Username != "u?>" || got.Password != "p?>~" {
			t.Errorf("registryAuth(%s) = %+v", enc, got)
		}
	}
	r := &request{Request: httptest.NewRequest("POST", "/", nil)}
	r.Header.Set("X-Registry-Auth", "%%%")
	if got := registryAuth(r); got != (images.Auth{}) {
		t.Errorf("garbage gives %+v", got)
	}
}
