package compression

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func TestNewReaderUndoesWhatItFinds(t *testing.T) {
	const want = "hello, layer"
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	_, _ = io.WriteString(g, want)
	_ = g.Close()
	z, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(z, want)
	_ = z.Close()
	for name, data := range map[string][]byte{"gzip": gz.Bytes(), "zstd": zs.Bytes(), "plain": []byte(want)} {
		r, err := NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != want {
			t.Errorf("%s: read %q, %v; want %q", name, got, err, want)
		}
		if err := r.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
}

func TestNewReaderRefusesWhatItCannotRead(t *testing.T) {
	if _, err := NewReader(bytes.NewReader([]byte("\xfd7zXZ\x00rest"))); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("xz: %v, want class ErrNotImplemented", err)
	}
	if _, err := NewReader(bytes.NewReader([]byte{0x1f, 0x8b, 1})); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("broken gzip: %v, want class ErrInvalidArgument", err)
	}
	r, err := NewReader(bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); len(b) != 0 || err != nil {
		t.Errorf("empty stream: %q, %v", b, err)
	}
}
