package storage_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/linux/mount"
	"strata/pkg/namespaces"
	"strata/supervisord/internal/containers"
	"strata/supervisord/internal/content"
	"strata/supervisord/internal/diff"
	"strata/supervisord/internal/images"
	"strata/supervisord/internal/leases"
	"strata/supervisord/internal/metadata"
	"strata/supervisord/internal/snapshots"
	"strata/supervisord/internal/storage"
)

// recorder remembers the topics of events.
type recorder struct {
	mu     sync.Mutex
	topics []string
}

func (r *recorder) Publish(_ context.Context, topic string, _ proto.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.topics = append(r.topics, topic)
	return nil
}

type fixture struct {
	*storage.Storage
	t    *testing.T
	root string
	ctx  context.Context // of one test
	seen *recorder
}

func open(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, root: t.TempDir(), ctx: namespaces.With(t.Context(), "test"), seen: &recorder{}}
	f.start()
	t.Cleanup(func() { _ = f.Close(context.Background()) })
	return f
}

func (f *fixture) start() {
	f.t.Helper()
	s, err := storage.Open(f.ctx, f.root, f.seen)
	must(f.t, err)
	f.Storage = s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) overlay() snapshots.Snapshotter { return f.Snapshotters["overlayfs"] }

// blob stores data with labels.
func (f *fixture) blob(ctx context.Context, data []byte, labels map[string]string) ocispec.Descriptor {
	f.t.Helper()
	dgst := digest.FromBytes(data)
	w, err := f.Content.OpenWriter(ctx, content.WriterOptions{Ref: "ref-" + dgst.Encoded()})
	must(f.t, err)
	defer func() { _ = w.Close() }()
	_, err = w.Write(data)
	must(f.t, err)
	if err := w.Commit(ctx, int64(len(data)), dgst, labels); !errors.Is(err, errdefs.ErrAlreadyExists) {
		must(f.t, err)
	}
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: int64(len(data))}
}

func (f *fixture) collect() {
	f.t.Helper()
	_, err := f.GC.Collect(f.ctx)
	must(f.t, err)
}

// left returns the digests of text blobs and the names of snapshots that are there.
func (f *fixture) left(names map[digest.Digest]string) (out []string) {
	f.t.Helper()
	must(f.t, f.Content.Walk(f.ctx, func(i content.Info) error { out = append(out, names[i.Digest]); return nil }))
	must(f.t, f.overlay().Walk(f.ctx, func(i snapshots.Info) error { out = append(out, i.Name); return nil }))
	slices.Sort(out)
	return out
}

// pulled makes what a pull of an image leaves: config, layer, manifest, two snapshots.
func (f *fixture) pulled(ctx context.Context, name string, blobs map[digest.Digest]string) {
	f.t.Helper()
	put := func(text string, labels map[string]string) ocispec.Descriptor {
		d := f.blob(ctx, []byte(name+text), labels)
		blobs[d.Digest] = name + text
		return d
	}
	sn := f.overlay()
	for _, l := range [][2]string{{name + " l1", ""}, {name + " l2", name + " l1"}} {
		_, err := sn.Prepare(ctx, "extract "+l[0], l[1], nil)
		must(f.t, err)
		must(f.t, sn.Commit(ctx, l[0], "extract "+l[0], nil))
	}
	config := put(" config", map[string]string{"containerd.io/gc.ref.snapshot.overlayfs": name + " l2"})
	layer := put(" layer", nil)
	manifest := put(" manifest", map[string]string{"containerd.io/gc.ref.content.config": config.Digest.String(), "containerd.io/gc.ref.content.l.0": layer.Digest.String()})
	_, err := f.Images.Create(ctx, images.Image{Name: name, Target: manifest})
	must(f.t, err)
}

func TestGarbageCollectionKeepsWhatIsHeld(t *testing.T) {
	f := open(t)
	blobs := map[digest.Digest]string{}
	f.pulled(f.ctx, "a", blobs)
	f.pulled(f.ctx, "b", blobs)
	free := f.blob(f.ctx, []byte("free"), nil)
	rooted := f.blob(f.ctx, []byte("rooted"), map[string]string{"containerd.io/gc.root": "now"})
	back := f.blob(f.ctx, []byte("back"), map[string]string{"containerd.io/gc.bref.content.x": rooted.Digest.String()})
	blobs[free.Digest], blobs[rooted.Digest], blobs[back.Digest] = "free", "rooted", "back"
	_, err := f.overlay().Prepare(f.ctx, "container", "a l2", nil)
	must(t, err)
	_, err = f.Containers.Create(f.ctx, containers.Container{ID: "c", RuntimeName: "r", Spec: &anypb.Any{}, Snapshotter: "overlayfs", SnapshotKey: "container"})
	must(t, err)
	f.collect()
	want := []string{"a config", "a l1", "a l2", "a layer", "a manifest", "b config", "b l1", "b l2", "b layer", "b manifest", "back", "container", "rooted"}
	if got := f.left(blobs); !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
	must(t, f.Images.Delete(f.ctx, "a", nil))
	must(t, f.Images.Delete(f.ctx, "b", nil))
	f.collect()
	if got, want := f.left(blobs), []string{"a l1", "a l2", "back", "container", "rooted"}; !slices.Equal(got, want) {
		t.Errorf("left %q, want the container's chain: %q", got, want)
	}
	must(t, f.Containers.Delete(f.ctx, "c"))
	f.collect()
	if got, want := f.left(blobs), []string{"back", "rooted"}; !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
	files, err := os.ReadDir(filepath.Join(f.root, "content/blobs/sha256"))
	if err != nil || len(files) != 2 {
		t.Errorf("%d blobs on disk, %v; want 2", len(files), err)
	}
}

func TestLeasesHoldWhatIsMadeUnderThem(t *testing.T) {
	f := open(t)
	blobs := map[digest.Digest]string{}
	for name, labels := range map[string]map[string]string{
		"plain": nil, "flat": {"containerd.io/gc.flat": "x"}, "expired": {"containerd.io/gc.expire": time.Now().Add(-time.Minute).Format(time.RFC3339)},
		"live": {"containerd.io/gc.expire": time.Now().Add(time.Hour).Format(time.RFC3339)},
	} {
		_, err := f.Leases.Create(f.ctx, name, labels)
		must(t, err)
		ctx := namespaces.WithLease(f.ctx, name)
		child := f.blob(f.ctx, []byte(name+" child"), nil)
		d := f.blob(ctx, []byte(name), map[string]string{"containerd.io/gc.ref.content.c": child.Digest.String()})
		blobs[d.Digest], blobs[child.Digest] = name, name+" child"
		_, err = f.overlay().Prepare(ctx, name+" snapshot", "", nil)
		must(t, err)
		w, err := f.Content.OpenWriter(ctx, content.WriterOptions{Ref: name})
		must(t, err)
		must(t, w.Close())
	}
	resources, err := f.Leases.ListResources(f.ctx, "plain")
	must(t, err)
	want := []leases.Resource{{ID: digest.FromString("plain").String(), Type: "content"}, {ID: "plain", Type: "ingests"}, {ID: "plain snapshot", Type: "snapshots/overlayfs"}}
	if !slices.Equal(resources, want) {
		t.Errorf("resources %v, want %v", resources, want)
	}
	f.collect()
	if got, want := f.left(blobs), []string{"flat", "flat snapshot", "live", "live child", "live snapshot", "plain", "plain child", "plain snapshot"}; !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
	if list, err := f.Leases.List(f.ctx, "id==expired"); err != nil || len(list) != 0 {
		t.Errorf("the expired lease is there: %v, %v", list, err)
	}
	must(t, f.Leases.DeleteResource(f.ctx, "plain", want[2-0]))
	for _, id := range []string{"flat", "live"} {
		must(t, f.Leases.Delete(f.ctx, id, true)) // waits for the collection
	}
	want2 := []string{"plain", "plain child"}
	if got := f.left(blobs); !slices.Equal(got, want2) {
		t.Errorf("left %q, want %q", got, want2)
	}
	if err := f.Leases.Delete(f.ctx, "live", true); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("second Delete = %v, want class ErrNotFound", err)
	}
	if err := f.Leases.AddResource(f.ctx, "plain", leases.Resource{ID: "x", Type: "volumes"}); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("AddResource of a volume = %v, want class ErrNotImplemented", err)
	}
}

// TestPullsAndCollectionsRace pulls images under leases while garbage is collected all
// the time, and then looks whether anything that was pulled is missing.
func TestPullsAndCollectionsRace(t *testing.T) {
	f := open(t)
	stop := make(chan struct{})
	var collector, pulls sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				f.collect()
			}
		}
	})
	names := make([]map[digest.Digest]string, 4)
	for i := range names {
		names[i] = map[digest.Digest]string{}
		pulls.Go(func() {
			for j := range 8 {
				name := fmt.Sprintf("image-%d-%d", i, j)
				l, err := f.Leases.Create(f.ctx, "", nil)
				if err != nil {
					t.Error(err)
					return
				}
				f.pulled(namespaces.WithLease(f.ctx, l.ID), name, names[i])
				if err := f.Leases.Delete(f.ctx, l.ID, false); err != nil {
					t.Error(err)
				}
				if j%2 == 1 {
					if err := f.Images.Delete(f.ctx, name, nil); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	pulls.Wait()
	close(stop)
	collector.Wait()
	f.collect()
	f.collect() // what the first one kept because it was touched
	all := map[digest.Digest]string{}
	for _, n := range names {
		maps.Copy(all, n)
	}
	if got := f.left(all); len(got) != 4*4*5 {
		t.Errorf("%d things left, want %d: %q", len(got), 4*4*5, got)
	}
	must(t, f.Content.Walk(f.ctx, func(i content.Info) error {
		r, err := f.Content.OpenReader(f.ctx, i.Digest)
		if err != nil {
			return err
		}
		return r.Close()
	}))
}

func TestNamespacesComeWithTheirFirstRecordAndGoWhenEmpty(t *testing.T) {
	f := open(t)
	in := func(ns string) context.Context { return namespaces.With(f.ctx, ns) }
	f.blob(in("byblob"), []byte("x"), nil)
	_, err := f.overlay().Prepare(in("bysnapshot"), "key", "", nil)
	must(t, err)
	_, err = f.Namespaces.Create(f.ctx, metadata.Namespace{Name: "made", Labels: map[string]string{"a": "1"}})
	must(t, err)
	list, err := f.Namespaces.List(f.ctx)
	must(t, err)
	var names []string
	for _, ns := range list {
		names = append(names, ns.Name)
	}
	slices.Sort(names)
	if want := []string{"byblob", "bysnapshot", "made"}; !slices.Equal(names, want) {
		t.Errorf("List = %q, want %q", names, want)
	}
	for name, class := range map[string]error{"byblob": errdefs.ErrFailedPrecondition, "bysnapshot": errdefs.ErrFailedPrecondition, "missing": errdefs.ErrNotFound, "made": nil} {
		if err := f.Namespaces.Delete(f.ctx, name); !errors.Is(err, class) {
			t.Errorf("Delete(%q) = %v, want class %v", name, err, class)
		}
	}
	for name, class := range map[string]error{"byblob": errdefs.ErrAlreadyExists, "a..b": errdefs.ErrInvalidArgument, "": errdefs.ErrInvalidArgument, strings.Repeat("x", 77): errdefs.ErrInvalidArgument} {
		if _, err := f.Namespaces.Create(f.ctx, metadata.Namespace{Name: name}); !errors.Is(err, class) {
			t.Errorf("Create(%q) = %v, want class %v", name, err, class)
		}
	}
	if _, err := f.Images.Create(in("../x"), images.Image{Name: "i", Target: ocispec.Descriptor{MediaType: "m", Size: 1, Digest: digest.FromString("")}}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a record in namespace ../x = %v, want class ErrInvalidArgument", err)
	}
}

func TestRecordsSurviveARestart(t *testing.T) {
	f := open(t)
	blobs := map[digest.Digest]string{}
	f.pulled(f.ctx, "a", blobs)
	any1 := &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte(`{"ociVersion":"1.2"}`)}
	c, err := f.Containers.Create(f.ctx, containers.Container{ID: "c", RuntimeName: "r", Spec: any1, Extensions: map[string]*anypb.Any{"e": any1}, Labels: map[string]string{"l": ""}})
	must(t, err)
	before := f.left(blobs)
	must(t, f.Close(f.ctx))
	f.start()
	if after := f.left(blobs); !slices.Equal(before, after) {
		t.Errorf("before %q, after %q", before, after)
	}
	got, err := f.Containers.Get(f.ctx, "c")
	must(t, err)
	if !proto.Equal(got.Spec, c.Spec) || !proto.Equal(got.Extensions["e"], any1) || !got.CreatedAt.Equal(c.CreatedAt) {
		t.Errorf("container = %+v, want %+v", got, c)
	}
	if _, err := storage.Open(f.ctx, f.root, nil); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("second Open = %v, want class ErrUnavailable", err)
	}
}

func TestContainerUpdatesObeyTheFieldMask(t *testing.T) {
	f := open(t)
	spec := func(s string) *anypb.Any { return &anypb.Any{TypeUrl: "t", Value: []byte(s)} }
	base := containers.Container{ID: "c", RuntimeName: "r", Spec: spec("1"), Image: "i", Snapshotter: "overlayfs", SnapshotKey: "k", Labels: map[string]string{"a": "1", "b": "2"}}
	_, err := f.Containers.Create(f.ctx, base)
	must(t, err)
	for _, tt := range []struct {
		name   string
		update containers.Container
		paths  []string
		class  error
		check  func(c containers.Container) bool
	}{
		{"one label", containers.Container{Labels: map[string]string{"a": "x", "b": "ignored"}}, []string{"labels.a"}, nil, func(c containers.Container) bool {
			return c.Labels["a"] == "x" && c.Labels["b"] == "2" && c.Image == "i"
		}},
		{"label deleted", containers.Container{}, []string{"labels.a"}, nil, func(c containers.Container) bool { _, ok := c.Labels["a"]; return !ok }},
		{"extension", containers.Container{Extensions: map[string]*anypb.Any{"e": spec("e")}}, []string{"extensions.e"}, nil, func(c containers.Container) bool { return string(c.Extensions["e"].GetValue()) == "e" }},
		{"spec", containers.Container{Spec: spec("2")}, []string{"spec"}, nil, func(c containers.Container) bool { return string(c.Spec.Value) == "2" && c.Image == "i" }},
		{"runtime by path", containers.Container{RuntimeName: "x"}, []string{"runtime"}, errdefs.ErrInvalidArgument, nil},
		{"runtime by empty mask", containers.Container{RuntimeName: "x", Snapshotter: "overlayfs", Spec: spec("3")}, nil, errdefs.ErrInvalidArgument, nil},
		{"snapshotter by empty mask", containers.Container{RuntimeName: "r", Snapshotter: "native", Spec: spec("3")}, nil, errdefs.ErrInvalidArgument, nil},
		{"everything", containers.Container{RuntimeName: "r", Snapshotter: "overlayfs", SnapshotKey: "k2", Spec: spec("4"), Image: "j"}, nil, nil, func(c containers.Container) bool {
			return c.Image == "j" && c.SnapshotKey == "k2" && len(c.Labels) == 0 && len(c.Extensions) == 0
		}},
	} {
		tt.update.ID = "c"
		got, err := f.Containers.Update(f.ctx, tt.update, tt.paths...)
		if !errors.Is(err, tt.class) {
			t.Errorf("%s: %v, want class %v", tt.name, err, tt.class)
		}
		if tt.check != nil && !tt.check(got) {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

func TestEventsFollowTheFacts(t *testing.T) {
	f := open(t)
	f.pulled(f.ctx, "a", map[digest.Digest]string{})
	must(t, f.Images.Delete(f.ctx, "a", nil))
	f.seen.mu.Lock()
	defer f.seen.mu.Unlock()
	want := []string{"/snapshot/prepare", "/snapshot/commit", "/snapshot/prepare", "/snapshot/commit", "/content/create", "/content/create", "/content/create", "/images/create", "/images/delete"}
	if !slices.Equal(f.seen.topics, want) {
		t.Errorf("events %q, want %q", f.seen.topics, want)
	}
}

func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range files {
		must(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(1700000000, 0)}))
		_, err := io.WriteString(w, data)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func compress(t *testing.T, mediaType string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	switch mediaType {
	case ocispec.MediaTypeImageLayer:
		return data
	case ocispec.MediaTypeImageLayerZstd:
		var err error
		w, err = zstd.NewWriter(&b)
		must(t, err)
	}
	_, err := w.Write(data)
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}

func TestLayersRoundTripThroughApplyAndDiff(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount(2)")
	}
	for _, sn := range []string{"overlayfs", "native"} {
		for _, mediaType := range []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd} {
			t.Run(sn+" "+mediaType, func(t *testing.T) {
				f := open(t)
				s := f.Snapshotters[sn]
				apply := func(key, parent, name string, layer []byte) {
					mounts, err := s.Prepare(f.ctx, key, parent, nil)
					must(t, err)
					desc := f.blob(f.ctx, compress(t, mediaType, layer), nil)
					desc.MediaType = mediaType
					applied, err := f.Diff.Apply(f.ctx, desc, mounts)
					must(t, err)
					if applied.Digest != digest.FromBytes(layer) || applied.Size != int64(len(layer)) {
						t.Errorf("applied %+v, want the digest of the tar", applied)
					}
					must(t, s.Commit(f.ctx, name, key, nil))
				}
				apply("k1", "", "base", archive(t, map[string]string{"a": strings.Repeat("a", 2<<20), "b": "b", "d/x": "x"}))
				apply("k2", "base", "top", archive(t, map[string]string{"d/.wh.x": "", "d/y": "y"}))
				mounts, err := s.Prepare(f.ctx, "active", "top", nil)
				must(t, err)
				must(t, mount.WithTemp(f.ctx, mounts, func(root string) error {
					return errors.Join(os.Remove(root+"/b"), os.WriteFile(root+"/d/z", []byte("z"), 0o600))
				}))
				lower, err := s.View(f.ctx, "lower", "top", nil)
				must(t, err)
				desc, err := f.Diff.Diff(f.ctx, lower, mounts, diff.Options{MediaType: mediaType, Labels: map[string]string{"l": "v"}})
				must(t, err)
				info, err := f.Content.Info(f.ctx, desc.Digest)
				must(t, err)
				if info.Labels["l"] != "v" || info.Labels["containerd.io/uncompressed"] == "" || desc.MediaType != mediaType {
					t.Errorf("layer %+v with labels %v", desc, info.Labels)
				}
				mounts, err = s.Prepare(f.ctx, "again", "top", nil)
				must(t, err)
				applied, err := f.Diff.Apply(f.ctx, desc, mounts)
				must(t, err)
				if applied.Digest.String() != info.Labels["containerd.io/uncompressed"] {
					t.Errorf("diffID %s, label says %s", applied.Digest, info.Labels["containerd.io/uncompressed"])
				}
				must(t, mount.WithTemp(f.ctx, mounts, func(root string) error {
					names, err := filepath.Glob(root + "/d/*")
					if len(names) != 2 || err != nil {
						t.Errorf("d has %q, %v; want y and z", names, err)
					}
					if _, err := os.Stat(root + "/b"); !os.IsNotExist(err) {
						t.Errorf("b: %v", err)
					}
					return nil
				}))
			})
		}
	}
}

func TestApplyRefusesWhatIsNoLayer(t *testing.T) {
	f := open(t)
	mounts, err := f.overlay().Prepare(f.ctx, "k", "", nil)
	must(t, err)
	layer := compress(t, ocispec.MediaTypeImageLayerGzip, archive(t, map[string]string{"a": strings.Repeat("abc", 1<<16)}))
	flipped := slices.Clone(layer)
	flipped[len(flipped)-6] ^= 1 // of the checksum
	for name, tt := range map[string]struct {
		data      []byte
		mediaType string
		class     error
	}{
		"cut":         {layer[:len(layer)-20], ocispec.MediaTypeImageLayerGzip, errdefs.ErrInvalidArgument},
		"checksum":    {flipped, ocispec.MediaTypeImageLayerGzip, errdefs.ErrInvalidArgument},
		"no tar":      {bytes.Repeat([]byte("no tar "), 1000), ocispec.MediaTypeImageLayer, errdefs.ErrInvalidArgument},
		"not a layer": {[]byte("{}"), ocispec.MediaTypeImageConfig, errdefs.ErrNotImplemented},
		"encrypted":   {layer, ocispec.MediaTypeImageLayerGzip + "+encrypted", errdefs.ErrNotImplemented},
	} {
		desc := f.blob(f.ctx, tt.data, nil)
		desc.MediaType = tt.mediaType
		if _, err := f.Diff.Apply(f.ctx, desc, mounts); !errors.Is(err, tt.class) {
			t.Errorf("%s: Apply = %v, want class %v", name, err, tt.class)
		}
	}
	if _, err := f.Diff.Apply(f.ctx, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("missing")}, mounts); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Apply of nothing = %v, want class ErrNotFound", err)
	}
}
