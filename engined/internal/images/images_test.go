package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strata/engined/internal/filters"
	"strata/engined/internal/supervisor/supervisortest"
	"strata/pkg/linux/mount"
)

func TestMain(m *testing.M) { os.Exit(supervisortest.Main(m)) }

// files returns a tar of files with their names as content.
func files(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, n := range names {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: n, Size: int64(len(n)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func service(t *testing.T, sup *supervisortest.Supervisor, cfg Config) *Service {
	t.Helper()
	cfg.StateDir, cfg.HostDir = t.TempDir(), t.TempDir()
	return New(cfg, sup.Client, nil, Hooks{})
}

func quiet(Progress) {}

func imported(t *testing.T, s *Service, name string, content []byte) Image {
	t.Helper()
	if err := s.Import(t.Context(), ImportRequest{Source: bytes.NewReader(content), Name: name}, quiet); err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(t.Context(), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// startRegistry runs Debian's docker-registry on loopback.
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

// front puts a handler in front of the registry addr.
func front(t *testing.T, addr string, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	proxy.ErrorLog = nil
	s := httptest.NewServer(wrap(proxy))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestStockContainerdServesAllButTransfers(t *testing.T) {
	s := service(t, supervisortest.StartStock(t), Config{})
	ctx := t.Context()
	img := imported(t, s, "team/app:1", files(t, "a"))
	if _, err := s.ForContainer(ctx, "team/app:1", ""); err != nil {
		t.Errorf("ForContainer = %v", err)
	}
	if err := s.Tag(ctx, "team/app:1", "two", ""); err != nil {
		t.Fatal(err)
	}
	list, err := s.List(ctx, ListOptions{})
	if err != nil || len(list) != 1 || !slices.Equal(list[0].RepoTags, []string{"team/app:1", "two:latest"}) || list[0].Size == 0 {
		t.Errorf("List = %+v, %v", list, err)
	}
	removed, err := s.Remove(ctx, img.ID.String(), RemoveOptions{Force: true})
	if err != nil || !slices.Contains(removed, Removed{Deleted: img.ID.String()}) {
		t.Errorf("Remove = %v, %v", removed, err)
	}
	if _, err := s.Resolve(ctx, "two", nil); !errdefs.IsNotFound(err) {
		t.Errorf("Resolve after Remove = %v", err)
	}
	if err := s.Pull(ctx, PullRequest{Image: "127.0.0.1:1/x", Tag: "1"}, quiet); !errdefs.IsNotImplemented(err) {
		t.Errorf("Pull with a supervisor without transfers = %v, want ErrNotImplemented", err)
	}
}

func TestCommitIsWhatTheContainerChanged(t *testing.T) {
	for _, sup := range []func(t *testing.T) *supervisortest.Supervisor{
		func(t *testing.T) *supervisortest.Supervisor { return supervisortest.Start(t, "") },
		func(t *testing.T) *supervisortest.Supervisor { return supervisortest.StartStock(t) },
	} {
		s := service(t, sup(t), Config{})
		ctx := t.Context()
		imported(t, s, "base", files(t, "a", "b"))
		base, err := s.ForContainer(ctx, "base", "")
		if err != nil {
			t.Fatal(err)
		}
		mounts, err := s.sup.PrepareRootfs(ctx, "overlayfs", "c1", base.ChainID.String())
		if err != nil {
			t.Fatal(err)
		}
		err = mount.WithTemp(ctx, mounts, func(root string) error {
			return errors.Join(os.Remove(filepath.Join(root, "a")), os.WriteFile(filepath.Join(root, "c"), []byte("c"), 0o600))
		})
		if err != nil {
			t.Fatal(err)
		}
		img, err := s.Commit(ctx, CommitRequest{
			SnapshotKey: "c1", BaseRef: base.ID.String(), Config: json.RawMessage(`{"Env":["A=1"],"X":7}`), Changes: []string{"ENV B=2", "CMD x"},
			Name: "docker.io/library/new:1", Author: "me", Comment: "why",
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.ForContainer(ctx, "new:1", "")
		if err != nil || got.ID != img.ID {
			t.Fatalf("ForContainer = %v, %v", got.ID, err)
		}
		if !slices.Equal(got.Config.Config.Env, []string{"A=1", "B=2"}) || !bytes.Contains(got.RawConfig, []byte(`"X":7`)) || got.Config.Author != "me" {
			t.Errorf("config = %s, author %q", got.RawConfig, got.Config.Author)
		}
		look, err := s.sup.ViewSnapshot(ctx, "overlayfs", "look", got.ChainID.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		err = mount.WithTemp(ctx, look, func(root string) error {
			entries, err := os.ReadDir(root)
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			if !slices.Equal(names, []string{"b", "c"}) {
				t.Errorf("image holds %v, want b and c", names)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		sum, err := s.Get(ctx, "new:1", nil)
		if err != nil || sum.Parent != base.ID {
			t.Errorf("parent = %s, %v; want %s", sum.Parent, err, base.ID)
		}
		history, err := s.History(ctx, "new:1", nil)
		if err != nil || len(history) != 2 || history[0].Comment != "why" || history[0].ID != img.ID.String() || history[1].ID != "<missing>" {
			t.Errorf("history = %+v, %v", history, err)
		}
	}
}

func TestMirrorsAreAskedFirst(t *testing.T) {
	reg := startRegistry(t)
	sup := supervisortest.Start(t, "")
	s := service(t, sup, Config{Mirrors: []string{"http://127.0.0.1:1", "http://" + reg}})
	ctx := t.Context()
	img := imported(t, s, reg+"/team/app:1", files(t, "a"))
	if err := s.Push(ctx, PushRequest{Image: reg + "/team/app:1"}, quiet); err != nil {
		t.Fatal(err)
	}
	if err := s.Pull(ctx, PullRequest{Image: "team/app", Tag: "1"}, quiet); err != nil {
		t.Fatalf("pull of docker.io/team/app through a mirror: %v", err)
	}
	got, err := s.Resolve(ctx, "team/app:1", nil)
	if err != nil || got.ID != img.ID {
		t.Errorf("Resolve = %v, %v; want %s", got.ID, err, img.ID)
	}
	if err := s.Tag(ctx, "team/app:1", reg+"/team/app", "2"); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(ctx, PushRequest{Image: reg + "/team/app"}, quiet); err != nil { // all tags
		t.Fatal(err)
	}
	if _, err := s.Remove(ctx, img.ID.String(), RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.Pull(ctx, PullRequest{Image: reg + "/team/app"}, quiet); err != nil { // all tags
		t.Fatal(err)
	}
	sum, err := s.Get(ctx, img.ID.String(), nil)
	if err != nil || len(sum.RepoTags) != 2 {
		t.Errorf("tags after a pull of all = %v, %v", sum.RepoTags, err)
	}
	desc, platforms, err := s.Distribution(ctx, reg+"/team/app:1", Auth{})
	if err != nil || desc.Digest != sum.Target.Digest || len(platforms) != 1 || platforms[0].OS != "linux" {
		t.Errorf("Distribution = %v, %v, %v", desc, platforms, err)
	}
}

func TestInsecureHostsAreRendered(t *testing.T) {
	s := service(t, &supervisortest.Supervisor{}, Config{Insecure: []string{"reg.example:5000", "10.0.0.0/8"}})
	for host, want := range map[string]string{
		"reg.example:5000": "server = \"http://reg.example:5000\"\n\n[host.\"https://reg.example:5000\"]\n  skip_verify = true\n",
		"10.1.2.3:80":      "server = \"http://10.1.2.3:80\"\n\n[host.\"https://10.1.2.3:80\"]\n  skip_verify = true\n",
		"11.1.2.3":         "",
		"docker.io":        "",
	} {
		dir, err := s.hostDir(host)
		if err != nil || (dir == "") != (want == "") {
			t.Errorf("hostDir(%q) = %q, %v", host, dir, err)
		}
		if want == "" {
			continue
		}
		if got, err := os.ReadFile(filepath.Join(dir, host, "hosts.toml")); err != nil || string(got) != want {
			t.Errorf("file of %s = %q, %v", host, got, err)
		}
	}
	if err := os.MkdirAll(filepath.Join(s.cfg.HostDir, "reg.example:5000"), 0o755); err != nil {
		t.Fatal(err)
	}
	if dir, err := s.hostDir("reg.example:5000"); dir != "" || err != nil {
		t.Errorf("the operator's own file does not win: %q, %v", dir, err)
	}
}

func TestCredentialsReachTheRegistry(t *testing.T) {
	reg := startRegistry(t)
	guarded := front(t, reg, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, _ := r.BasicAuth(); u != "me" || p != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	s := service(t, supervisortest.Start(t, ""), Config{})
	ctx := t.Context()
	name := guarded + "/app:1"
	imported(t, s, name, files(t, "a"))
	good := Auth{Username: "me", Password: "secret"}
	if err := s.Push(ctx, PushRequest{Image: name, Auth: good}, quiet); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(ctx, PushRequest{Image: name}, quiet); !errdefs.IsUnauthorized(err) {
		t.Errorf("anonymous push = %v", err)
	}
	err := s.Pull(ctx, PullRequest{Image: name}, quiet)
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "pull access denied for "+guarded+"/app, repository does not exist or may require 'docker login'") {
		t.Errorf("anonymous pull = %v", err)
	}
	if err := s.Pull(ctx, PullRequest{Image: name, Auth: good}, quiet); err != nil {
		t.Errorf("pull with credentials = %v", err)
	}
	if _, err := s.Login(ctx, guarded, good); err != nil {
		t.Errorf("Login = %v", err)
	}
	if _, err := s.Login(ctx, guarded, Auth{Username: "me", Password: "x"}); !errdefs.IsUnauthorized(err) {
		t.Errorf("Login with a wrong password = %v", err)
	}
}

func TestCredentialsAreForTheirRegistryOnly(t *testing.T) {
	s := service(t, &supervisortest.Supervisor{}, Config{})
	for host, asks := range map[string]string{"docker.io": "registry-1.docker.io", "a:1": "a:1"} {
		opts, err := s.options(host, Auth{Username: "u", Password: "p"}.Func())
		if err != nil {
			t.Fatal(err)
		}
		if c, err := opts.Credentials(t.Context(), asks, nil); err != nil || c.Username != "u" {
			t.Errorf("%s, asked by %s: %+v, %v", host, asks, c, err)
		}
		if c, err := opts.Credentials(t.Context(), "mirror:5000", nil); err != nil || c.Username != "" {
			t.Errorf("%s, asked by a mirror: %+v, %v", host, c, err)
		}
	}
}

func TestEmbeddedImageIsLoadedOnDemand(t *testing.T) {
	sup := supervisortest.Start(t, "")
	s := service(t, sup, Config{})
	imported(t, s, "strata/hello", files(t, "hello"))
	var archive bytes.Buffer
	if err := s.Save(t.Context(), []string{"strata/hello"}, "", &archive); err != nil {
		t.Fatal(err)
	}
	fresh := New(Config{}, supervisortest.Start(t, "").Client, nil, Hooks{Embedded: func(ref string) (io.ReadCloser, bool) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), ref == "docker.io/strata/hello:latest"
	}})
	if _, err := fresh.ForContainer(t.Context(), "strata/hello", ""); err != nil {
		t.Errorf("ForContainer = %v", err)
	}
	if _, err := fresh.Resolve(t.Context(), "strata/other", nil); !errdefs.IsNotFound(err) {
		t.Errorf("Resolve of another = %v", err)
	}
}

// TestPullGoesOnAfterKill kills the supervisor while a pull is at 90%, and counts what the
// next one fetches.
func TestPullGoesOnAfterKill(t *testing.T) {
	reg := startRegistry(t)
	noise := make([]byte, 24<<20)
	_, _ = rand.Read(noise)
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "noise", Size: int64(len(noise)), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	_, _ = tw.Write(noise)
	_ = tw.Close()
	var sent, limit atomic.Int64
	limit.Store(int64(len(noise)) * 9 / 10)
	held := make(chan struct{})
	slow := front(t, reg, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				w = &throttled{ResponseWriter: w, sent: &sent, limit: &limit, held: held, gone: r.Context().Done()}
			}
			next.ServeHTTP(w, r)
		})
	})
	source := service(t, supervisortest.Start(t, ""), Config{})
	img := imported(t, source, reg+"/big:1", layer.Bytes())
	if err := source.Push(t.Context(), PushRequest{Image: reg + "/big:1"}, quiet); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	first := supervisortest.Start(t, root)
	failed := make(chan error, 1) // one result
	go func() {
		failed <- service(t, first, Config{}).Pull(context.WithoutCancel(t.Context()), PullRequest{Image: slow + "/big:1"}, quiet)
	}()
	select {
	case <-held:
	case <-time.After(20 * time.Second):
		t.Fatal("the pull did not get to 90%")
	}
	waitFor(t, "the bytes to arrive on disk", func() bool { return onDisk(root) >= limit.Load()-(1<<20) })
	first.Stop(syscall.SIGKILL)
	if err := <-failed; err == nil {
		t.Fatal("the pull survived its supervisor")
	}
	before := sent.Load()
	limit.Store(1 << 62)
	s := service(t, supervisortest.Start(t, root), Config{})
	if err := s.Pull(t.Context(), PullRequest{Image: slow + "/big:1"}, quiet); err != nil {
		t.Fatal(err)
	}
	got, err := s.Resolve(t.Context(), slow+"/big:1", nil)
	if err != nil || got.ID != img.ID {
		t.Fatalf("Resolve = %v, %v", got.ID, err)
	}
	if again := sent.Load() - got.Layers[0].Size; again > 2<<20 {
		t.Errorf("%d bytes were fetched twice (%d before the kill, layer has %d)", again, before, got.Layers[0].Size)
	}
}

// onDisk returns the size of the largest ingest below root.
func onDisk(root string) (size int64) {
	_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.Contains(path, "ingest") {
			if fi, err := d.Info(); err == nil && fi.Mode().IsRegular() {
				size = max(size, fi.Size())
			}
		}
		return nil
	})
	return size
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) { // polls another process
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// throttled counts bytes and stops at a limit until the client is gone.
type throttled struct {
	http.ResponseWriter
	sent, limit *atomic.Int64
	held        chan struct{}
	gone        <-chan struct{}
}

func (w *throttled) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		room := w.limit.Load() - w.sent.Load()
		if room <= 0 {
			_ = http.NewResponseController(w.ResponseWriter).Flush()
			select {
			case <-w.held:
			default:
				close(w.held)
			}
			<-w.gone
			return n, io.ErrClosedPipe
		}
		k, err := w.ResponseWriter.Write(p[n : n+min(len(p)-n, int(min(room, 1<<20)))])
		w.sent.Add(int64(k))
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (w *throttled) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

func TestListFilters(t *testing.T) {
	s := service(t, supervisortest.Start(t, ""), Config{})
	ctx := t.Context()
	for i, n := range []string{"team/one:1", "team/two:2", "solo"} {
		err := s.Import(ctx, ImportRequest{Source: bytes.NewReader(files(t, n)), Name: n, Changes: []string{"LABEL n=" + string(rune('a'+i))}}, quiet)
		if err != nil {
			t.Fatal(err)
		}
	}
	imported(t, s, "solo", files(t, "other")) // the first "solo" dangles
	for _, tt := range []struct {
		filter filters.Args
		want   string
	}{
		{nil, "- solo:latest team/one:1 team/two:2"},
		{filters.Args{"dangling": {"true"}}, "-"},
		{filters.Args{"reference": {"team/*"}}, "team/one:1 team/two:2"},
		{filters.Args{"reference": {"*/two:2"}}, "team/two:2"},
		{filters.Args{"label": {"n=a"}}, "team/one:1"},
		{filters.Args{"before": {"team/two:2"}}, "team/one:1"},
		{filters.Args{"since": {"team/two:2"}}, "- solo:latest"},
		{filters.Args{"until": {"1h"}}, ""},
	} {
		list, err := s.List(ctx, ListOptions{Filters: tt.filter})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, sum := range list {
			if len(sum.RepoTags) == 0 {
				got = append(got, "-")
			}
			got = append(got, sum.RepoTags...)
		}
		slices.Sort(got)
		if g := strings.Join(got, " "); g != tt.want {
			t.Errorf("List(%v) = %q, want %q", tt.filter, g, tt.want)
		}
	}
	if _, err := s.List(ctx, ListOptions{Filters: filters.Args{"before": {"none"}}}); !errdefs.IsNotFound(err) {
		t.Errorf("List before an unknown image = %v", err)
	}
	removed, freed, err := s.Prune(ctx, filters.Args{"dangling": {"false"}})
	if err != nil || freed == 0 || len(removed) == 0 {
		t.Errorf("Prune = %v, %d, %v", removed, freed, err)
	}
	if list, err := s.List(ctx, ListOptions{}); err != nil || len(list) != 0 {
		t.Errorf("images after a prune of all: %v, %v", list, err)
	}
}

func TestApplyChanges(t *testing.T) {
	for _, tt := range []struct {
		name, raw string
		changes   []string
		want      string
	}{
		{"exec and shell forms", `{}`, []string{`CMD ["a","b c"]`, `ENTRYPOINT run it`}, `{"Cmd":["a","b c"],"Entrypoint":["/bin/sh","-c","run it"]}`},
		{"other shell", ``, []string{`SHELL ["/bin/bash","-lc"]`, `CMD x`}, `{"Cmd":["/bin/bash","-lc","x"],"Shell":["/bin/bash","-lc"]}`},
		{"env replaces by key", `{"Env":["A=1","B=2"]}`, []string{`ENV A=3 C="x y"`, `env D e f`}, `{"Env":["B=2","A=3","C=x y","D=e f"]}`},
		{"labels", `{"Labels":{"a":"1"}}`, []string{`LABEL "b c"=d\ e`}, `{"Labels":{"a":"1","b c":"d e"}}`},
		{"ports", ``, []string{`EXPOSE 80 53/udp 7000-7001`}, `{"ExposedPorts":{"53/udp":{},"7000/tcp":{},"7001/tcp":{},"80/tcp":{}}}`},
		{"volumes", ``, []string{`VOLUME /a /b`, `VOLUME ["/c d"]`}, `{"Volumes":{"/a":{},"/b":{},"/c d":{}}}`},
		{"relative directory", `{"WorkingDir":"/a"}`, []string{`WORKDIR b`}, `{"WorkingDir":"/a/b"}`},
		{"healthcheck", ``, []string{`HEALTHCHECK --interval=5s --retries=2 CMD curl x`}, `{"Healthcheck":{"Test":["CMD-SHELL","curl x"],"Interval":5000000000,"Retries":2}}`},
		{"unknown fields stay", `{"X":1,"User":"a"}`, []string{"USER b", "STOPSIGNAL 9", "ONBUILD RUN x"}, `{"OnBuild":["RUN x"],"StopSignal":"9","User":"b","X":1}`},
		{"not allowed", ``, []string{`RUN rm`}, ``},
		{"no argument", ``, []string{`CMD`}, ``},
		{"bad port", ``, []string{`EXPOSE 99999`}, ``},
		{"open quote", ``, []string{`ENV A="x`}, ``},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ApplyChanges(json.RawMessage(tt.raw), tt.changes)
			if string(got) != tt.want || (tt.want == "") != errdefs.IsInvalidArgument(err) {
				t.Errorf("ApplyChanges = %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestParseName(t *testing.T) {
	for _, tt := range []struct{ repo, tag, want string }{
		{"a", "", "docker.io/library/a:latest"},
		{"a:1", "", "docker.io/library/a:1"},
		{"h:5000/a", "2", "h:5000/a:2"},
		{"a:1", "2", "docker.io/library/a:2"},
		{"A", "", ""},
		{"a", "/", ""},
		{"a@" + digest.FromString("x").String(), "", ""},
	} {
		got, err := ParseName(tt.repo, tt.tag)
		if tt.want == "" {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("ParseName(%q, %q) = %v, %v", tt.repo, tt.tag, got, err)
			}
			continue
		}
		if err != nil || got.String() != tt.want {
			t.Errorf("ParseName(%q, %q) = %v, %v; want %s", tt.repo, tt.tag, got, err, tt.want)
		}
	}
}
