package cacheformat

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/records"
)

func layerOf(text string) records.Layer {
	return records.Layer{
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(text), Size: int64(len(text))}, DiffID: digest.FromString("plain " + text),
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	base, top, other := layerOf("base"), layerOf("top"), layerOf("other")
	content, plain := digest.FromString("content").String(), digest.FromString("plain").String()
	at := time.Unix(7, 0).UTC()
	w := NewWriter()
	w.Add(&records.Record{Key: content, Created: at}, plain, []records.Layer{base, top})
	w.Add(&records.Record{Key: digest.FromString("second").String(), Created: at}, "", []records.Layer{base, other})
	w.Add(&records.Record{Key: digest.FromString("nothing").String()}, "", nil)
	if n := len(w.Blobs()); n != 3 {
		t.Errorf("%d blobs, want the common layer once", n)
	}
	raw, err := w.JSON()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(MediaType, raw)
	if err != nil {
		t.Fatal(err)
	}
	want := Result{Content: content, Layers: []records.Layer{base, top}, Created: at}
	if len(got) != 3 || !reflect.DeepEqual(got[content], want) || !reflect.DeepEqual(got[plain], want) {
		t.Errorf("read %+v", got)
	}
	image, err := json.Marshal(map[string]any{InlineField: raw})
	if err != nil {
		t.Fatal(err)
	}
	if inline, err := Read(ocispec.MediaTypeImageConfig, image); err != nil || !reflect.DeepEqual(inline, got) {
		t.Errorf("inline: %+v, %v", inline, err)
	}
	if _, err := Read(ocispec.MediaTypeImageConfig, []byte("{}")); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("an image without a cache: %v", err)
	}
}

func TestWhatDoesNotHoldTogetherIsLeftOut(t *testing.T) {
	d := digest.FromString("x").String()
	notes := `"annotations":{"mediaType":"m","diffID":"` + d + `","size":1}`
	for name, raw := range map[string]string{
		"a layer that is not there":        `{"records":[{"digest":"` + d + `","layers":[{"layer":3}]}]}`,
		"no layer":                         `{"records":[{"digest":"` + d + `","layers":[{"layer":-1}]}]}`,
		"layers above each other":          `{"layers":[{"blob":"` + d + `","parent":1,` + notes + `},{"blob":"` + d + `","parent":0,` + notes + `}],"records":[{"digest":"` + d + `","layers":[{"layer":0}]}]}`,
		"a key that is no digest":          `{"layers":[{"blob":"` + d + `","parent":-1,` + notes + `}],"records":[{"digest":"../x","layers":[{"layer":0}]}]}`,
		"a blob that is no digest":         `{"layers":[{"blob":"../x","parent":-1,` + notes + `}],"records":[{"digest":"` + d + `","layers":[{"layer":0}]}]}`,
		"a layer of which we know nothing": `{"layers":[{"blob":"` + d + `","parent":-1}],"records":[{"digest":"` + d + `","layers":[{"layer":0}]}]}`,
		"a link to nowhere":                `{"layers":[{"blob":"` + d + `","parent":-1,` + notes + `}],"records":[{"digest":"` + d + `","layers":[{"layer":0}],"inputs":[[{"selector":"strata.plain","link":9}]]}]}`,
	} {
		if got, err := Read(MediaType, []byte(raw)); err != nil || len(got) > 0 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := Read(MediaType, []byte("{")); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("no JSON: %v", err)
	}
}
