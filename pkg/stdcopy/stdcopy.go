package stdcopy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
)

// Stream says what a frame carries.
type Stream byte

// The streams of the wire format.
const (
	Stdin     Stream = 0 // written to stdout by receivers, never sent by ours
	Stdout    Stream = 1
	Stderr    Stream = 2
	SystemErr Stream = 3 // the payload is an error of the sender, not of the process
)

// HeaderSize is the length of a frame's header, in bytes.
const HeaderSize = 8

// maxSystemErr bounds the text of an error frame, in bytes.
const maxSystemErr = 64 << 10

// AppendHeader appends the header of a frame with n bytes of payload.
//
// Preconditions: 0 ≤ n < 4 GiB.
func AppendHeader(dst []byte, s Stream, n int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, byte(s), 0, 0, 0), uint32(n))
}

// Writer writes each Write as one frame of its stream. Several writers of the same
// destination share a lock, so that frames never interleave; see [NewWriters].
type Writer struct {
	mu  *sync.Mutex
	dst io.Writer
	buf *[]byte

	stream Stream
}

// NewWriters returns the two writers of one destination. They are safe for concurrent
// use; each frame reaches dst in one Write.
func NewWriters(dst io.Writer) (stdout, stderr *Writer) {
	mu, buf := new(sync.Mutex), new([]byte)
	return &Writer{mu: mu, dst: dst, buf: buf, stream: Stdout}, &Writer{mu: mu, dst: dst, buf: buf, stream: Stderr}
}

// Write sends p as one frame; an empty p sends nothing. The count is that of p's bytes
// which are known to have been written.
func (w *Writer) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	*w.buf = append(AppendHeader((*w.buf)[:0], w.stream, len(p)), p...)
	n, err := w.dst.Write(*w.buf)
	if err != nil {
		return max(0, n-HeaderSize), fmt.Errorf("write frame: %w", err)
	}
	return len(p), nil
}

// Demux copies frames from src until its end: payloads of stdout (and stdin) to stdout,
// those of stderr to stderr. A nil writer discards. It returns the bytes written.
//
// An end between two frames is a good end; one inside a frame is io.ErrUnexpectedEOF. A
// frame of an unknown stream is an error of class ErrInvalidArgument; a [SystemErr] frame
// is an error with its text.
func Demux(stdout, stderr io.Writer, src io.Reader) (int64, error) {
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	var written int64
	var head [HeaderSize]byte
	for {
		if _, err := io.ReadFull(src, head[:]); errors.Is(err, io.EOF) {
			return written, nil
		} else if err != nil {
			return written, fmt.Errorf("read frame header: %w", err)
		}
		size := int64(binary.BigEndian.Uint32(head[4:]))
		dst := stdout
		switch s := Stream(head[0]); s {
		case Stdin, Stdout:
		case Stderr:
			dst = stderr
		case SystemErr:
			text, err := io.ReadAll(io.LimitReader(src, min(size, maxSystemErr)))
			return written, errors.Join(fmt.Errorf("error from the sender: %s", text), err)
		default:
			return written, fmt.Errorf("frame of stream %d: want 0 to 3: %w", s, errdefs.ErrInvalidArgument)
		}
		n, err := io.CopyN(dst, src, size)
		written += n
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return written, fmt.Errorf("copy frame of %d bytes: %w", size, err)
		}
	}
}
