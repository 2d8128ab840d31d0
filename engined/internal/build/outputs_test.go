package build

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestImagesAreNamedAsTheOutputSays(t *testing.T) {
	h := newHouse(t)
	for _, row := range []struct {
		attrs map[string]string
		want  []string // of the store; @ is what the digest is put after
	}{
		{map[string]string{"name": "a:1,b"}, []string{"docker.io/library/a:1", "docker.io/library/b:latest"}},
		{map[string]string{"name": "c:1", "name-canonical": "true"}, []string{"docker.io/library/c:1", "docker.io/library/c@"}},
		{map[string]string{"name": "d", "push-by-digest": "true"}, []string{"docker.io/library/d@"}},
		{map[string]string{"dangling-name-prefix": "left"}, []string{"left@"}},
		{map[string]string{"name": "e", "dangling-name-prefix": "left"}, []string{"docker.io/library/e:latest", "left@"}},
		{map[string]string{"name": "f", "dangling-name-prefix": "left", "danging-name-empty-only": "true"}, []string{"docker.io/library/f:latest"}},
		{map[string]string{"dangling-name-prefix": "moby-dangling"}, []string{"moby-dangling@"}},
		{map[string]string{}, []string{"moby-dangling@"}},
		{map[string]string{"name": "g", "store": "false"}, nil},
	} {
		before, err := h.sup.Images(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range before {
			if err := h.sup.DeleteImage(t.Context(), img.Name, true); err != nil {
				t.Fatal(err)
			}
		}
		res, _ := h.must(Request{Dockerfile: define("FROM scratch\nCOPY <<EOF /x\nx\nEOF\n"), Outputs: []Output{{Type: OutputImage, Attrs: row.attrs}}})
		after, err := h.sup.Images(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, img := range after {
			got = append(got, strings.Replace(img.Name, res.Target.Digest.String(), "", 1))
		}
		slices.Sort(got)
		if !slices.Equal(got, row.want) {
			t.Errorf("%v: names %q, want %q", row.attrs, got, row.want)
		}
	}
}

func TestLayersAreCompressedAsTheOutputSays(t *testing.T) {
	h := newHouse(t)
	h.must(Request{Dockerfile: define("FROM scratch\nCOPY a /a\n"), Context: tarSource{t: t, files: map[string]string{"a": strings.Repeat("base", 3000)}}, Tags: []string{"docker.io/library/base:1"}})
	sizes := func(attrs map[string]string) [2]int64 {
		res, _ := h.must(Request{
			Dockerfile: define("FROM base:1\nCOPY b /b\n"), Context: tarSource{t: t, files: map[string]string{"b": strings.Repeat("more", 3000)}},
			Outputs: []Output{{Type: OutputImage, Attrs: attrs}},
		})
		return [2]int64{res.Image.Layers[0].Size, res.Image.Layers[1].Size}
	}
	plain := sizes(nil)
	none := sizes(map[string]string{"compression-level": "0"}) // gzip that only packs
	if none[0] != plain[0] || none[1] < 12000 {
		t.Errorf("level 0: %v, by default %v", none, plain)
	}
	all := sizes(map[string]string{"compression": "uncompressed", "force-compression": "true"})
	if all[0] < 12000 || all[1] < 12000 {
		t.Errorf("forced: %v", all)
	}
	if some := sizes(map[string]string{"compression": "uncompressed"}); some[0] != plain[0] || some[1] != all[1] {
		t.Errorf("not forced: %v", some)
	}
}

func TestMistakesInAttributesAreSaid(t *testing.T) {
	for _, row := range []struct{ key, value, want string }{
		{"nmae", "x", `unknown attribute "nmae" (did you mean name?)`},
		{"attestation-prefx", "x", `did you mean attestation-prefix?`},
		{"compression-level", "high", "want a number"},
		{"mode", "move", "want copy or delete"},
		{"annotation-indx.k", "v", `did you mean index?`},
		{"annotation.", "v", "has no key"},
		{"source-date-epoch", "1", "source-date-epoch: not implemented"},
		{"source-date-epoch", "", ""},
		{"something-else-entirely", "1", ""},
		{"prefer-image-digest", "true", ""},
		{"containerimage.config", "{}", ""},
	} {
		r := Request{Outputs: []Output{{Type: OutputImage, Attrs: map[string]string{row.key: row.value}}}}
		_, err := r.outputs()
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s=%s: %v, want %q", row.key, row.value, err, row.want)
		}
	}
	if _, err := (&Request{Outputs: []Output{{Type: "imgae"}}}).outputs(); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `did you mean image?`) {
		t.Errorf("a kind of output: %v", err)
	}
}
