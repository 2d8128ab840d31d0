// Package compression finds out how a stream is compressed and undoes it. Everything runs
// in this process: a decompressor found on disk might be the container's own.
package compression

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Kind is a way to compress.
type Kind string

// The kinds that Detect tells apart. Xz is recognised but cannot be read.
const (
	None  Kind = ""
	Gzip  Kind = "gzip"
	Bzip2 Kind = "bzip2"
	Zstd  Kind = "zstd"
	Xz    Kind = "xz"
)

// maxZstdWindow bounds what a hostile frame can make the decoder allocate, in bytes.
const maxZstdWindow = 128 << 20

var magics = []struct {
	kind  Kind
	bytes []byte
}{
	{Gzip, []byte{0x1f, 0x8b}},
	{Bzip2, []byte("BZh")},
	{Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd}},
	{Xz, []byte{0xfd, '7', 'z', 'X', 'Z', 0}},
}

// Detect returns the kind of a stream by its first bytes; six are enough.
func Detect(head []byte) Kind {
	for _, m := range magics {
		if bytes.HasPrefix(head, m.bytes) {
			return m.kind
		}
	}
	return None
}

// NewReader returns a reader of the uncompressed stream. Close it; r stays open. Errors:
// ErrNotImplemented for xz, ErrInvalidArgument for a broken header.
func NewReader(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(6)
	if err != nil && len(head) == 0 && err != io.EOF {
		return nil, fmt.Errorf("read stream: %w", err)
	}
	switch kind := Detect(head); kind {
	case Gzip:
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("read gzip header: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return zr, nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(br)), nil
	case Zstd:
		zr, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, fmt.Errorf("read zstd header: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return zr.IOReadCloser(), nil
	case Xz:
		return nil, fmt.Errorf("archive compressed with xz; use gzip, bzip2, zstd or none: %w", errdefs.ErrNotImplemented)
	default:
		return io.NopCloser(br), nil
	}
}
