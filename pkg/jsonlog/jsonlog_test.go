package jsonlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestLineIsDockersFormat(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.FixedZone("", 3600))
	got := string(Append(nil, at, "stdout", []byte("a<b>\x1b[0m \"q\"\n"), NewAttrs(map[string]string{"k": "v"})))
	want := `{"log":"a\u003cb\u003e\u001b[0m \"q\"\n","stream":"stdout","attrs":{"k":"v"},"time":"2026-01-02T02:04:05.0000006Z"}` + "\n"
	if got != want {
		t.Errorf("Append = %s, want %s", got, want)
	}
}

func TestDecodeRefusesTornLines(t *testing.T) {
	whole := string(Append(nil, time.Unix(1, 0), "stderr", []byte("x\n"), Attrs{}))
	for _, line := range []string{"", "{}", whole[:len(whole)/2], strings.Replace(whole, "stderr", "stdfoo", 1), whole[5:], "\x00\x00\x00"} {
		if r, err := Decode([]byte(line)); !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("Decode(%q) = %+v, %v; want class ErrDataLoss", line, r, err)
		}
	}
}

// FuzzRecord checks the hand-written encoder against encoding/json and the decoder.
func FuzzRecord(f *testing.F) {
	f.Add([]byte("plain\n"))
	f.Add([]byte("\xff\xfe\u2028\x00\x7f<&>\\\"\r"))
	f.Fuzz(func(t *testing.T, text []byte) {
		at := time.Unix(1700000000, 123).UTC()
		line := Append(nil, at, "stdout", text, Attrs{})
		if !json.Valid(line) || bytes.Count(line, []byte("\n")) != 1 {
			t.Fatalf("Append(%q) = %q: not one line of JSON", text, line)
		}
		r, err := Decode(line)
		if err != nil {
			t.Fatal(err)
		}
		want := Record{Time: at, Stream: "stdout", Text: bytes.ToValidUTF8(text, nil)}
		if got := bytes.ReplaceAll(r.Text, []byte("\ufffd"), nil); !bytes.Equal(got, bytes.ReplaceAll(want.Text, []byte("\ufffd"), nil)) {
			t.Fatalf("text = %q, want %q", got, want.Text)
		}
		if !r.Time.Equal(at) || r.Stream != want.Stream || !reflect.DeepEqual(r.Attrs, want.Attrs) {
			t.Fatalf("Decode = %+v", r)
		}
	})
}
