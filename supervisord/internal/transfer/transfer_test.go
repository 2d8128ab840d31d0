package transfer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/linux/mount"
	"strata/pkg/manifest"
	"strata/pkg/namespaces"
	"strata/pkg/registry"
	"strata/supervisord/internal/archive"
	"strata/supervisord/internal/snapshots"
	"strata/supervisord/internal/storage"
)

// house is a transfer service on real stores.
type house struct {
	*Service
	storage *storage.Storage
	root    string
	close   func()
}

func openHouse(t *testing.T, root string) *house {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: layers are extracted with their owners into overlay mounts")
	}
	st, err := storage.Open(t.Context(), root, nil)
	if err != nil {
		t.Fatal(err)
	}
	stores := Stores{Content: st.Content, Images: st.Images, Leases: st.Leases, Diff: st.Diff, Snapshotters: map[string]snapshots.Snapshotter{}, DefaultSnapshotter: "overlayfs"}
	for name, sn := range st.Snapshotters {
		stores.Snapshotters[name] = sn
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = st.Run(ctx) })
	var once sync.Once
	h := &house{Service: New(stores, registry.New(registry.Config{})), storage: st, root: root}
	h.close = func() {
		once.Do(func() {
			cancel()
			wg.Wait()
			if err := st.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(h.close)
	return h
}

func scoped(t *testing.T) context.Context { return namespaces.With(t.Context(), "test") }

// counting is a proxy in front of a registry that counts the bytes of blobs and can cut
// the line.
type counting struct {
	next   http.Handler
	bytes  atomic.Int64
	gets   atomic.Int64
	budget atomic.Int64 // bytes until the line is cut; negative: never
}

type countingWriter struct {
	http.ResponseWriter
	c *counting
}

func (w countingWriter) Write(p []byte) (int, error) {
	if left := w.c.budget.Load(); left >= 0 {
		if left == 0 {
			return 0, errors.New("line cut")
		}
		p2 := p[:min(len(p), int(left))]
		n, err := w.ResponseWriter.Write(p2)
		w.c.budget.Add(-int64(n))
		w.c.bytes.Add(int64(n))
		if err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		return n, err
	}
	n, err := w.ResponseWriter.Write(p)
	w.c.bytes.Add(int64(n))
	return n, err
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256") {
		c.gets.Add(1)
		w = countingWriter{w, c}
	}
	c.next.ServeHTTP(w, r)
}

// layout is a registry of one image in memory, with faults.
type layout struct {
	mu     sync.Mutex
	blobs  map[digest.Digest][]byte
	types  map[digest.Digest]string
	tags   map[string]digest.Digest
	target ocispec.Descriptor
	layers []ocispec.Descriptor
}

func (l *layout) put(mediaType string, raw []byte) ocispec.Descriptor {
	d := digest.FromBytes(raw)
	l.blobs[d], l.types[d] = raw, mediaType
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}
}

func (l *layout) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	d, ok := l.tags[name]
	if !ok {
		d = digest.Digest(name)
	}
	raw, ok := l.blobs[d]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", l.types[d])
	w.Header().Set("Docker-Content-Digest", d.String())
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(raw))
}

// tarLayer returns a gzip layer with one file of random content, and its diff id.
func tarLayer(t *testing.T, name string, size int) ([]byte, digest.Digest) {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data)
	var plain, packed bytes.Buffer
	tw := tar.NewWriter(&plain)
	if err := errors.Join(tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(size), Mode: 0o644}), func() error { _, err := tw.Write(data); return err }(), tw.Close()); err != nil {
		t.Fatal(err)
	}
	zw, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	_, _ = zw.Write(plain.Bytes())
	_ = zw.Close()
	return packed.Bytes(), digest.FromBytes(plain.Bytes())
}

// newLayout makes an image of n layers, as an index with an entry for this platform and
// one for another whose content is absent.
func newLayout(t *testing.T, n, size int) *layout {
	t.Helper()
	l := &layout{blobs: map[digest.Digest][]byte{}, types: map[digest.Digest]string{}, tags: map[string]digest.Digest{}}
	cfg := ocispec.Image{Platform: platforms.DefaultSpec(), RootFS: ocispec.RootFS{Type: "layers"}}
	for i := range n {
		raw, diffID := tarLayer(t, fmt.Sprintf("file%d", i), size)
		l.layers = append(l.layers, l.put(ocispec.MediaTypeImageLayerGzip, raw))
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, diffID)
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: l.layers}
	m.Config = l.put(ocispec.MediaTypeImageConfig, encode(t, cfg))
	here := l.put(m.MediaType, encode(t, m))
	p := platforms.DefaultSpec()
	here.Platform = &p
	elsewhere := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromString("elsewhere"), Size: 9, Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}}
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{elsewhere, here}}
	l.target = l.put(idx.MediaType, encode(t, idx))
	l.tags["1"] = l.target.Digest
	return l
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func serve(t *testing.T, h http.Handler) (host string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func (h *house) pull(ctx context.Context, ref string, report Report) error {
	p := platforms.DefaultSpec()
	_, err := h.Pull(ctx, PullRequest{Reference: ref, Platforms: []ocispec.Platform{p}, Unpacks: []Unpack{{Platform: &p}}}, report)
	return err
}

func TestPullStoresLabelsUnpacksAndNames(t *testing.T) {
	l := newLayout(t, 3, 200_000)
	host := serve(t, l)
	h := openHouse(t, t.TempDir())
	ctx := scoped(t)
	events := map[string][]string{}
	if err := h.pull(ctx, host+"/team/app:1", func(p Progress) { events[p.Name] = append(events[p.Name], p.Event) }); err != nil {
		t.Fatal(err)
	}
	img, err := h.stores.Images.Get(ctx, host+"/team/app:1")
	if err != nil || img.Target.Digest != l.target.Digest {
		t.Fatalf("image = %+v, %v", img, err)
	}
	for _, layer := range l.layers {
		got := events[manifest.RefKey(layer)]
		if len(got) < 4 || got[0] != "waiting" || got[len(got)-1] != "extracted" {
			t.Errorf("events of a layer: %v", got)
		}
	}
	doc, cfg, err := h.resolveImage(ctx, img.Target, []ocispec.Platform{platforms.DefaultSpec()}, 0)
	if err != nil {
		t.Fatal(err)
	}
	chain := manifest.ChainIDs(cfg.RootFS.DiffIDs)
	for d, want := range map[digest.Digest]map[string]string{
		img.Target.Digest: {"containerd.io/gc.ref.content.m.1": l.types2(t, manifest.IsManifest)},
		doc.Config.Digest: {"containerd.io/gc.ref.snapshot.overlayfs": chain[2].String()},
		l.layers[1].Digest: {
			"containerd.io/distribution.source." + host: "team/app", "containerd.io/uncompressed": cfg.RootFS.DiffIDs[1].String(),
		},
	} {
		info, err := h.stores.Content.Info(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range want {
			if info.Labels[k] != v {
				t.Errorf("label %s of %s = %q, want %q", k, d, info.Labels[k], v)
			}
		}
	}
	if all, err := h.stores.Leases.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("leases after a pull: %v, %v", all, err)
	}
	if _, err := h.storage.GC.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	sn, _, _ := h.snapshotter("")
	mounts, err := sn.View(ctx, "look", chain[2].String(), nil)
	if err != nil {
		t.Fatalf("view of the image after a collection: %v", err)
	}
	err = mount.WithTemp(ctx, mounts, func(root string) error {
		for i := range 3 {
			if fi, err := os.Stat(filepath.Join(root, fmt.Sprintf("file%d", i))); err != nil || fi.Size() != 200_000 {
				return fmt.Errorf("file%d: %v, %w", i, fi, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := sn.Remove(ctx, "look"); err != nil {
		t.Error(err)
	}
}

// types2 returns the digest of the one document that is of a kind.
func (l *layout) types2(t *testing.T, is func(string) bool) string {
	t.Helper()
	for d, mt := range l.types {
		if is(mt) {
			return d.String()
		}
	}
	t.Fatal("no such document")
	return ""
}

func TestInterruptedPullGoesOnInALaterProcess(t *testing.T) {
	l := newLayout(t, 4, 2<<20)
	c := &counting{next: l}
	host := serve(t, c)
	var total int64
	for _, d := range l.layers {
		total += d.Size
	}
	root := t.TempDir()
	h := openHouse(t, root)
	c.budget.Store(total * 9 / 10)
	ctx, cancel := context.WithTimeout(scoped(t), time.Minute)
	defer cancel()
	stopped, stop := context.WithCancel(ctx)
	go func() { // the machine is switched off once the line is dead
		for c.budget.Load() > 0 && ctx.Err() == nil {
			time.Sleep(time.Millisecond) // polls a counter of another goroutine
		}
		stop()
	}()
	if err := h.pull(stopped, host+"/team/app:1", nil); err == nil {
		t.Fatal("a pull over a dead line succeeded")
	}
	if _, err := h.stores.Images.Get(ctx, host+"/team/app:1"); !errdefs.IsNotFound(err) {
		t.Errorf("image after an interrupted pull: %v, want ErrNotFound", err)
	}
	if _, err := h.storage.GC.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	kept := h.kept(ctx, t, l)
	h.close()
	if kept == 0 {
		t.Error("nothing was kept of a pull that broke off at 90%")
	}

	before := c.bytes.Load()
	c.budget.Store(-1)
	h = openHouse(t, root)
	if err := h.pull(ctx, host+"/team/app:1", nil); err != nil {
		t.Fatal(err)
	}
	// What was on its way through the sockets is lost, and is no matter of ours.
	if again := c.bytes.Load() - before - (total - kept); again > slack {
		t.Errorf("%d bytes that had been kept were fetched again (kept %d, fetched %d then, image has %d)", again, kept, c.bytes.Load()-before, total)
	}
}

// slack is what a pull fetches beside layers, in bytes: manifest and configuration.
const slack = 64 << 10

// kept returns how many bytes of the layers of l the stores hold, whole or in part.
func (h *house) kept(ctx context.Context, t *testing.T, l *layout) int64 {
	t.Helper()
	var n int64
	for _, d := range l.layers {
		if info, err := h.stores.Content.Info(ctx, d.Digest); err == nil {
			n += info.Size
		}
	}
	statuses, err := h.stores.Content.ListStatuses(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statuses {
		n += s.Offset
	}
	return n
}

func TestConcurrentPullsShareTheWork(t *testing.T) {
	l := newLayout(t, 3, 1<<20)
	c := &counting{next: l}
	c.budget.Store(-1)
	host := serve(t, c)
	h := openHouse(t, t.TempDir())
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = h.pull(scoped(t), host+"/team/app:1", nil) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got := c.gets.Load(); got > 4+7 { // 3 layers once; the configuration is not shared
		t.Errorf("8 pulls made %d requests for blobs of 4", got)
	}
	var total int64
	for _, d := range l.layers {
		total += d.Size
	}
	if c.bytes.Load() > total+100_000 {
		t.Errorf("8 pulls fetched %d bytes of an image of %d", c.bytes.Load(), total)
	}
}

func TestWrongContentLeavesNothingVisible(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(l *layout)
		class error
	}{
		{"layer of other bytes", func(l *layout) {
			raw := bytes.Clone(l.blobs[l.layers[1].Digest])
			raw[len(raw)/2] ^= 1
			l.blobs[l.layers[1].Digest] = raw
		}, errdefs.ErrDataLoss},
		{"layer whose diff id is another", func(l *layout) {
			raw, _ := tarLayerNoT("other")
			l.replaceLayer(1, raw)
		}, errdefs.ErrDataLoss},
		{"layer that is no archive", func(l *layout) { l.replaceLayer(1, []byte("this is not a tar archive, nor gzip")) }, nil},
		{"manifest of other bytes", func(l *layout) { l.blobs[l.target.Digest] = append(bytes.Clone(l.blobs[l.target.Digest]), ' ') }, errdefs.ErrDataLoss},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLayout(t, 3, 100_000)
			tt.spoil(l)
			host := serve(t, l)
			h := openHouse(t, t.TempDir())
			ctx := scoped(t)
			err := h.pull(ctx, host+"/team/app:1", nil)
			if err == nil || tt.class != nil && !errors.Is(err, tt.class) {
				t.Fatalf("Pull = %v, want class %v", err, tt.class)
			}
			if _, err := h.stores.Images.Get(ctx, host+"/team/app:1"); !errdefs.IsNotFound(err) {
				t.Errorf("image is visible: %v", err)
			}
			sn, _, _ := h.snapshotter("")
			_ = sn.Walk(ctx, func(i snapshots.Info) error {
				if i.Kind != snapshots.KindCommitted {
					t.Errorf("snapshot %q stayed", i.Name)
				}
				return nil
			})
		})
	}
}

func tarLayerNoT(name string) ([]byte, digest.Digest) {
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	_ = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644})
	_ = tw.Close()
	return plain.Bytes(), digest.FromBytes(plain.Bytes())
}

// replaceLayer makes the image name another layer, with the old diff id.
func (l *layout) replaceLayer(i int, raw []byte) {
	var m ocispec.Manifest
	for d, mt := range l.types {
		if manifest.IsManifest(mt) {
			_ = json.Unmarshal(l.blobs[d], &m)
		}
	}
	m.Layers[i] = l.put(ocispec.MediaTypeImageLayer, raw)
	doc, _ := json.Marshal(m)
	l.target = l.put(m.MediaType, doc)
	l.tags["1"] = l.target.Digest
}

func TestPullForAnAbsentPlatformIsNotFound(t *testing.T) {
	l := newLayout(t, 1, 1000)
	host := serve(t, l)
	h := openHouse(t, t.TempDir())
	_, err := h.Pull(scoped(t), PullRequest{Reference: host + "/a/b:1", Platforms: []ocispec.Platform{{OS: "linux", Architecture: "mips64le"}}}, nil)
	if !errdefs.IsNotFound(err) {
		t.Errorf("Pull = %v, want ErrNotFound", err)
	}
	if _, err := h.Pull(scoped(t), PullRequest{Reference: host + "/a/b:none"}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("Pull = %v, want ErrNotFound", err)
	}
	all, err := h.stores.Leases.List(scoped(t))
	if err != nil || len(all) != 1 { // of the first one, which stored an index
		t.Errorf("leases = %v, %v; a pull that stored nothing leaves one", all, err)
	}
}

func TestFullDiskIsSaidAndAPullAfterwardsSucceeds(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a small tmpfs")
	}
	l := newLayout(t, 3, 4<<20)
	host := serve(t, l)
	root := t.TempDir()
	small := mount.Mount{Type: "tmpfs", Source: "tmpfs", Options: []string{"size=6m"}}
	if err := mount.All([]mount.Mount{small}, root); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mount.Unmount(root); err != nil {
			t.Error(err)
		}
	}()
	h := openHouse(t, root)
	defer h.close()
	err := h.pull(scoped(t), host+"/a/b:1", nil)
	if !errors.Is(err, errdefs.ErrResourceExhausted) || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("Pull on a full disk = %v, want ErrResourceExhausted with the reason", err)
	}
	if _, err := h.stores.Images.Get(scoped(t), host+"/a/b:1"); !errdefs.IsNotFound(err) {
		t.Errorf("image after a full disk: %v", err)
	}
	if out, err := exec.Command("mount", "-o", "remount,size=100m", root).CombinedOutput(); err != nil {
		t.Fatalf("remount: %v: %s", err, out)
	}
	if err := h.pull(scoped(t), host+"/a/b:1", nil); err != nil {
		t.Errorf("Pull with room again = %v", err)
	}
}

// realRegistry runs Debian's docker-registry on loopback.
func realRegistry(t *testing.T) string {
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
	deadline := time.Now().Add(10 * time.Second)
	for {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatal("registry did not start")
		}
		time.Sleep(10 * time.Millisecond) // polls another process
	}
}

func TestRoundTripThroughARealRegistry(t *testing.T) {
	host := realRegistry(t)
	l := newLayout(t, 2, 300_000)
	source := serve(t, l)
	h := openHouse(t, t.TempDir())
	ctx := scoped(t)
	if err := h.pull(ctx, source+"/team/app:1", nil); err != nil {
		t.Fatal(err)
	}
	steps := map[string]int{}
	count := func(p Progress) { steps[p.Event]++ }
	name := source + "/team/app:1"
	pushed, err := h.Push(ctx, PushRequest{Name: name, Reference: host + "/one/app:v1"}, count)
	if err != nil {
		t.Fatal(err)
	}
	if !manifest.IsManifest(pushed.MediaType) {
		t.Errorf("an index whose content is not all here was pushed as %s", pushed.MediaType)
	}
	if steps["complete"] != 4 {
		t.Errorf("steps of the first push: %v, want 4 uploads", steps)
	}
	clear(steps)
	if _, err := h.Push(ctx, PushRequest{Name: name, Reference: host + "/one/app:v2"}, count); err != nil || steps["already exists"] != 3 {
		t.Errorf("second push: %v, %v; want 3 blobs that exist", steps, err)
	}
	clear(steps)
	if _, err := h.Push(ctx, PushRequest{Name: name, Reference: host + "/two/app:v1"}, count); err != nil || steps["mounted"] != 3 {
		t.Errorf("push to another repository: %v, %v; want 3 mounted blobs", steps, err)
	}
	other := openHouse(t, t.TempDir())
	if err := other.pull(ctx, host+"/two/app:v1", nil); err != nil {
		t.Fatal(err)
	}
	img, err := other.stores.Images.Get(ctx, host+"/two/app:v1")
	if err != nil || img.Target.Digest != pushed.Digest {
		t.Errorf("pulled %v, %v; pushed %s", img.Target, err, pushed.Digest)
	}
	if _, err := other.Pull(ctx, PullRequest{Reference: host + "/two/app:none"}, nil); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "manifest unknown") {
		t.Errorf("pull of an unknown tag = %v, want ErrNotFound with the registry's words", err)
	}
}

func TestArchivesRoundTrip(t *testing.T) {
	l := newLayout(t, 2, 100_000)
	host := serve(t, l)
	h := openHouse(t, t.TempDir())
	ctx := scoped(t)
	name := host + "/team/app:1"
	if err := h.pull(ctx, name, nil); err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	for _, w := range []*bytes.Buffer{&first, &second} {
		if err := h.Export(ctx, w, ExportRequest{Names: []string{name}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two exports of one image differ")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(file, first.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"", "gzip"} {
		other := openHouse(t, t.TempDir())
		data := first.Bytes()
		if kind == "gzip" {
			var z bytes.Buffer
			zw := gzip.NewWriter(&z)
			_, _ = zw.Write(data)
			_ = zw.Close()
			data = z.Bytes()
		}
		got, err := other.Import(ctx, bytes.NewReader(data), ImportRequest{Unpacks: []Unpack{{}}}, nil)
		if err != nil || len(got) != 1 || got[0].Name != name || got[0].Target.Digest != l.target.Digest {
			t.Fatalf("Import(%s) = %v, %v", kind, got, err)
		}
		if _, err := other.storage.GC.Collect(ctx); err != nil {
			t.Fatal(err)
		}
		if ok, err := other.complete(ctx, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(l.types2(t, manifest.IsManifest))}); err != nil || !ok {
			t.Errorf("content after a collection is complete: %v, %v", ok, err)
		}
	}
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("needs skopeo for the other formats")
	}
	for _, format := range []string{"docker-archive", "oci-archive"} {
		converted := filepath.Join(dir, format+".tar")
		to := format + ":" + converted + ":docker.io/team/app:2"
		if out, err := exec.Command(skopeo, "--insecure-policy", "copy", "docker-archive:"+file, to).CombinedOutput(); err != nil {
			t.Fatalf("skopeo cannot read what we write: %v\n%s", err, out)
		}
		raw, err := os.Open(converted)
		if err != nil {
			t.Fatal(err)
		}
		other := openHouse(t, t.TempDir())
		got, err := other.Import(ctx, raw, ImportRequest{Unpacks: []Unpack{{}}}, nil)
		_ = raw.Close()
		if err != nil || len(got) != 1 || got[0].Name != "docker.io/team/app:2" {
			t.Errorf("Import(%s) = %v, %v", format, got, err)
		}
	}
}

func TestBadArchivesAreRefused(t *testing.T) {
	pack := func(files ...string) []byte {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		for i := 0; i < len(files); i += 2 {
			_ = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644})
			_, _ = tw.Write([]byte(files[i+1]))
		}
		_ = tw.Close()
		return b.Bytes()
	}
	x := digest.FromString("x")
	for name, raw := range map[string][]byte{
		"empty":                   pack(),
		"not a tar":               []byte("hello hello hello hello"),
		"blob of another digest":  pack("blobs/sha256/"+x.Encoded(), "y", "index.json", "{}"),
		"blob name leaves":        pack("blobs/sha256/../../etc/passwd", "x"),
		"missing content":         pack("index.json", `{"manifests":[{"mediaType":"`+ocispec.MediaTypeImageManifest+`","digest":"`+x.String()+`","size":1}]}`),
		"no images":               pack("index.json", `{"manifests":[]}`),
		"docker without layers":   pack("manifest.json", `[{"Config":"c.json","Layers":["l"]}]`, "c.json", `{"rootfs":{"diff_ids":["`+x.String()+`"]}}`),
		"docker with other layer": pack("l", "zzz", "manifest.json", `[{"Config":"c.json","Layers":["l"]}]`, "c.json", `{"rootfs":{"diff_ids":["`+x.String()+`"]}}`),
		"bad name":                pack("manifest.json", `[{"Config":"c.json","RepoTags":["UPPER:x:y"],"Layers":[]}]`, "c.json", `{}`),
	} {
		t.Run(name, func(t *testing.T) {
			h := openHouse(t, t.TempDir())
			if got, err := h.Import(scoped(t), bytes.NewReader(raw), ImportRequest{}, nil); !errdefs.IsInvalidArgument(err) {
				t.Errorf("Import = %v, %v; want ErrInvalidArgument", got, err)
			}
			if left, err := h.stores.Content.ListStatuses(scoped(t)); err != nil || len(left) > 0 {
				t.Errorf("ingests stayed: %v, %v", left, err)
			}
		})
	}
}

func TestNamesOfImportedImages(t *testing.T) {
	target := ocispec.Descriptor{Digest: digest.FromString("x")}
	for i, tt := range []struct {
		img  archive.Image
		req  ImportRequest
		want string
	}{
		{archive.Image{Names: []string{"docker.io/a/b:1"}}, ImportRequest{}, "docker.io/a/b:1"},
		{archive.Image{Names: []string{"docker.io/a/b:1"}}, ImportRequest{Name: "n"}, "n"},
		{archive.Image{Tag: "v1"}, ImportRequest{Rules: []NameRule{{Name: "docker.io/p/q", Prefix: true, AddDigest: true, SkipNamed: true}}}, "docker.io/p/q:v1"},
		{archive.Image{}, ImportRequest{Rules: []NameRule{{Name: "d", Prefix: true, AddDigest: true, SkipNamed: true}}}, "d@" + target.Digest.String()},
		{archive.Image{}, ImportRequest{}, ""},
	} {
		tt.img.Target = target
		if got := strings.Join(namesOf(tt.img, tt.req, true), " "); got != tt.want {
			t.Errorf("%d: namesOf = %q, want %q", i, got, tt.want)
		}
	}
}
