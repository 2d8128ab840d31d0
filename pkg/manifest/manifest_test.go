package manifest

import (
	"bytes"
	"errors"
	"maps"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const zero = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

func TestParse(t *testing.T) {
	config := `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + zero + `","size":2}`
	for _, tt := range []struct {
		name, announced, raw, want string // want is the media type, or "" for a refusal
	}{
		{"oci manifest without media type", "", `{"schemaVersion":2,` + config + `,"layers":[]}`, ocispec.MediaTypeImageManifest},
		{"announced docker manifest", DockerManifest, `{` + config + `}`, DockerManifest},
		{"announcement with parameters", DockerManifest + "; charset=utf-8", `{` + config + `}`, DockerManifest},
		{"index", "", `{"manifests":[]}`, ocispec.MediaTypeImageIndex},
		{"both index and manifest", "", `{"manifests":[],"layers":[],` + config + `}`, ""},
		{"index announced, manifest sent", ocispec.MediaTypeImageIndex, `{"mediaType":"` + DockerManifest + `",` + config + `}`, ""},
		{"manifest type, index content", DockerManifest, `{"manifests":[]}`, ""},
		{"schema 1 by media type", schema1Signed, `{}`, ""},
		{"schema 1 by version", "", `{"schemaVersion":1,"fsLayers":[]}`, ""},
		{"no config", DockerManifest, `{"layers":[]}`, ""},
		{"bad digest", DockerManifest, `{"config":{"digest":"sha256:../../x","size":1}}`, ""},
		{"negative size", DockerManifest, `{"config":{"digest":"` + zero + `","size":-1}}`, ""},
		{"html", "text/html", `<html>`, ""},
		{"other json", "", `{"errors":[]}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Parse(tt.announced, []byte(tt.raw))
			if d.MediaType != tt.want || (err != nil) != (tt.want == "") {
				t.Fatalf("Parse(%q, %s) = %q, %v; want %q", tt.announced, tt.raw, d.MediaType, err, tt.want)
			}
			if err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("class of %v is not ErrInvalidArgument", err)
			}
		})
	}
	if _, err := Parse("", bytes.Repeat([]byte(" "), MaxSize+1)); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("Parse(too large) = %v", err)
	}
}

func TestGCLabelsAreContainerds(t *testing.T) {
	a, b, c, d := digest.FromString("a"), digest.FromString("b"), digest.FromString("c"), digest.FromString("d")
	got := GCLabels([]ocispec.Descriptor{
		{MediaType: DockerConfig, Digest: a},
		{MediaType: DockerLayerGzip, Digest: b},
		{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: c},
		{MediaType: "application/vnd.in-toto+json", Digest: d},
	})
	want := map[string]string{
		"containerd.io/gc.ref.content.config": a.String(), "containerd.io/gc.ref.content.l.0": b.String(),
		"containerd.io/gc.ref.content.l.1": c.String(), "containerd.io/gc.ref.content.0": d.String(),
	}
	if !maps.Equal(got, want) {
		t.Errorf("GCLabels = %v, want %v", got, want)
	}
}

func TestAddSourceKeepsEachRepositoryOnce(t *testing.T) {
	v := ""
	for _, r := range []string{"library/a", "b", "library/a", "b"} {
		v = AddSource(v, r)
	}
	if v != "library/a,b" {
		t.Errorf("AddSource gives %q", v)
	}
}

func TestChainIDsFollowTheSpec(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	got := ChainIDs([]digest.Digest{a, b})
	if got[0] != a || got[1] != digest.FromString(a.String()+" "+b.String()) {
		t.Errorf("ChainIDs = %v", got)
	}
}

// FuzzManifest holds that what Parse accepts is one thing, with valid descriptors only.
func FuzzManifest(f *testing.F) {
	f.Add("", []byte(`{"schemaVersion":2,"manifests":[{"digest":"`+zero+`","size":3}]}`))
	f.Add(DockerManifest, []byte(`{"config":{"digest":"`+zero+`","size":3},"layers":[{"digest":"`+zero+`","size":9223372036854775807}]}`))
	f.Fuzz(func(t *testing.T, announced string, raw []byte) {
		d, err := Parse(announced, raw)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		if len(d.Manifests) > 0 && (len(d.Layers) > 0 || d.Config.Digest != "") {
			t.Fatalf("%+v is both index and manifest", d)
		}
		for _, c := range d.Children() {
			if Validate(c) != nil {
				t.Fatalf("accepted descriptor %+v", c)
			}
		}
		GCLabels(d.Children())
	})
}

func TestSelectTakesTheBestOfEachPlatform(t *testing.T) {
	entry := func(name, os, arch, variant string) ocispec.Descriptor {
		return ocispec.Descriptor{
			MediaType: DockerManifest, Digest: digest.FromString(name),
			Platform: &ocispec.Platform{OS: os, Architecture: arch, Variant: variant},
		}
	}
	arm6, arm7, amd64 := entry("arm6", "linux", "arm", "v6"), entry("arm7", "linux", "arm", "v7"), entry("amd64", "linux", "amd64", "")
	attestation := entry("att", "linux", "amd64", "")
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	bare := ocispec.Descriptor{MediaType: DockerManifest, Digest: digest.FromString("bare")}
	all := []ocispec.Descriptor{bare, attestation, arm6, arm7, amd64}
	for _, tt := range []struct {
		name   string
		wanted []ocispec.Platform
		want   []digest.Digest
	}{
		{"newest variant that runs", []ocispec.Platform{{OS: "linux", Architecture: "arm", Variant: "v7"}}, []digest.Digest{arm7.Digest}},
		{"attestations are no images", []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}, []digest.Digest{amd64.Digest}},
		{"an entry without platform is the last resort", []ocispec.Platform{{OS: "linux", Architecture: "s390x"}}, []digest.Digest{bare.Digest}},
	} {
		got := Select(all, tt.wanted)
		if len(got) != len(tt.want) || got[0].Digest != tt.want[0] {
			t.Errorf("%s: Select = %v", tt.name, got)
		}
	}
	if len(Select(all, nil)) != len(all) {
		t.Error("no wanted platform is not every entry")
	}
}
