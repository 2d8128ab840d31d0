package build

import (
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// onBases makes two images to build upon, and a request that places files on either.
func (h *house) onBases(files map[string]string) func(base string) Request {
	h.must(Request{Dockerfile: define("FROM scratch\nCOPY <<EOF /one\n1\nEOF\n"), Tags: []string{"docker.io/library/base:1"}})
	h.must(Request{Dockerfile: define("FROM scratch\nCOPY <<EOF /two\n2\nEOF\nCOPY <<EOF /dir/own\n2\nEOF\n"), Tags: []string{"docker.io/library/base:2"}})
	return func(base string) Request {
		return Request{
			Dockerfile: define("FROM base:2 AS maker\nCOPY a /made\nFROM base:" + base + "\nCOPY --link a /dir/\nCOPY --link --from=maker /made /dir/b\nCOPY a /c\n"),
			Context:    tarSource{t: h.t, files: files}, Outputs: []Output{{Type: OutputImage}},
		}
	}
}

func lastLayers(n int, list []ocispec.Descriptor) (out []string) {
	for _, d := range list[len(list)-n:] {
		out = append(out, d.Digest.String())
	}
	return out
}

func TestLinkedLayersAreIndependentOfTheirParent(t *testing.T) {
	h := newHouse(t)
	on := h.onBases(map[string]string{"a": "A"})
	first, w := h.must(on("1"))
	if len(w.ended) != 4 {
		t.Fatalf("made %q", w.ended)
	}
	if !h.rebases(t.Context()) {
		t.Error("our own supervisor does not put snapshots onto parents")
	}
	if got := h.content(on("1")); got["one"] != "1\n" || got["dir/a"] != "A" || got["dir/b"] != "A" {
		t.Errorf("files %v", got)
	}
	second, w := h.must(on("2"))
	slices.Sort(w.cached)
	if want := []string{"COPY --link --from=maker /made /dir/b", "COPY --link a /dir/", "COPY a /made"}; !slices.Equal(w.cached, want) || !slices.Equal(w.ended, []string{"COPY a /c"}) {
		t.Errorf("upon another base cached %q, made %q", w.cached, w.ended)
	}
	if a, b := lastLayers(3, first.Image.Layers), lastLayers(3, second.Image.Layers); !slices.Equal(a[:2], b[:2]) {
		t.Errorf("layers %v, upon another base %v", a, b)
	}
	got := h.content(on("2"))
	if got["two"] != "2\n" || got["dir/own"] != "2\n" || got["dir/a"] != "A" || got["dir/b"] != "A" || got["c"] != "A" {
		t.Errorf("files %v", got)
	}
	if _, w := h.must(on("2")); len(w.ended) > 0 || len(w.cached) != 4 {
		t.Errorf("a build in which nothing changed made %q, cached %q", w.ended, w.cached)
	}
	noCache := on("2")
	noCache.NoCache = true
	if _, w := h.must(noCache); len(w.cached) > 0 || len(w.ended) != 4 {
		t.Errorf("--no-cache made %q, cached %q", w.ended, w.cached)
	}
	changed := on("2")
	changed.Context = tarSource{t: t, files: map[string]string{"a": "B"}}
	if res, w := h.must(changed); len(w.ended) != 4 || slices.Equal(lastLayers(3, res.Image.Layers), lastLayers(3, second.Image.Layers)) {
		t.Errorf("a file was changed, made %q", w.ended)
	}
}

func TestAMistakeInALinkedCopyIsToldAsTheStep(t *testing.T) {
	h := newHouse(t)
	_, w, err := h.try(Request{Dockerfile: define("FROM scratch\nCOPY --link nosuch /x\n"), Context: tarSource{t: t, files: map[string]string{"a": "A"}}})
	if err == nil || len(w.ended) > 0 {
		t.Errorf("error %v, told %q", err, w.ended)
	}
}

// Whose names --chown says, and where --chmod puts files, depends on what is below.
func TestLinkIsFollowedWhereNothingBelowMatters(t *testing.T) {
	h := newHouse(t)
	on := h.onBases(map[string]string{"a": "A"})
	for _, row := range []struct {
		flags  string
		linked bool
	}{
		{"", true},
		{"--chown=1000:1000", true},
		{"--chown=root", true},
		{"--chown=bin", false},
		{"--chmod=600", false},
	} {
		for _, base := range []string{"1", "2"} {
			r := on(base)
			r.Dockerfile = define("FROM base:" + base + "\nCOPY <<EOF /etc/passwd\nbin:x:2:2::/:\nEOF\nCOPY <<EOF /etc/group\nbin:x:2:\nEOF\nCOPY --link " + row.flags + " a /linked\n")
			_, w := h.must(r)
			if base == "2" && slices.ContainsFunc(w.cached, func(s string) bool { return s[len(s)-len("/linked"):] == "/linked" }) != row.linked {
				t.Errorf("--link %s: cached upon another base: %q", row.flags, w.cached)
			}
		}
	}
}

func TestLinkedLayersTravelToOtherBases(t *testing.T) {
	from := newHouse(t)
	r := from.onBases(map[string]string{"a": "A"})("1")
	layout := newMemory()
	r.CacheTo = []CacheOption{{Type: CacheLocal, Blobs: layout, Attrs: map[string]string{"mode": "min"}}}
	registry := startRegistry(t)
	r.CacheTo = append(r.CacheTo, CacheOption{Type: CacheInline})
	r.Outputs = []Output{{Type: OutputImage, Attrs: map[string]string{"name": registry + "/linked:1", "push": "true"}}}
	first, _ := from.must(r)
	inline := newHouse(t)
	r = inline.onBases(map[string]string{"a": "A"})("2")
	r.CacheFrom = []CacheOption{{Type: CacheRegistry, Attrs: map[string]string{"ref": registry + "/linked:1"}}}
	if _, w := inline.must(r); !slices.Equal(w.ended, []string{"COPY a /c"}) {
		t.Errorf("of the image's own cache made %q", w.ended)
	}
	for round := range 2 { // the second takes what the first has passed on
		h := newHouse(t)
		r := h.onBases(map[string]string{"a": "A"})("2")
		next := newMemory()
		r.CacheFrom = []CacheOption{{Type: CacheLocal, Blobs: layout}}
		r.CacheTo = []CacheOption{{Type: CacheLocal, Blobs: next, Attrs: map[string]string{"mode": "min"}}}
		res, w := h.must(r)
		want := []string{"COPY a /c"}
		if round == 1 {
			want = nil // it is upon the same base now
		}
		if !slices.Equal(w.ended, want) {
			t.Errorf("round %d made %q", round, w.ended)
		}
		if a, b := lastLayers(3, first.Image.Layers), lastLayers(3, res.Image.Layers); !slices.Equal(a[:2], b[:2]) {
			t.Errorf("round %d: layers %v, before %v", round, b, a)
		}
		layout = next
	}
}

// A layer of a stage that is no part of an image is not compressed until it is one of an image.
func TestALinkedLayerIsTheSameWhoeverMadeItFirst(t *testing.T) {
	text := strings.Repeat("some text, ", 20000)
	var digests []string
	for _, stagesFirst := range []bool{false, true} {
		h := newHouse(t)
		r := Request{
			Dockerfile: define("FROM scratch AS one\nCOPY --link a /a\nFROM scratch\nCOPY --from=one /a /b\n"), Context: tarSource{t: t, files: map[string]string{"a": text}},
			Args: map[string]string{"SOURCE_DATE_EPOCH": "1700000000"},
		}
		if stagesFirst {
			h.must(r)
		}
		r.Target = "one"
		res, w := h.must(r)
		if cached := len(w.cached) > 0; cached != stagesFirst {
			t.Errorf("after the other stage (%t) cached %q", stagesFirst, w.cached)
		}
		if l := res.Image.Layers[0]; l.MediaType != ocispec.MediaTypeImageLayerGzip || l.Size > int64(len(text)) {
			t.Errorf("layer %+v", l)
		}
		digests = append(digests, res.Target.Digest.String())
	}
	if digests[0] != digests[1] {
		t.Errorf("images %v", digests)
	}
	layout := newMemory()
	newHouse(t).must(Request{
		Dockerfile: define("FROM scratch AS one\nCOPY --link a /a\nFROM scratch\nCOPY --from=one /a /b\n"), Context: tarSource{t: t, files: map[string]string{"a": text}},
		CacheTo: []CacheOption{{Type: CacheLocal, Blobs: layout, Attrs: map[string]string{"mode": "max"}}},
	})
	for d, data := range layout.blobs {
		if len(data) > len(text) {
			t.Errorf("the cache has blob %s of %d bytes, which is not compressed", d, len(data))
		}
	}
}

func TestPruningForgetsLinkedLayers(t *testing.T) {
	h := newHouse(t)
	on := h.onBases(map[string]string{"a": "A"})
	h.must(on("1"))
	if _, err := h.Prune(t.Context(), PruneRequest{All: true}); err != nil {
		t.Fatal(err)
	}
	if left, err := h.DiskUsage(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left %+v, %v", left, err)
	}
	if _, w := h.must(on("1")); len(w.ended) != 4 {
		t.Errorf("made %q, cached %q", w.ended, w.cached)
	}
}
