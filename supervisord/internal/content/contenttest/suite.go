package contenttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/namespaces"
	"strata/supervisord/internal/content"
)

// Run checks the Store that open makes; reopen returns the same one as a new process
// would find it, after a crash if writers are open.
func Run(t *testing.T, open func(t *testing.T) (s content.Store, reopen func() content.Store)) {
	for name, fn := range map[string]func(*testing.T, *suite){
		"what was committed can be read":                    commit,
		"a writer resumes after a disconnect and a restart": resume,
		"a ref has one writer":                              locked,
		"mismatches keep nothing":                           mismatch,
		"what exists is not written again":                  exists,
		"namespaces share blobs and do not see them":        tenants,
		"labels change by field mask":                       labels,
		"ingests are listed and aborted":                    ingests,
		"truncation goes back":                              truncate,
		"digests cannot be paths":                           paths,
		"many write in parallel":                            parallel,
	} {
		t.Run(name, func(t *testing.T) {
			s, reopen := open(t)
			fn(t, &suite{Store: s, reopen: reopen, ctx: namespaces.With(t.Context(), "test")})
		})
	}
}

type suite struct {
	content.Store
	reopen func() content.Store
	ctx    context.Context //nolint:containedctx // of one test
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantClass(t *testing.T, what string, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s = %v, want class %v", what, err, class)
	}
}

// blob returns n bytes that depend on seed.
func blob(seed string, n int) []byte {
	return bytes.Repeat([]byte(seed+"\n"), n/(len(seed)+1)+1)[:n]
}

func (s *suite) writer(t *testing.T, ref string, d ocispec.Descriptor) content.Writer {
	t.Helper()
	w, err := s.OpenWriter(s.ctx, content.WriterOptions{Ref: ref, Descriptor: d})
	must(t, err)
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func (s *suite) put(t *testing.T, ref string, data []byte, labels map[string]string) digest.Digest {
	t.Helper()
	w := s.writer(t, ref, ocispec.Descriptor{})
	_, err := w.Write(data)
	must(t, err)
	must(t, w.Commit(s.ctx, int64(len(data)), digest.FromBytes(data), labels))
	return digest.FromBytes(data)
}

func (s *suite) want(t *testing.T, dgst digest.Digest, data []byte) {
	t.Helper()
	r, err := s.OpenReader(s.ctx, dgst)
	must(t, err)
	defer func() { _ = r.Close() }()
	got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("content %s has %d bytes, %v; want %d", dgst, len(got), err, len(data))
	}
}

func commit(t *testing.T, s *suite) {
	data := blob("commit", 300_000)
	dgst := s.put(t, "ref", data, map[string]string{"k": "v"})
	s.want(t, dgst, data)
	info, err := s.Info(s.ctx, dgst)
	must(t, err)
	if info.Digest != dgst || info.Size != int64(len(data)) || info.Labels["k"] != "v" || info.CreatedAt.IsZero() {
		t.Errorf("Info = %+v", info)
	}
	_, err = s.Status(s.ctx, "ref")
	wantClass(t, "Status after Commit", err, errdefs.ErrNotFound)
	empty := s.put(t, "empty", nil, nil)
	s.want(t, empty, nil)
	must(t, s.Delete(s.ctx, dgst))
	_, err = s.Info(s.ctx, dgst)
	wantClass(t, "Info after Delete", err, errdefs.ErrNotFound)
	_, err = s.OpenReader(s.ctx, dgst)
	wantClass(t, "OpenReader after Delete", err, errdefs.ErrNotFound)
	wantClass(t, "second Delete", s.Delete(s.ctx, dgst), errdefs.ErrNotFound)
	_, err = s.Info(context.Background(), dgst)
	wantClass(t, "Info without a namespace", err, errdefs.ErrFailedPrecondition)
}

func resume(t *testing.T, s *suite) {
	data := blob("resume", 1_000_000)
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	w := s.writer(t, "ref", desc)
	_, err := w.Write(data[:100_000])
	must(t, err)
	must(t, w.Close())
	w = s.writer(t, "ref", desc)
	st, err := w.Status()
	must(t, err)
	if st.Offset != 100_000 || st.Total != desc.Size || w.Digest() != digest.FromBytes(data[:100_000]) {
		t.Errorf("after a disconnect: %+v, digest %s", st, w.Digest())
	}
	_, err = w.Write(data[100_000:400_000])
	must(t, err)
	// The process dies: the writer is not closed.
	s.Store = s.reopen()
	w = s.writer(t, "ref", desc)
	if st, err = w.Status(); err != nil || st.Offset != 400_000 || st.StartedAt.IsZero() {
		t.Errorf("after a restart: %+v, %v", st, err)
	}
	_, err = w.Write(data[400_000:])
	must(t, err)
	must(t, w.Commit(s.ctx, desc.Size, desc.Digest, nil))
	s.want(t, desc.Digest, data)
	s.Store = s.reopen()
	s.want(t, desc.Digest, data)
}

func locked(t *testing.T, s *suite) {
	w := s.writer(t, "ref", ocispec.Descriptor{})
	_, err := s.OpenWriter(s.ctx, content.WriterOptions{Ref: "ref"})
	wantClass(t, "second writer", err, errdefs.ErrUnavailable)
	other, err := s.OpenWriter(namespaces.With(s.ctx, "other"), content.WriterOptions{Ref: "ref"})
	must(t, err)
	must(t, other.Close())
	must(t, w.Close())
	must(t, s.writer(t, "ref", ocispec.Descriptor{}).Close())
	_, err = s.OpenWriter(s.ctx, content.WriterOptions{})
	wantClass(t, "writer without ref", err, errdefs.ErrInvalidArgument)
}

func mismatch(t *testing.T, s *suite) {
	data := blob("mismatch", 1000)
	for name, commit := range map[string]func(w content.Writer) error{
		"size":   func(w content.Writer) error { return w.Commit(s.ctx, 999, "", nil) },
		"digest": func(w content.Writer) error { return w.Commit(s.ctx, 0, digest.FromString("other"), nil) },
	} {
		w := s.writer(t, name, ocispec.Descriptor{})
		_, err := w.Write(data)
		must(t, err)
		wantClass(t, "Commit with wrong "+name, commit(w), errdefs.ErrFailedPrecondition)
		_, err = s.Status(s.ctx, name)
		wantClass(t, "Status after wrong "+name, err, errdefs.ErrNotFound)
		_, err = w.Write(data)
		wantClass(t, "Write after wrong "+name, err, errdefs.ErrFailedPrecondition)
		must(t, s.writer(t, name, ocispec.Descriptor{}).Close())
	}
	_, err := s.Info(s.ctx, digest.FromBytes(data))
	wantClass(t, "Info", err, errdefs.ErrNotFound)
}

func exists(t *testing.T, s *suite) {
	data := blob("exists", 1000)
	dgst := s.put(t, "first", data, map[string]string{"k": "first"})
	_, err := s.OpenWriter(s.ctx, content.WriterOptions{Ref: "second", Descriptor: ocispec.Descriptor{Digest: dgst}})
	wantClass(t, "OpenWriter", err, errdefs.ErrAlreadyExists)
	w := s.writer(t, "third", ocispec.Descriptor{})
	_, err = w.Write(data)
	must(t, err)
	wantClass(t, "Commit", w.Commit(s.ctx, 0, "", map[string]string{"k": "third"}), errdefs.ErrAlreadyExists)
	if info, err := s.Info(s.ctx, dgst); err != nil || info.Labels["k"] != "first" {
		t.Errorf("Info = %+v, %v", info, err)
	}
	if list, err := s.ListStatuses(s.ctx); err != nil || len(list) != 0 {
		t.Errorf("ingests left: %v, %v", list, err)
	}
	s.want(t, dgst, data)
}

func tenants(t *testing.T, s *suite) {
	data := blob("tenants", 1000)
	dgst := s.put(t, "ref", data, map[string]string{"k": "v"})
	other := namespaces.With(s.ctx, "other")
	_, err := s.Info(other, dgst)
	wantClass(t, "Info in another namespace", err, errdefs.ErrNotFound)
	_, err = s.OpenReader(other, dgst)
	wantClass(t, "OpenReader in another namespace", err, errdefs.ErrNotFound)
	_, err = s.OpenWriter(other, content.WriterOptions{Ref: "ref", Descriptor: ocispec.Descriptor{Digest: dgst}})
	wantClass(t, "OpenWriter in another namespace", err, errdefs.ErrAlreadyExists)
	info, err := s.Info(other, dgst)
	must(t, err)
	if info.Size != int64(len(data)) || len(info.Labels) != 0 {
		t.Errorf("linked: %+v; labels are not shared", info)
	}
	must(t, s.Delete(s.ctx, dgst))
	s.ctx = other
	s.want(t, dgst, data)
}

func labels(t *testing.T, s *suite) {
	dgst := s.put(t, "ref", blob("labels", 10), map[string]string{"a": "1"})
	for _, tt := range []struct {
		set   map[string]string
		paths []string
		want  map[string]string
	}{
		{map[string]string{"b": "2"}, []string{"labels.b"}, map[string]string{"a": "1", "b": "2"}},
		{map[string]string{"a": ""}, []string{"labels.a"}, map[string]string{"b": "2"}},
		{map[string]string{"c.d/e": "3"}, nil, map[string]string{"c.d/e": "3"}},
	} {
		info, err := s.UpdateLabels(s.ctx, content.Info{Digest: dgst, Labels: tt.set}, tt.paths...)
		must(t, err)
		if fmt.Sprint(info.Labels) != fmt.Sprint(tt.want) {
			t.Errorf("labels %v by %q = %v, want %v", tt.set, tt.paths, info.Labels, tt.want)
		}
	}
	_, err := s.UpdateLabels(s.ctx, content.Info{Digest: dgst}, "size")
	wantClass(t, "Update of the size", err, errdefs.ErrInvalidArgument)
	_, err = s.UpdateLabels(s.ctx, content.Info{Digest: dgst, Labels: map[string]string{"k": strings.Repeat("x", 4096)}})
	wantClass(t, "Update with a long label", err, errdefs.ErrInvalidArgument)
	s.put(t, "ref", blob("labels2", 10), nil)
	var got []digest.Digest
	must(t, s.Walk(s.ctx, func(i content.Info) error { got = append(got, i.Digest); return nil }, `labels."c.d/e"==3`))
	if !slices.Equal(got, []digest.Digest{dgst}) {
		t.Errorf("Walk by label = %v", got)
	}
}

func ingests(t *testing.T, s *suite) {
	for _, ref := range []string{"layer-1", "layer-2", "config"} {
		w := s.writer(t, ref, ocispec.Descriptor{Size: 100})
		_, err := w.Write(blob(ref, 10))
		must(t, err)
		must(t, w.Close())
	}
	list, err := s.ListStatuses(s.ctx, "ref~=^layer-")
	must(t, err)
	if len(list) != 2 || list[0].Offset != 10 || list[0].Total != 100 {
		t.Errorf("ListStatuses = %+v", list)
	}
	must(t, s.Abort(s.ctx, "layer-1"))
	_, err = s.Status(s.ctx, "layer-1")
	wantClass(t, "Status after Abort", err, errdefs.ErrNotFound)
	wantClass(t, "second Abort", s.Abort(s.ctx, "layer-1"), errdefs.ErrNotFound)
	w := s.writer(t, "layer-2", ocispec.Descriptor{})
	must(t, s.Abort(s.ctx, "layer-2"))
	if err := w.Commit(s.ctx, 0, "", nil); err == nil {
		t.Error("an aborted ingest was committed")
	}
}

func truncate(t *testing.T, s *suite) {
	w := s.writer(t, "ref", ocispec.Descriptor{})
	_, err := w.Write(blob("wrong", 1000))
	must(t, err)
	wantClass(t, "Truncate beyond the end", w.Truncate(2000), errdefs.ErrOutOfRange)
	must(t, w.Truncate(0))
	data := blob("right", 200_000)
	_, err = w.Write(data[:150_000])
	must(t, err)
	must(t, w.Truncate(100_000))
	_, err = w.Write(data[100_000:])
	must(t, err)
	must(t, w.Commit(s.ctx, int64(len(data)), digest.FromBytes(data), nil))
	s.want(t, digest.FromBytes(data), data)
}

func paths(t *testing.T, s *suite) {
	for _, d := range []digest.Digest{"", "sha256:../../etc/passwd", "../x:y", "sha256:ABC", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		_, err := s.Info(s.ctx, d)
		wantClass(t, fmt.Sprintf("Info(%q)", d), err, errdefs.ErrInvalidArgument)
		_, err = s.OpenReader(s.ctx, d)
		wantClass(t, fmt.Sprintf("OpenReader(%q)", d), err, errdefs.ErrInvalidArgument)
	}
	w := s.writer(t, "../../../x/\x00", ocispec.Descriptor{})
	must(t, w.Commit(s.ctx, 0, "", nil))
	data := blob("sha512", 1000)
	w = s.writer(t, "sha512", ocispec.Descriptor{Digest: digest.SHA512.FromBytes(data)})
	_, err := w.Write(data)
	must(t, err)
	must(t, w.Commit(s.ctx, 0, "", nil))
	s.want(t, digest.SHA512.FromBytes(data), data)
}

func parallel(t *testing.T, s *suite) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			data := blob(fmt.Sprint("parallel", i/2), 100_000) // each blob twice
			w, err := s.OpenWriter(s.ctx, content.WriterOptions{Ref: fmt.Sprint("ref", i)})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = w.Close() }()
			if _, err := w.Write(data); err != nil {
				t.Error(err)
			}
			if err := w.Commit(s.ctx, int64(len(data)), digest.FromBytes(data), nil); err != nil && !errors.Is(err, errdefs.ErrAlreadyExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	must(t, s.Walk(s.ctx, func(content.Info) error { n++; return nil }))
	if n != 8 {
		t.Errorf("%d blobs, want 8", n)
	}
}
