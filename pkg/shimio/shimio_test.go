package shimio

import (
	"bytes"
	"errors"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

var full = URI{
	Socket: "/run/a b/attach.sock", Stdin: StdinOnce, LogPath: "/var/log/x-json.log", MaxSize: 1 << 20, MaxFile: 3,
	Gzip: true, Buffer: 1 << 19, Attrs: map[string]string{"env": "a&b=c"}, StdinFIFO: "/run/in", Terminal: true,
}

func TestURIRoundTrip(t *testing.T) {
	for _, u := range []URI{full, {Socket: "/s"}} {
		got, err := Parse(u.String())
		if err != nil || !reflect.DeepEqual(got, u) {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", u.String(), got, err, u)
		}
	}
}

// A foreign shim turns the query into arguments, sorted by key.
func TestBinaryRoundTripAsAForeignShimDoesIt(t *testing.T) {
	p, err := url.Parse(full.Binary("/usr/bin/shim"))
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for pair := range strings.SplitSeq(p.RawQuery, "&") {
		k, v, _ := strings.Cut(pair, "=")
		k, _ = url.QueryUnescape(k)
		v, _ = url.QueryUnescape(v)
		args = append(args, k, v)
	}
	if args[0] != "-logger" {
		t.Errorf("first argument = %q, want -logger", args[0])
	}
	got, err := ParseArgs(args)
	if err != nil || !reflect.DeepEqual(got, full) {
		t.Errorf("ParseArgs(%q) = %+v, %v; want %+v", args, got, err, full)
	}
}

func TestParseRefusesNonsense(t *testing.T) {
	for _, s := range []string{"", "file:///x", "strata:relative", "strata:///s?stdin=twice", "strata:///s?max-size=big", "strata:///s?max-file=-1", "strata:///s?buffer=1m"} {
		if u, err := Parse(s); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("Parse(%q) = %+v, %v; want class ErrInvalidArgument", s, u, err)
		}
	}
}

func TestFrameRoundTripReadsNoByteTooMany(t *testing.T) {
	var b bytes.Buffer
	want := Hello{Stdin: true, DetachKeys: []byte{16, 17}}
	if err := WriteFrame(&b, want); err != nil {
		t.Fatal(err)
	}
	b.WriteString("rest")
	var got Hello
	if err := ReadFrame(&b, &got); err != nil || !reflect.DeepEqual(got, want) || b.String() != "rest" {
		t.Errorf("ReadFrame = %+v, %v, rest %q", got, err, b.String())
	}
}

func TestReadFrameRefusesLongFrames(t *testing.T) {
	if err := ReadFrame(strings.NewReader("\xff\xff\xff\xffx"), &Hello{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("ReadFrame = %v, want class ErrInvalidArgument", err)
	}
}
