package compression

import (
	"bytes"
	"errors"
	"io"
	"runtime"
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

func TestNewWriterIsUndone(t *testing.T) {
	// More than a block of a goroutine's, and the same whatever the number of them.
	want := bytes.Repeat([]byte("0123456789 abcdef\n"), 3*block/16)
	for _, kind := range []Kind{None, Gzip, Zstd} {
		for _, level := range []int{DefaultLevel, 0, 1, 9} {
			var streams [2][]byte
			for i, cpus := range []int{1, 8} {
				before := runtime.GOMAXPROCS(cpus)
				var b bytes.Buffer
				w, err := NewWriter(&b, kind, level)
				if err != nil {
					t.Fatalf("%s, level %d: %v", kind, level, err)
				}
				_, err = w.Write(want)
				if err := errors.Join(err, w.Close()); err != nil {
					t.Fatalf("%s, level %d: %v", kind, level, err)
				}
				runtime.GOMAXPROCS(before)
				streams[i] = b.Bytes()
			}
			if !bytes.Equal(streams[0], streams[1]) {
				t.Errorf("%s, level %d: 8 CPUs give another stream than one", kind, level)
			}
			r, err := NewReader(bytes.NewReader(streams[0]))
			if err != nil {
				t.Fatalf("%s, level %d: %v", kind, level, err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, level %d: %d bytes, %v; want %d", kind, level, len(got), err, len(want))
			}
		}
	}
	for kind, class := range map[Kind]error{Xz: errdefs.ErrNotImplemented, Bzip2: errdefs.ErrNotImplemented} {
		if _, err := NewWriter(io.Discard, kind, DefaultLevel); !errors.Is(err, class) {
			t.Errorf("%s: %v, want %v", kind, err, class)
		}
	}
	if _, err := NewWriter(io.Discard, Gzip, 10); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("gzip, level 10: %v", err)
	}
}
