package term

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
)

// DefaultDetachKeys is the sequence that leaves a container running: Ctrl-P Ctrl-Q.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// ErrDetached is what a DetachReader returns after the sequence. The words are docker's.
var ErrDetached = errors.New("read escape sequence")

// ParseKeys reads a comma-separated sequence of single characters and ctrl-X, where X is a
// letter or one of @ [ \ ] ^ _. Errors are of class ErrInvalidArgument.
func ParseKeys(s string) ([]byte, error) {
	var keys []byte
	for key := range strings.SplitSeq(s, ",") {
		b, ok := parseKey(key)
		if !ok {
			return nil, fmt.Errorf("detach keys %q: unknown key %q: %w", s, key, errdefs.ErrInvalidArgument)
		}
		keys = append(keys, b)
	}
	return keys, nil
}

func parseKey(key string) (byte, bool) {
	if len(key) == 1 {
		return key[0], true
	}
	name, ok := strings.CutPrefix(strings.ToLower(key), "ctrl-")
	if !ok || len(name) != 1 {
		return 0, false
	}
	c := name[0]
	switch {
	case c >= 'a' && c <= 'z':
		return c - 'a' + 1, true
	case c == '@':
		return 0, true
	case c >= '[' && c <= '_':
		return c - '[' + 27, true
	}
	return 0, false
}

// DetachReader passes input on and looks for the detach sequence in it. Keys that begin a
// sequence are held back until it is clear that they do not.
//
// A DetachReader is for one reader.
type DetachReader struct {
	r    io.Reader
	keys []byte

	matched int    // keys of the sequence seen and held back
	out     []byte // input that is ready to be read
	err     error  // what to return when out is empty
}

// NewDetachReader watches r for keys; with no keys it only passes on.
func NewDetachReader(r io.Reader, keys []byte) *DetachReader {
	return &DetachReader{r: r, keys: keys}
}

// Read implements io.Reader; it returns ErrDetached after the sequence.
func (d *DetachReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	buf := make([]byte, len(p))
	for len(d.out) == 0 && d.err == nil {
		n, err := d.r.Read(buf)
		d.scan(buf[:n])
		if err != nil && d.err == nil {
			d.flushHeld()
			d.err = err
		}
	}
	if len(d.out) > 0 {
		n := copy(p, d.out)
		d.out = d.out[n:]
		return n, nil
	}
	return 0, d.err
}

func (d *DetachReader) scan(b []byte) {
	for _, c := range b {
		if len(d.keys) == 0 {
			d.out = append(d.out, c)
			continue
		}
		if c != d.keys[d.matched] {
			d.flushHeld()
			if c != d.keys[0] {
				d.out = append(d.out, c)
				continue
			}
		}
		if d.matched++; d.matched == len(d.keys) {
			d.err = ErrDetached
			return
		}
	}
}

// flushHeld gives back keys that turned out not to begin the sequence.
func (d *DetachReader) flushHeld() {
	d.out = append(d.out, d.keys[:d.matched]...)
	d.matched = 0
}
