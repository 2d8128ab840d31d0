package stdio

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// grace is how long a stream is read after its process has ended, for the sake of
// children that still hold it. Docker waits as long.
const grace = 2 * time.Second

const bufferSize = 32 << 10

// buffers are shared by all pumps of the process; a pump holds one only while there are
// bytes.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// source is a pipe or terminal to read from, without a buffer while there is nothing.
type source struct {
	f  *os.File
	rc syscall.RawConn
}

func newSource(f *os.File) (source, error) {
	rc, err := f.SyscallConn()
	return source{f: f, rc: rc}, err
}

// wait says whether read waits for bytes.
type wait bool

// next reads what is there into a buffer from the pool and hands it to fn. It returns
// io.EOF at the end, and errNothing if there is nothing and w is false.
func (s source) next(w wait, fn func([]byte) error) error {
	var buf *[bufferSize]byte
	var n int
	var readErr error
	err := s.rc.Read(func(fd uintptr) bool {
		buf = buffers.Get().(*[bufferSize]byte)
		for {
			n, readErr = syscall.Read(int(fd), buf[:])
			if !errors.Is(readErr, syscall.EINTR) {
				break
			}
		}
		if errors.Is(readErr, syscall.EAGAIN) {
			buffers.Put(buf)
			buf = nil
			return !bool(w)
		}
		return true
	})
	if buf != nil {
		defer buffers.Put(buf)
	}
	switch {
	case err != nil:
		return err
	case errors.Is(readErr, syscall.EAGAIN):
		return errNothing
	case errors.Is(readErr, syscall.EIO), readErr == nil && n <= 0: // EIO: the last slave of a terminal was closed
		return io.EOF
	case readErr != nil:
		return os.NewSyscallError("read", readErr)
	}
	return fn(buf[:n])
}

var errNothing = errors.New("nothing to read now")

// pump moves bytes from the process to a sink.
type pump struct {
	src  source
	sink sink

	drained chan struct{} // closed when the process has ended and its bytes are moved
	done    chan struct{} // closed when the pump has ended
}

func newPump(f *os.File, s sink) (*pump, error) {
	src, err := newSource(f)
	if err != nil {
		return nil, err
	}
	return &pump{src: src, sink: s, drained: make(chan struct{}), done: make(chan struct{})}, nil
}

// run moves bytes until the end of the stream or, after [pump.ended], until the grace is
// over. It closes the stream and the sink, as a client waits for its end.
func (p *pump) run() {
	defer close(p.done)
	defer p.sink.close()
	defer p.src.f.Close()
	err := p.move(true)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = p.src.f.SetReadDeadline(time.Time{})
		err = p.move(false)
	}
	p.sink.idle()
	close(p.drained)
	if errors.Is(err, errNothing) {
		_ = p.src.f.SetReadDeadline(time.Now().Add(grace))
		_ = p.move(true)
		p.sink.idle()
	}
}

func (p *pump) move(w wait) error {
	for {
		if err := p.src.next(w, p.sink.write); err != nil {
			return err
		}
	}
}

// ended tells the pump that its process has ended; p.drained follows soon.
func (p *pump) ended() {
	_ = p.src.f.SetReadDeadline(past) // wakes a waiting read, see run
}
