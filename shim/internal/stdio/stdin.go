package stdio

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"strata/pkg/linux/fifo"
)

// input is the shim's end of a process's stdin: a pipe, or a terminal's master. Its
// methods are safe for concurrent use.
type input struct {
	write sync.Mutex // serialises writers; held while a write blocks

	ready  chan struct{} // closed when f is there or never will be
	mu     sync.Mutex
	f      *os.File
	shared bool // f is closed by somebody else
	closed bool
}

func newInput() *input { return &input{ready: make(chan struct{})} }

// attach gives the input its file, which may come later than its first writer: an
// exec's terminal is made when it starts.
func (in *input) attach(f *os.File, shared bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		if !shared {
			_ = f.Close()
		}
		return
	}
	in.f, in.shared = f, shared
	close(in.ready)
}

// Write blocks until the process has room for p. An error says that it will never read
// again.
func (in *input) Write(p []byte) (int, error) {
	in.write.Lock()
	defer in.write.Unlock()
	<-in.ready
	in.mu.Lock()
	f, closed := in.f, in.closed
	in.mu.Unlock()
	if closed {
		return 0, os.ErrClosed
	}
	return f.Write(p)
}

// Close ends stdin for a pipe and detaches from a terminal. A write that blocks is woken
// by it. It may be called often.
func (in *input) Close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return
	}
	in.closed = true
	switch {
	case in.f == nil:
		close(in.ready)
	case !in.shared:
		_ = in.f.Close()
	default:
		_ = in.f.SetWriteDeadline(past)
	}
}

// fifoInput moves bytes from a client's named pipe to a process. As long as the shim
// holds the writing end too, a client that goes away does not end stdin; closeStdin lets
// it go, after which the last client's close does.
type fifoInput struct {
	src source

	mu     sync.Mutex
	writer *os.File
	done   chan struct{}
}

func openFifoInput(path string) (*fifoInput, error) {
	r, err := fifo.OpenRead(path)
	if err != nil {
		return nil, err
	}
	w, err := fifo.OpenWrite(path)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	src, err := newSource(r)
	if err != nil {
		return nil, errors.Join(err, r.Close(), w.Close())
	}
	return &fifoInput{src: src, writer: w, done: make(chan struct{})}, nil
}

// run copies until the end of the pipe or an error of the process's end.
func (fi *fifoInput) run(in *input) {
	defer close(fi.done)
	defer fi.src.f.Close()
	defer in.Close()
	for {
		err := fi.src.next(true, func(p []byte) error {
			_, err := in.Write(p)
			return err
		})
		if err != nil {
			return
		}
	}
}

// closeStdin lets go of the writing end.
func (fi *fifoInput) closeStdin() {
	fi.mu.Lock()
	defer fi.mu.Unlock()
	if fi.writer != nil {
		_ = fi.writer.Close()
		fi.writer = nil
	}
}

// stop ends run.
func (fi *fifoInput) stop() {
	fi.closeStdin()
	_ = fi.src.f.SetReadDeadline(past)
}

// hungUp waits until the peer of a socket is gone altogether, not only its writing half.
func hungUp(rc syscall.RawConn) error {
	return rc.Read(func(fd uintptr) bool { return fifo.HungUp(fd) })
}
