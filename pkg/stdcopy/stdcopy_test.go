package stdcopy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func Example() {
	var wire bytes.Buffer
	stdout, stderr := NewWriters(&wire)
	fmt.Fprint(stdout, "out")
	fmt.Fprint(stderr, "err")

	var out, errs strings.Builder
	n, err := Demux(&out, &errs, &wire)
	fmt.Println(n, err, out.String(), errs.String())
	// Output: 6 <nil> out err
}

func TestWireFormatIsDockers(t *testing.T) {
	var wire bytes.Buffer
	_, stderr := NewWriters(&wire)
	if _, err := stderr.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	if want := "\x02\x00\x00\x00\x00\x00\x00\x02hi"; wire.String() != want {
		t.Errorf("frame = %q, want %q", wire.String(), want)
	}
}

func TestDemuxEnds(t *testing.T) {
	for _, tc := range []struct {
		name, wire string
		want       error
	}{
		{"between frames", "\x01\x00\x00\x00\x00\x00\x00\x01x", nil},
		{"inside a header", "\x01\x00\x00", io.ErrUnexpectedEOF},
		{"inside a payload", "\x01\x00\x00\x00\x00\x00\x00\x05x", io.ErrUnexpectedEOF},
		{"before a payload", "\x01\x00\x00\x00\x00\x00\x00\x05", io.ErrUnexpectedEOF},
		{"unknown stream", "\x09\x00\x00\x00\x00\x00\x00\x00", errdefs.ErrInvalidArgument},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Demux(nil, nil, strings.NewReader(tc.wire)); !errors.Is(err, tc.want) {
				t.Errorf("Demux(%q) = %v, want %v", tc.wire, err, tc.want)
			}
		})
	}
}

func TestSystemErrFrameIsAnError(t *testing.T) {
	_, err := Demux(nil, nil, strings.NewReader("\x03\x00\x00\x00\x00\x00\x00\x04boom"))
	if err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("Demux = %v, want an error with the frame's text", err)
	}
}

// FuzzStdcopy feeds arbitrary bytes to Demux; what it accepts must come out again as it
// went in when it is framed anew.
func FuzzStdcopy(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x01x\x02\x00\x00\x00\x00\x00\x00\x01y"))
	f.Add([]byte("\x03\x00\x00\x00\xff\xff\xff\xffoops"))
	f.Add([]byte("\x01\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		var out, errs bytes.Buffer
		n, err := Demux(&out, &errs, bytes.NewReader(wire))
		if n != int64(out.Len()+errs.Len()) {
			t.Fatalf("Demux counted %d bytes, wrote %d", n, out.Len()+errs.Len())
		}
		if err != nil {
			return
		}
		var again bytes.Buffer
		stdout, stderr := NewWriters(&again)
		_, _ = stdout.Write(out.Bytes())
		_, _ = stderr.Write(errs.Bytes())
		var out2, errs2 bytes.Buffer
		if _, err := Demux(&out2, &errs2, &again); err != nil || !bytes.Equal(out.Bytes(), out2.Bytes()) || !bytes.Equal(errs.Bytes(), errs2.Bytes()) {
			t.Fatalf("round trip: %v", err)
		}
	})
}
