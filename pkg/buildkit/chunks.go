package buildkit

import (
	"bufio"
	"errors"
	"io"

	"strata/pkg/buildkit/sessionpb"
)

// chunkSize is how much of a file one message has, in bytes: gRPC refuses messages beyond
// 4 MiB.
const chunkSize = 1 << 20

// Sender is the sending half of a stream.
type Sender interface {
	Send(m *sessionpb.BytesMessage) error
}

// Receiver is the receiving half of a stream.
type Receiver interface {
	Recv() (*sessionpb.BytesMessage, error)
}

// NewWriter returns a writer of messages, which are as large as allowed. Flush it at the end.
func NewWriter(s Sender) *bufio.Writer { return bufio.NewWriterSize(Chunks(s), chunkSize) }

// Chunks returns a writer that sends each write at once.
func Chunks(s Sender) io.Writer { return chunks{s} }

type chunks struct{ s Sender }

func (c chunks) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		end := min(len(p), n+chunkSize)
		if err := c.s.Send(&sessionpb.BytesMessage{Data: p[n:end]}); err != nil {
			return n, err
		}
		n = end
	}
	return n, nil
}

// NewReader returns what a stream of messages holds.
func NewReader(r Receiver) io.Reader { return &reader{r: r} }

type reader struct {
	r    Receiver
	left []byte
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.left) == 0 {
		m, err := r.r.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.EOF
			}
			return 0, err
		}
		r.left = m.GetData()
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}
