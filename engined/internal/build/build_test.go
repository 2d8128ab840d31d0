package build

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/files"
	"strata/engined/internal/build/records"
	"strata/engined/internal/images"
	"strata/engined/internal/supervisor/supervisortest"
)

func TestMain(m *testing.M) { os.Exit(supervisortest.Main(m)) }

// house is a builder on a supervisor of its own. It has no networks: it cannot RUN.
type house struct {
	*Service
	t   *testing.T
	sup *supervisortest.Supervisor
}

func newHouse(t *testing.T) *house {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a supervisor")
	}
	sup := supervisortest.Start(t, "")
	imgs := images.New(images.Config{StateDir: t.TempDir(), HostDir: t.TempDir()}, sup.Client, nil, images.Hooks{})
	s, err := New(Config{DataRoot: t.TempDir(), ExecRoot: t.TempDir()}, sup.Client, imgs, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &house{s, t, sup}
}

// watcher notes what it is told.
type watcher struct {
	mu     sync.Mutex
	ended  []string // names of what was made
	cached []string
	added  []string
	failed []string
}

func (w *watcher) Planned([]*dockerfile.Plan)                   {}
func (w *watcher) Started(*dockerfile.Vertex, string)           {}
func (w *watcher) Output(*dockerfile.Vertex, []byte, bool)      {}
func (w *watcher) Pulling(string, string, string, int64, int64) {}
func (w *watcher) Added(v *dockerfile.Vertex) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.added = append(w.added, v.Name)
}

func (w *watcher) Ended(v *dockerfile.Vertex, e Ending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case e.Err != nil:
		w.failed = append(w.failed, v.Name+": "+e.Err.Error())
	case v.Parent == nil:
	case e.Cached:
		w.cached = append(w.cached, v.Name)
	default:
		w.ended = append(w.ended, v.Name)
	}
}

func (h *house) try(r Request) (Result, *watcher, error) {
	w := &watcher{}
	res, err := h.Build(h.t.Context(), r, w)
	return res, w, err
}

func (h *house) must(r Request) (Result, *watcher) {
	h.t.Helper()
	res, w, err := h.try(r)
	if err != nil {
		h.t.Fatalf("build: %v", err)
	}
	return res, w
}

func define(text string) Definition { return Definition{Text: []byte(text)} }

// tarSource is a context of files by name.
type tarSource struct {
	t     *testing.T
	files map[string]string
	asked *[]string
	mode  int64 // zero means 0644
}

func (s tarSource) Files(_ context.Context, paths, _ []string) (files.Tree, error) {
	if s.asked != nil {
		*s.asked = paths
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for name, text := range s.files {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: cmp.Or(s.mode, 0o644), Size: int64(len(text))}); err != nil {
			return nil, err
		}
		_, _ = tw.Write([]byte(text))
	}
	_ = tw.Close()
	c, err := files.Receive(&b, s.t.TempDir(), contextLimits)
	if err == nil {
		s.t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// memory is a client's OCI layout, and a Sink.
type memory struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	tags  map[string]ocispec.Descriptor

	stream bytes.Buffer
	tree   map[string]string
}

func newMemory() *memory {
	return &memory{blobs: map[digest.Digest][]byte{}, tags: map[string]ocispec.Descriptor{}}
}

func (m *memory) Resolve(_ context.Context, tag string) (ocispec.Descriptor, error) {
	d, ok := m.tags[tag]
	if !ok {
		return d, errdefs.ErrNotFound
	}
	return d, nil
}

func (m *memory) Open(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	raw, ok := m.blobs[d.Digest]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(raw)), nil
}

func (m *memory) Write(_ context.Context, d ocispec.Descriptor, r io.Reader) error {
	raw, err := io.ReadAll(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[d.Digest] = raw
	return err
}

func (m *memory) Tag(_ context.Context, tag string, d ocispec.Descriptor) error {
	m.tags[tag] = d
	return nil
}

func (m *memory) Tree(ctx context.Context, t files.Tree) error {
	m.tree = map[string]string{}
	items, err := files.Select(t, files.Wish{Sources: []string{"/"}})
	for _, it := range items {
		if !it.Mode.IsRegular() {
			continue
		}
		f, err := t.Open(it.Source)
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(f)
		_ = f.Close()
		if err != nil {
			return err
		}
		m.tree[it.Rel] = string(raw)
	}
	return errors.Join(err, ctx.Err())
}

type closer struct{ io.Writer }

func (closer) Close() error { return nil }

func (m *memory) Stream(context.Context, map[string]string) (io.WriteCloser, error) {
	return closer{&m.stream}, nil
}

// entries returns the files of the stream.
func (m *memory) entries(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	tr := tar.NewReader(bytes.NewReader(m.stream.Bytes()))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(raw)
	}
}

// content builds to a directory and returns the files.
func (h *house) content(r Request) map[string]string {
	h.t.Helper()
	m := newMemory()
	r.Outputs = []Output{{Type: OutputLocal, Sink: m}}
	h.must(r)
	return m.tree
}

func platform(s string) ocispec.Platform { return platforms.MustParse(s) }

func (h *house) index(d ocispec.Descriptor) ocispec.Index {
	h.t.Helper()
	raw, err := h.sup.ReadContent(h.t.Context(), d.Digest, 1<<20)
	if err != nil {
		h.t.Fatal(err)
	}
	var i ocispec.Index
	if err := json.Unmarshal(raw, &i); err != nil {
		h.t.Fatal(err)
	}
	return i
}

const archFile = "FROM scratch AS base\nARG TARGETARCH\nCOPY <<EOF /arch\n$TARGETARCH\nEOF\nFROM base\nCOPY same /same\n"

func TestSeveralPlatformsMakeAnIndex(t *testing.T) {
	h := newHouse(t)
	r := Request{
		Dockerfile: define(archFile), Context: tarSource{t: t, files: map[string]string{"same": "same"}},
		Platforms: []ocispec.Platform{platform("linux/amd64"), platform("linux/arm64"), platform("linux/arm/v7")}, Tags: []string{"docker.io/library/multi:1"},
	}
	res, _ := h.must(r)
	i := h.index(res.Target)
	var got []string
	for _, m := range i.Manifests {
		got = append(got, platforms.Format(*m.Platform))
	}
	if !slices.Equal(got, []string{"linux/amd64", "linux/arm64", "linux/arm/v7"}) {
		t.Errorf("platforms %v", got)
	}
	for _, p := range r.Platforms {
		img, err := h.images.Resolve(t.Context(), "multi:1", &p)
		if err != nil || img.Config.Architecture != p.Architecture {
			t.Errorf("%s: %+v, %v", platforms.Format(p), img.Config.Platform, err)
		}
	}
	if again, w := h.must(r); again.Target.Digest != res.Target.Digest || len(w.ended) > 0 {
		t.Errorf("again: %s instead of %s, made %q", again.Target.Digest, res.Target.Digest, w.ended)
	}
	tree := h.content(r)
	if tree["linux_arm64/arch"] != "arm64\n" || tree["linux_arm_v7/same"] != "same" {
		t.Errorf("files %v", tree)
	}
}

func TestProgramsOfAnotherPlatformNeedAnInterpreter(t *testing.T) {
	h := newHouse(t)
	_, _, err := h.try(Request{Dockerfile: define("FROM scratch\nRUN [\"/x\"]\n"), Platforms: []ocispec.Platform{platform("linux/alpha")}})
	if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "linux/alpha do not run on linux/") || !strings.Contains(err.Error(), "qemu-user-static") {
		t.Errorf("error %v", err)
	}
}

func TestNamedContextsComeBeforeStagesAndImages(t *testing.T) {
	h := newHouse(t)
	base, _ := h.must(Request{Dockerfile: define("FROM scratch\nCOPY <<EOF /from\nthe image\nEOF\n"), Tags: []string{"docker.io/library/alpine:3"}})
	layout := newMemory()
	h.must(Request{Dockerfile: define("FROM scratch\nCOPY <<EOF /from\nthe layout\nEOF\n"), Outputs: []Output{{Type: OutputOCI, Sink: layout}}})
	for name, text := range layout.entries(t) {
		layout.blobs[digest.FromString(text)] = []byte(text)
		if name == "index.json" {
			var i ocispec.Index
			if err := json.Unmarshal([]byte(text), &i); err != nil {
				t.Fatal(err)
			}
			layout.tags["latest"] = i.Manifests[0]
		}
	}
	src := tarSource{t: t, files: map[string]string{"from": "the context\n", "dir/x": "x"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		tw := tar.NewWriter(w)
		_ = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "from", Mode: 0o644, Size: 8})
		_, _ = tw.Write([]byte("the url\n"))
		_ = tw.Close()
	}))
	defer server.Close()
	for _, row := range []struct{ name, file, context, want string }{
		{"files as --from", "FROM scratch\nCOPY --from=x /from /\n", "source", "the context\n"},
		{"files as base", "FROM x\n", "source", "the context\n"},
		{"files instead of a stage", "FROM scratch AS x\nCOPY <<EOF /from\nthe stage\nEOF\nFROM x\n", "source", "the context\n"},
		{"an image", "FROM x\n", "docker-image://alpine:3", "the image\n"},
		{"an image instead of a stage's", "FROM scratch AS x\nFROM scratch\nCOPY --from=x /from /\n", "docker-image://alpine:3", "the image\n"},
		{"a layout", "FROM x\n", "oci-layout://y", "the layout\n"},
		{"a layout by digest", "FROM scratch\nCOPY --from=x /from /from\n", "oci-layout://y@" + layout.tags["latest"].Digest.String(), "the layout\n"},
		{"a tar at a URL", "FROM scratch\nCOPY --from=x from /\n", server.URL + "/a.tar", "the url\n"},
	} {
		named := Named{Ref: row.context, Blobs: layout}
		if row.context == "source" {
			named = Named{Source: src}
		}
		if got := h.content(Request{Dockerfile: define(row.file), Named: map[string]Named{"x": named}})["from"]; got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
	// However the name of an image is written.
	if got := h.content(Request{Dockerfile: define("FROM docker.io/library/alpine:3\n"), Named: map[string]Named{"alpine:3": {Source: src}}})["from"]; got != "the context\n" {
		t.Errorf("alpine:3 is %q", got)
	}
	if base.Image.ID == "" {
		t.Error("no image")
	}
	_, _, err := h.try(Request{Dockerfile: define("FROM scratch\nCOPY --from=nosuch /x /\n")})
	if err == nil {
		t.Error("a context that is not there was found")
	}
}

func TestTheContextIsAskedForWhatThePlanTakes(t *testing.T) {
	h := newHouse(t)
	for _, row := range []struct {
		file string
		want []string
	}{
		{"FROM scratch\nCOPY a dir/b* /\nADD c /\n", []string{"a", "c", "dir/b*"}},
		{"FROM scratch\nCOPY . /\nCOPY a /\n", nil},
		{"FROM scratch AS unused\nCOPY zzz /\nFROM scratch\nCOPY a /\n", []string{"a"}},
	} {
		asked := []string{"nobody asked"}
		_, _, err := h.try(Request{
			Dockerfile: define(row.file), NoCache: true,
			Context: tarSource{t: t, files: map[string]string{"a": "", "c": "", "dir/b1": "", "zzz": ""}, asked: &asked},
		})
		if err != nil || !slices.Equal(asked, row.want) {
			t.Errorf("%q: asked for %q, want %q; %v", row.file, asked, row.want, err)
		}
	}
}

// gitServer serves a repository with a branch, a tag and a directory on loopback.
func gitServer(t *testing.T) (url, commit string) {
	t.Helper()
	root := t.TempDir()
	work, bare := filepath.Join(root, "work"), filepath.Join(root, "team", "repo.git")
	run := func(dir string, args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	write := func(name, text string) {
		t.Helper()
		full := filepath.Join(work, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("Dockerfile", "FROM scratch\nCOPY file /\n")
	write("file", "one\n")
	write("sub/deep", "deep\n")
	if err := os.Symlink("/etc", filepath.Join(work, "out")); err != nil {
		t.Fatal(err)
	}
	run(work, "init", "-q", "-b", "main")
	run(work, "add", ".")
	run(work, "commit", "-qm", "one")
	run(work, "tag", "v1")
	commit = run(work, "rev-parse", "HEAD")
	write("file", "two\n")
	run(work, "commit", "-qam", "two")
	run(root, "clone", "-q", "--bare", work, bare)
	backend := filepath.Join(run(root, "--exec-path"), "git-http-backend")
	server := httptest.NewServer(&cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}})
	t.Cleanup(server.Close)
	return server.URL + "/team/repo.git", commit
}

func TestGitSourcesArePinnedToACommit(t *testing.T) {
	h := newHouse(t)
	url, one := gitServer(t)
	for _, row := range []struct{ name, file, path, want string }{
		{"the default branch", "ADD " + url + " /r/", "r/file", "two\n"},
		{"a tag", "ADD " + url + "#v1 /r/", "r/file", "one\n"},
		{"a commit", "ADD " + url + "#" + one + " /r/", "r/file", "one\n"},
		{"a directory", "ADD " + url + "#main:sub /r/", "r/deep", "deep\n"},
		{"a checksum", "ADD --checksum=" + one[:12] + " " + url + "#v1 /r/", "r/file", "one\n"},
		{"the repository itself", "ADD --keep-git-dir=true " + url + "#v1 /r/", "r/.git/HEAD", one + "\n"},
	} {
		r := Request{Dockerfile: define("FROM scratch\n" + row.file + "\n")}
		if got := h.content(r)[row.path]; got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
		if _, w := h.must(r); len(w.ended) > 0 {
			t.Errorf("%s: made again: %q", row.name, w.ended)
		}
	}
	if tree := h.content(Request{Dockerfile: define("FROM scratch\nADD " + url + " /r/\n")}); tree["r/.git/HEAD"] != "" {
		t.Error(".git was copied")
	}
	remote, err := h.Remote(t.Context(), url+"#v1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = remote.Close() }()
	def, err := remote.Definition("")
	if err != nil {
		t.Fatal(err)
	}
	if got := h.content(Request{Dockerfile: def, Context: remote})["file"]; got != "one\n" {
		t.Errorf("git as context: %q", got)
	}
	for _, row := range []struct{ name, line, want string }{
		{"no such reference", "ADD " + url + "#nosuch /r/", "repository does not contain ref nosuch"},
		{"another commit", "ADD --checksum=0000000 " + url + "#v1 /r/", "got " + one},
		{"a directory that a symlink leads to", "ADD " + url + "#main:out /r/", `no directory "out"`},
		{"an option as reference", "ADD " + url + "#--upload-pack=x /r/", "no such reference"},
	} {
		if _, _, err := h.try(Request{Dockerfile: define("FROM scratch\n" + row.line + "\n")}); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}

func TestOutputsHoldTheResult(t *testing.T) {
	h := newHouse(t)
	r := Request{
		Dockerfile: define("FROM scratch\nCOPY a d/ /\nCMD [\"/a\"]\n"), Context: tarSource{t: t, files: map[string]string{"a": "A", "d/b": strings.Repeat("B", 5000)}},
		Tags: []string{"docker.io/library/out:1"}, Args: map[string]string{"SOURCE_DATE_EPOCH": "1700000000"},
		Annotations: []Annotation{{Level: levelManifest, Key: "k", Value: "v"}},
	}
	oci, docker, tarball := newMemory(), newMemory(), newMemory()
	r.Outputs = []Output{
		{Type: OutputImage, Attrs: map[string]string{"compression": "zstd"}},
		{Type: OutputOCI, Sink: oci, Attrs: map[string]string{"compression": "uncompressed"}},
		{Type: OutputDocker, Sink: docker},
		{Type: OutputTar, Sink: tarball},
		{Type: OutputCacheOnly},
	}
	res, _ := h.must(r)
	img, err := h.images.Resolve(t.Context(), "out:1", nil)
	if err != nil || img.Layers[0].MediaType != ocispec.MediaTypeImageLayerZstd {
		t.Errorf("zstd image: %+v, %v", img.Layers, err)
	}
	if res.Response["image.name"] != "docker.io/library/out:1" || res.Response["containerimage.digest"] == "" {
		t.Errorf("response %v", res.Response)
	}
	got := oci.entries(t)
	var index ocispec.Index
	var m ocispec.Manifest
	if err := errors.Join(json.Unmarshal([]byte(got["index.json"]), &index), json.Unmarshal([]byte(got[blobPath(index0(index))]), &m)); err != nil && len(index.Manifests) == 0 {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(got[blobPath(index.Manifests[0].Digest)]), &m); err != nil {
		t.Fatal(err)
	}
	if m.Annotations["k"] != "v" || m.Layers[0].MediaType != ocispec.MediaTypeImageLayer || !strings.Contains(got[blobPath(m.Layers[0].Digest)], "BBBB") {
		t.Errorf("manifest %+v", m)
	}
	if index.Manifests[0].Annotations[ocispec.AnnotationRefName] != "1" {
		t.Errorf("index %+v", index)
	}
	if files := tarball.entries(t); files["a"] != "A" || len(files["b"]) != 5000 {
		t.Errorf("tar %v", files)
	}
	other := newHouse(t)
	if err := other.images.Load(t.Context(), bytes.NewReader(docker.stream.Bytes()), "", func(images.Progress) {}); err != nil {
		t.Fatal(err)
	}
	loaded, err := other.images.Resolve(t.Context(), "out:1", nil)
	if err != nil || loaded.Config.RootFS.DiffIDs[0] != img.Config.RootFS.DiffIDs[0] {
		t.Errorf("docker archive: %+v, %v", loaded.Config, err)
	}
	for _, bad := range []Output{{Type: "nosuch"}, {Type: OutputOCI}, {Type: OutputImage, Attrs: map[string]string{"compression": "estargz"}}} {
		r.Outputs = []Output{bad}
		if _, _, err := h.try(r); err == nil {
			t.Errorf("output %+v was accepted", bad)
		}
	}
}

func index0(i ocispec.Index) digest.Digest {
	if len(i.Manifests) == 0 {
		return digest.FromString("")
	}
	return i.Manifests[0].Digest
}

func TestProvenanceLiesBesideTheImage(t *testing.T) {
	h := newHouse(t)
	h.must(Request{Dockerfile: define("FROM scratch\nCOPY <<EOF /x\nx\nEOF\n"), Tags: []string{"docker.io/library/base:1"}})
	r := Request{
		Dockerfile: define("FROM base:1\nARG PASSPHRASE\nCOPY <<EOF /y\ny\nEOF\n"), Tags: []string{"docker.io/library/proved:1"},
		Args: map[string]string{"PASSPHRASE": "xyzzy"}, Provenance: Provenance{Mode: "min", BuilderID: "here", Attrs: map[string]string{"vcs:source": "https://me:hunter2@h/r.git", "context:foo": "https://me:hunter2@h/foo"}},
	}
	res, _ := h.must(r)
	i := h.index(res.Target)
	if len(i.Manifests) != 2 || i.Manifests[1].Annotations["vnd.docker.reference.digest"] != i.Manifests[0].Digest.String() || i.Manifests[1].Platform.OS != "unknown" {
		t.Fatalf("index %+v", i)
	}
	var m ocispec.Manifest
	raw, err := h.sup.ReadContent(t.Context(), i.Manifests[1].Digest, 1<<20)
	if err = errors.Join(err, json.Unmarshal(raw, &m)); err != nil {
		t.Fatal(err)
	}
	statement, err := h.sup.ReadContent(t.Context(), m.Layers[0].Digest, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"_type":"https://in-toto.io/Statement/v1"`, `"predicateType":"https://slsa.dev/provenance/v1"`, "pkg:docker/base@1?platform=linux", `"id":"here"`, i.Manifests[0].Digest.Encoded(),
		`"vcs":{"source":"https://xxxxx:xxxxx@h/r.git"}`, `"context:foo":"https://xxxxx:xxxxx@h/foo"`, `"configSource":{"path":"Dockerfile"}`,
	} {
		if !strings.Contains(string(statement), want) {
			t.Errorf("no %s in %s", want, statement)
		}
	}
	if m.Layers[0].Annotations["in-toto.io/predicate-type"] != "https://slsa.dev/provenance/v1" {
		t.Errorf("annotations %v", m.Layers[0].Annotations)
	}
	if strings.Contains(string(statement), "hunter2") {
		t.Error("a password is told")
	}
	if strings.Contains(string(statement), "xyzzy") {
		t.Error("mode=min tells the build arguments")
	}
	if img, err := h.images.Resolve(t.Context(), "proved:1", nil); err != nil || img.Manifest.Digest != i.Manifests[0].Digest {
		t.Errorf("the image cannot be used: %v", err)
	}
	if again, _ := h.must(r); again.Target.Digest != res.Target.Digest {
		t.Error("a build in which nothing changed made another index")
	}
	r.Provenance.Version = "v0.2"
	older, _ := h.must(r)
	if older.Target.Digest == res.Target.Digest {
		t.Error("version=v0.2 says the same")
	}
	r.Provenance.Version = "v3"
	if _, _, err := h.try(r); !errdefs.IsInvalidArgument(err) {
		t.Errorf("version=v3: %v", err)
	}
	r.Provenance.Version = ""
	r.Provenance.Mode = "max"
	if max, _ := h.must(r); max.Target.Digest == res.Target.Digest {
		t.Error("mode=max says nothing more")
	}
	r.Provenance = Provenance{SBOM: true}
	if _, _, err := h.try(r); !errdefs.IsNotImplemented(err) {
		t.Errorf("--sbom: %v", err)
	}
}

const cacheFile = "FROM scratch AS one\nCOPY a /a\nCOPY b /b\nFROM scratch\nCOPY --from=one /a /copied\nCOPY c /c\nWORKDIR /w\n"

func TestCachesTravel(t *testing.T) {
	registry := startRegistry(t)
	r := Request{
		Dockerfile: define(cacheFile), Context: tarSource{t: t, files: map[string]string{"a": "a", "b": "b", "c": "c"}},
		Tags: []string{registry + "/team/app:1"}, Outputs: []Output{{Type: OutputImage, Attrs: map[string]string{"push": "true"}}},
	}
	layout := newMemory()
	remote := CacheOption{Type: CacheRegistry, Attrs: map[string]string{"ref": registry + "/team/cache:x", "mode": "max"}}
	r.CacheTo = []CacheOption{{Type: CacheLocal, Blobs: layout, Attrs: map[string]string{"mode": "max"}}, remote, {Type: CacheInline}}
	first, _ := newHouse(t).must(r)
	for _, row := range []struct {
		name string
		from CacheOption
		max  bool
	}{
		{"a directory", CacheOption{Type: CacheLocal, Blobs: layout}, true},
		{"a registry", remote, true},
		{"the image itself", CacheOption{Type: CacheRegistry, Attrs: map[string]string{"ref": registry + "/team/app:1"}}, false},
	} {
		h := newHouse(t)
		r := r
		r.CacheTo, r.CacheFrom, r.Outputs = nil, []CacheOption{row.from}, nil
		res, w := h.must(r)
		if len(w.ended) > 0 || len(w.failed) > 0 {
			t.Errorf("%s: made %q; failed %q", row.name, w.ended, w.failed)
		}
		if got, want := res.Image.Config.RootFS.DiffIDs, first.Image.Config.RootFS.DiffIDs; !slices.Equal(got, want) {
			t.Errorf("%s: layers %v, want %v", row.name, got, want)
		}
		r.Target = "one"
		if _, w := h.must(r); len(w.ended) > 0 == row.max {
			t.Errorf("%s: of stage one was made %q", row.name, w.ended)
		}
		r.Target, r.Context = "", tarSource{t: t, files: map[string]string{"a": "a", "b": "b", "c": "changed"}}
		if _, w := h.must(r); !slices.Contains(w.ended, "COPY c /c") || slices.Contains(w.ended, "COPY --from=one /a /copied") {
			t.Errorf("%s: one file changed, made %q", row.name, w.ended)
		}
	}
	h := newHouse(t)
	r.CacheTo, r.Outputs, r.CacheFrom = nil, nil, []CacheOption{{Type: CacheRegistry, Attrs: map[string]string{"ref": registry + "/team/nosuch:1"}}}
	if _, w := h.must(r); len(w.failed) != 1 || !strings.Contains(w.failed[0], "team/nosuch") {
		t.Errorf("a cache that is not there: %q", w.failed)
	}
}

// An image tells the times of its records, which travel with a cache.
func TestTheSameImageComesOfACacheElsewhere(t *testing.T) {
	for _, mode := range []string{"min", "max"} {
		layout := newMemory()
		r := Request{
			Dockerfile: define("FROM scratch AS base\nLABEL a=b\nCOPY a /a\nENV X=y\nFROM base\nCMD [\"/x\"]\nCOPY --link b /b\nWORKDIR /w\nCOPY --from=base /a /c\nEXPOSE 80\n"),
			Context:    tarSource{t: t, files: map[string]string{"a": "a", "b": "b"}},
			CacheTo:    []CacheOption{{Type: CacheLocal, Blobs: layout, Attrs: map[string]string{"mode": mode}}},
		}
		h := newHouse(t)
		first, _ := h.must(r)
		r.CacheTo = nil
		if _, err := h.Prune(t.Context(), PruneRequest{All: true}); err != nil {
			t.Fatal(err)
		}
		r.CacheFrom = []CacheOption{{Type: CacheLocal, Blobs: layout}}
		for i, h := range []*house{h, newHouse(t)} {
			again, w := h.must(r)
			if len(w.ended) > 0 {
				t.Errorf("mode=%s: house %d made %q", mode, i, w.ended)
			}
			if again.Target.Digest != first.Target.Digest {
				t.Errorf("mode=%s: house %d: image %+v\nfirst %+v", mode, i, again.Image.Config, first.Image.Config)
			}
		}
	}
}

func TestTimesAreThoseOfTheLayers(t *testing.T) {
	at := func(s int64) *time.Time { out := time.Unix(s, 0).UTC(); return &out }
	epoch, now := at(7), at(99)
	for _, row := range []struct {
		name  string
		base  []*time.Time
		ours  []*time.Time // nil for what changes no file
		epoch *time.Time
		want  []*time.Time
		last  *time.Time
	}{
		{"what changes no file, upon a base", []*time.Time{at(1)}, []*time.Time{nil, nil}, nil, []*time.Time{at(1), at(1), at(1)}, at(1)},
		{"before, between and after layers", []*time.Time{at(1)}, []*time.Time{nil, at(2), nil, at(3), nil}, nil, []*time.Time{at(1), at(2), at(2), at(2), at(3), at(3)}, at(3)},
		{"nothing has a time", nil, []*time.Time{nil}, nil, []*time.Time{nil}, now},
		{"an epoch is for what this build did", []*time.Time{at(1)}, []*time.Time{nil, at(2)}, epoch, []*time.Time{at(1), epoch, epoch}, epoch},
	} {
		var history []ocispec.History
		var plan []dockerfile.Entry
		for _, h := range row.base {
			history, plan = append(history, ocispec.History{Created: h}), append(plan, dockerfile.Entry{History: ocispec.History{Created: h}})
		}
		for _, h := range row.ours {
			history, plan = append(history, ocispec.History{Created: h}), append(plan, dockerfile.Entry{})
		}
		var e time.Time
		if row.epoch != nil {
			e = *row.epoch
		}
		last := datedHistory(history, plan, e, *now)
		var got []*time.Time
		for _, h := range history {
			got = append(got, h.Created)
		}
		if !reflect.DeepEqual(got, row.want) || !last.Equal(*row.last) {
			t.Errorf("%s: %v, image %v; want %v, %v", row.name, got, last, row.want, row.last)
		}
	}
}

func TestOnlySomeStagesAreMadeAgain(t *testing.T) {
	h := newHouse(t)
	r := Request{Dockerfile: define(cacheFile), Context: tarSource{t: t, files: map[string]string{"a": "a", "b": "b", "c": "c"}}}
	h.must(r)
	r.NoCacheFilter = []string{"ONE"}
	_, w := h.must(r)
	slices.Sort(w.ended)
	if !slices.Equal(w.ended, []string{"COPY a /a", "COPY b /b"}) {
		t.Errorf("made %q", w.ended)
	}
}

func TestTwoHousesMakeTheSameImage(t *testing.T) {
	var got []string
	for range 2 {
		h := newHouse(t)
		res, _ := h.must(Request{
			Dockerfile: define("FROM scratch\nCOPY a d /d/\nWORKDIR /w/x\nCOPY <<EOF /y\ny\nEOF\nENV A=b\n"), Context: tarSource{t: t, files: map[string]string{"a": "a", "d/b": "b"}},
			Args: map[string]string{"SOURCE_DATE_EPOCH": "1700000000"}, Outputs: []Output{{Type: OutputImage, Attrs: map[string]string{"rewrite-timestamp": "true"}}},
		})
		got = append(got, res.Target.Digest.String())
	}
	if got[0] != got[1] {
		t.Errorf("images %v", got)
	}
}

// startRegistry runs Debian's docker-registry on loopback.
func startRegistry(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("needs docker-registry (Debian package docker-registry)")
	}
	l := httptest.NewServer(nil)
	addr := l.Listener.Addr().String()
	l.Close()
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
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		resp, err := http.Get("http://" + addr + "/v2/")
		if err == nil {
			_ = resp.Body.Close()
			return addr
		}
	}
	t.Fatal("registry did not start")
	return ""
}

func TestWhatIsFetchedIsNotTakenForAFileOfTheContext(t *testing.T) {
	var packed bytes.Buffer
	tw := tar.NewWriter(&packed)
	if err := errors.Join(tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "inside", Mode: 0o600}), tw.Close()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(packed.Bytes()) }))
	t.Cleanup(server.Close)
	h := newHouse(t)
	// With the mode of a file that is fetched, so that nothing but its origin differs.
	context := tarSource{t: t, files: map[string]string{"a.tar": packed.String()}, mode: 0o600}
	local := h.content(Request{Dockerfile: define("FROM scratch\nADD a.tar /\n"), Context: context})
	remote := h.content(Request{Dockerfile: define("FROM scratch\nADD " + server.URL + "/a.tar /\n")})
	if _, ok := local["inside"]; !ok {
		t.Errorf("an archive of the context: %v", local)
	}
	if _, ok := remote["a.tar"]; !ok {
		t.Errorf("an archive that was fetched: %v", remote)
	}
}

func TestArchivesOfAPatternAreAllUnpacked(t *testing.T) {
	archive := func(name string) string {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		if err := errors.Join(tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600}), tw.Close()); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	h := newHouse(t)
	context := tarSource{t: t, files: map[string]string{"a.tar": archive("one"), "b.tar": archive("two"), "c.txt": "c", "d.txt": "d"}}
	tree := h.content(Request{Dockerfile: define("FROM scratch\nADD *.tar /dest\n"), Context: context})
	if _, ok := tree["dest/one"]; !ok || len(tree) != 2 {
		t.Errorf("%v", tree)
	}
	if _, _, err := h.try(Request{Dockerfile: define("FROM scratch\nADD *.txt /dest\n"), Context: context}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "must be a directory") {
		t.Errorf("several files for one name: %v", err)
	}
}

func TestTheDockerfileSaysWhenEverythingWasMade(t *testing.T) {
	h := newHouse(t)
	const text = "ARG SOURCE_DATE_EPOCH=1445412480\nFROM scratch\nCOPY a /\n"
	for _, row := range []struct {
		args map[string]string
		want int64
	}{{nil, 1445412480}, {map[string]string{"SOURCE_DATE_EPOCH": "1700000000"}, 1700000000}} {
		res, _ := h.must(Request{Dockerfile: define(text), Context: tarSource{t: t, files: map[string]string{"a": "a"}}, Args: row.args})
		if at := res.Image.Config.Created; at == nil || at.Unix() != row.want {
			t.Errorf("%v: made %v", row.args, at)
		}
	}
}

func TestVersionsOfAnOSAreInTheNamesOfDirectories(t *testing.T) {
	for _, row := range []struct {
		p    ocispec.Platform
		want string
	}{
		{ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, "linux_arm_v7"},
		{ocispec.Platform{OS: "windows", Architecture: "amd64", OSVersion: "10.0.1"}, "windows(10.0.1)_amd64"},
	} {
		if got := platformDir(row.p); got != row.want {
			t.Errorf("%+v: %s, want %s", row.p, got, row.want)
		}
	}
}

func TestPredicatesOfBothVersionsTellTheSame(t *testing.T) {
	b := &builder{s: &Service{}, r: Request{
		Dockerfile: define("FROM scratch"), Args: map[string]string{"A": "1"},
		Provenance: Provenance{Mode: "max", Context: &Material{"https://h/r.git#v1", map[string]string{"sha1": "abc"}}, ContextURI: "https://h/r.git#v1:dir"},
	}}
	plan := &dockerfile.Plan{Vertices: []*dockerfile.Vertex{{Name: "RUN x", Run: &dockerfile.Run{Network: "none", Mounts: []dockerfile.Mount{{Type: dockerfile.MountSSH, ID: "key", Required: true}}}}}}
	f := b.facts(plan, &records.Times{})
	for name, predicate := range map[string]any{"v1": f.v1("me"), "v0.2": f.v02("me")} {
		raw, err := json.Marshal(predicate)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			`"uri":"https://h/r.git#v1:dir"`, `{"uri":"https://h/r.git#v1","digest":{"sha1":"abc"}}`, `"build-arg:A":"1"`, `"ssh":[{"id":"key","optional":false}]`, `"id":"me"`, `"op":"RUN x"`, `hermetic":true`,
		} {
			if !strings.Contains(string(raw), want) {
				t.Errorf("%s: no %s in %s", name, want, raw)
			}
		}
		if strings.Contains(string(raw), "locals") {
			t.Errorf("%s: directories of the client in %s", name, raw)
		}
	}
	plan.Vertices[0].Run.Network = "default"
	if b.facts(plan, &records.Times{}).hermetic {
		t.Error("a command with a network is hermetic")
	}
}

func TestProvenanceLiesAmongTheFilesOfAnOutput(t *testing.T) {
	h := newHouse(t)
	for _, row := range []struct {
		p    Provenance
		want string
	}{{Provenance{Mode: "max"}, "provenance.json"}, {Provenance{Mode: "max", InlineOnly: true}, ""}, {Provenance{}, ""}} {
		to := newMemory()
		h.must(Request{
			Dockerfile: define("FROM scratch\nCOPY a /dir/\n"), Context: tarSource{t: t, files: map[string]string{"a": "text"}}, Provenance: row.p,
			Outputs: []Output{{Type: OutputLocal, Sink: to}},
		})
		told := to.tree["provenance.json"]
		if (told != "") != (row.want != "") || to.tree["dir/a"] != "text" {
			t.Errorf("%+v: %v", row.p, to.tree)
		}
		if row.want != "" && (!strings.Contains(told, `"name": "dir/a"`) || !strings.Contains(told, digest.FromString("text").Encoded())) {
			t.Errorf("no file among the subjects: %s", told)
		}
	}
	_, _, err := h.try(Request{
		Dockerfile: define("FROM scratch\nCOPY a /provenance.json\n"), Context: tarSource{t: t, files: map[string]string{"a": "text"}}, Provenance: Provenance{Mode: "min"},
		Outputs: []Output{{Type: OutputLocal, Sink: newMemory()}},
	})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("a file of that name: %v", err)
	}
}

func TestCachesInImagesAreThoseOfAllPlatforms(t *testing.T) {
	registry := startRegistry(t)
	r := Request{
		Dockerfile: define("FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\n"), Context: tarSource{t: t, files: map[string]string{"a": "a"}},
		Platforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "s390x"}},
		Tags:      []string{registry + "/team/both:1"}, Outputs: []Output{{Type: OutputImage, Attrs: map[string]string{"push": "true"}}}, CacheTo: []CacheOption{{Type: CacheInline}},
	}
	first, _ := newHouse(t).must(r)
	r.CacheFrom = []CacheOption{{Type: CacheRegistry, Attrs: map[string]string{"ref": registry + "/team/both:1"}}}
	second, w := newHouse(t).must(r)
	if len(w.ended) > 0 || len(w.failed) > 0 {
		t.Errorf("made %q; failed %q", w.ended, w.failed)
	}
	if first.Target.Digest != second.Target.Digest {
		t.Errorf("%s and %s", first.Target.Digest, second.Target.Digest)
	}
}

func TestServersAreToldWhoFetches(t *testing.T) {
	var mu sync.Mutex
	var said []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, r.UserAgent())
		_, _ = w.Write([]byte("FROM scratch\n"))
	}))
	t.Cleanup(server.Close)
	h := newHouse(t)
	h.must(Request{Dockerfile: define("FROM scratch\nADD " + server.URL + "/x /\n")})
	r, err := h.Remote(t.Context(), server.URL+"/Dockerfile", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	if len(said) != 2 || !strings.HasPrefix(said[0], "strata/") || !strings.HasPrefix(said[1], "strata/") {
		t.Errorf("%q", said)
	}
}
