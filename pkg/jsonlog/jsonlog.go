package jsonlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// MaxText is the most bytes of text in one record: longer lines are split into partial
// records (Docker's loggers split at the same size).
const MaxText = 16 << 10

// MaxRecord bounds the encoded length of a record that the writer makes, in bytes:
// every byte of text may take six, and attributes come on top. A longer line in a file
// is corrupt.
const MaxRecord = 6*MaxText + 64<<10

// Record is one line of a log file.
type Record struct {
	Time   time.Time
	Stream string // stdout or stderr
	Text   []byte // with its newline, unless partial
	Attrs  map[string]string
}

// Partial reports whether the line goes on in the next record of the stream.
func (r *Record) Partial() bool { return !bytes.HasSuffix(r.Text, []byte("\n")) }

// Attrs is a set of attributes, encoded once for all records. The zero value is none.
type Attrs struct{ encoded []byte }

// NewAttrs encodes the attributes of a log.
func NewAttrs(attrs map[string]string) Attrs {
	if len(attrs) == 0 {
		return Attrs{}
	}
	data, err := json.Marshal(attrs)
	if err != nil {
		panic("internal error: encode a map of strings: " + err.Error())
	}
	return Attrs{encoded: data}
}

// Append appends one encoded record, newline included.
func Append(dst []byte, at time.Time, stream string, text []byte, attrs Attrs) []byte {
	dst = append(dst, `{"log":`...)
	dst = appendString(dst, text)
	dst = append(dst, `,"stream":"`...)
	dst = append(dst, stream...)
	dst = append(dst, '"')
	if attrs.encoded != nil {
		dst = append(dst, `,"attrs":`...)
		dst = append(dst, attrs.encoded...)
	}
	dst = append(dst, `,"time":"`...)
	dst = at.UTC().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, '"', '}', '\n')
}

// appendString appends s as a JSON string, as encoding/json writes it with HTML escapes.
func appendString(dst, s []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(s[i:])
			if bad := r == utf8.RuneError && size == 1; bad || r == '\u2028' || r == '\u2029' {
				dst = append(dst, s[start:i]...)
				if bad {
					dst = append(dst, `\ufffd`...)
				} else {
					dst = append(dst, `\u202`...)
					dst = append(dst, hex[r&0xf])
				}
				start = i + size
			}
			i += size
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' && c != 0x7f {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
		}
		i++
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// Decode reads one line, with or without its newline. The error is of class ErrDataLoss:
// the line is torn or not a record.
func Decode(line []byte) (Record, error) {
	var wire struct {
		Log    *string           `json:"log"`
		Stream string            `json:"stream"`
		Attrs  map[string]string `json:"attrs"`
		Time   time.Time         `json:"time"`
	}
	if err := json.Unmarshal(line, &wire); err != nil {
		return Record{}, fmt.Errorf("decode log record: %w: %w", err, errdefs.ErrDataLoss)
	}
	if wire.Log == nil || wire.Time.IsZero() || wire.Stream != "stdout" && wire.Stream != "stderr" {
		return Record{}, fmt.Errorf("log record lacks log, stream or time: %w", errdefs.ErrDataLoss)
	}
	return Record{Time: wire.Time, Stream: wire.Stream, Text: []byte(*wire.Log), Attrs: wire.Attrs}, nil
}

// Rotated returns the name of the n-th older file of path, plain and compressed. At most
// one of them exists, except for a moment while one is compressed: then the plain one is
// whole.
func Rotated(path string, n int) (plain, compressed string) {
	plain = path + "." + strconv.Itoa(n)
	return plain, plain + ".gz"
}
