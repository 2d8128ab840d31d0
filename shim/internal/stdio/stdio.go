package stdio

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/console"
	"strata/pkg/linux/fifo"
	"strata/pkg/shimio"
	"strata/pkg/stdcopy"
	"strata/shim/internal/reaper"
)

// Config says where the streams of a process go, in the words of the task API.
type Config struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
	// UID and GID own the container's ends of the pipes.
	UID, GID int
	// ContainerID and Namespace are told to loggers.
	ContainerID, Namespace string
	// ConsoleDir is a short directory for the console socket.
	ConsoleDir string
	Reaper     *reaper.Reaper
}

// consoleTimeout bounds how long the master of a terminal may take to arrive after the
// runtime has ended.
const consoleTimeout = 10 * time.Second

// IO are the streams of one process. It is made by [Open]; then come Started, Ended and
// Close, in this order, of which the first two may be left out.
type IO struct {
	cfg    Config
	child  [3]int // the container's ends; -1: none
	in     *input
	hub    *Hub            // strata:// only
	stdin  *fifoInput      // a client's pipe
	socket *console.Socket // with a terminal, until Started
	logger *logger         // binary:// only
	sinks  [3]sink         // of stdout and stderr
	wg     sync.WaitGroup  // pumps and the stdin copy

	mu      sync.Mutex
	pumps   []*pump
	started bool     // the pumps run
	master  *os.File // with a terminal, from Started on
}

// sink is where a pump's bytes go.
type sink struct {
	write func([]byte) error
	idle  func() // all that the ended process wrote was given to write
	close func() // the pump has ended; may be called again, to wake a write that blocks
}

// Open makes the container's ends and opens where the bytes go. After an error nothing
// stays.
//
// Errors are of class ErrInvalidArgument for a URI that cannot be understood, and
// ErrNotFound for a named pipe that is not there.
func Open(ctx context.Context, cfg Config) (o *IO, err error) {
	o = &IO{cfg: cfg, child: [3]int{-1, -1, -1}, in: newInput()}
	defer func() {
		if err != nil {
			o.Close(ctx)
		}
	}()
	if cfg.Terminal {
		if o.socket, err = console.NewSocket(cfg.ConsoleDir); err != nil {
			return nil, err
		}
	}
	if err := o.openOutputs(ctx); err != nil {
		return nil, err
	}
	if err := o.openStdin(); err != nil {
		return nil, err
	}
	return o, o.fillWithNull()
}

// openOutputs opens what is behind stdout and stderr.
func (o *IO) openOutputs(ctx context.Context) error {
	u, err := url.Parse(o.cfg.Stdout)
	if err != nil {
		return fmt.Errorf("stdout %q: %w: %w", o.cfg.Stdout, err, errdefs.ErrInvalidArgument)
	}
	switch u.Scheme {
	case shimio.Scheme:
		return o.openHub(ctx)
	case "binary", "binary-v2":
		return o.openLogger(u)
	case "file":
		return o.openFile(u.Path)
	case "", "fifo":
	default:
		return fmt.Errorf("stdout %q: scheme %q is unknown: %w", o.cfg.Stdout, u.Scheme, errdefs.ErrInvalidArgument)
	}
	if err := o.openFifo(stdcopy.Stdout, o.cfg.Stdout); err != nil {
		return err
	}
	if o.cfg.Terminal {
		return nil
	}
	return o.openFifo(stdcopy.Stderr, o.cfg.Stderr)
}

func (o *IO) openHub(ctx context.Context) error {
	uri, err := shimio.Parse(o.cfg.Stdout)
	if err != nil {
		return err
	}
	if o.hub, err = OpenHub(uri, o.cfg.Terminal); err != nil {
		return err
	}
	o.in = o.hub.stdin
	o.hub.Serve(ctx)
	for _, stream := range []stdcopy.Stream{stdcopy.Stdout, stdcopy.Stderr} {
		write, idle := o.hub.output(stream)
		o.sinks[stream] = sink{write: write, idle: idle, close: func() {}}
		if err := o.outputPipe(stream); err != nil {
			return err
		}
	}
	if uri.Stdin != shimio.StdinNone {
		return o.stdinPipe()
	}
	return nil
}

func (o *IO) openLogger(u *url.URL) error {
	if !filepath.IsAbs(u.Path) {
		return fmt.Errorf("logger %q: want an absolute path: %w", u.Path, errdefs.ErrInvalidArgument)
	}
	l, stdout, stderr, err := startLogger(u, o.cfg)
	if err != nil {
		return err
	}
	o.logger = l
	if !o.cfg.Terminal {
		o.child[1], o.child[2] = stdout, stderr // the container writes to the logger itself
		return nil
	}
	o.sinks[stdcopy.Stdout] = fileSink(os.NewFile(uintptr(stdout), "logger"))
	return fifo.CloseFD(stderr)
}

// openFile sends both streams to one file. They share its descriptor, so that each
// write is appended whole.
func (o *IO) openFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make directory of output file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open output file: %w", err)
	}
	second, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return errors.Join(os.NewSyscallError("dup", err), f.Close())
	}
	syscall.CloseOnExec(second)
	o.sinks[stdcopy.Stdout] = fileSink(f)
	o.sinks[stdcopy.Stderr] = fileSink(os.NewFile(uintptr(second), path))
	return errors.Join(o.outputPipe(stdcopy.Stdout), o.outputPipe(stdcopy.Stderr))
}

// fileSink writes to f. What f does not take, because a disk is full or a logger has
// died, is lost: the process must not end for it. It ends when f is closed here.
func fileSink(f *os.File) sink {
	return sink{idle: func() {}, close: func() { _ = f.Close() }, write: func(p []byte) error {
		if _, err := f.Write(p); errors.Is(err, os.ErrClosed) {
			return err
		}
		return nil
	}}
}

// openFifo sends a stream to the named pipe of a client; an empty name drops it.
func (o *IO) openFifo(stream stdcopy.Stream, name string) error {
	path, err := fifoPath(name)
	if err != nil || path == "" {
		return err
	}
	// Both ends: a client that goes away must not end the process with SIGPIPE, and
	// another may come.
	f, err := fifo.OpenBoth(path)
	if err != nil {
		return classify(fmt.Errorf("open output: %w", err))
	}
	o.sinks[stream] = fileSink(f)
	return o.outputPipe(stream)
}

func fifoPath(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	path := strings.TrimPrefix(name, "fifo://")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("stream %q: want an absolute path of a named pipe: %w", name, errdefs.ErrInvalidArgument)
	}
	return path, nil
}

func classify(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return err
}

// openStdin opens a client's named pipe; the hub has its own way.
func (o *IO) openStdin() error {
	if o.hub != nil {
		return nil
	}
	path, err := fifoPath(o.cfg.Stdin)
	if err != nil || path == "" {
		return err
	}
	if o.stdin, err = openFifoInput(path); err != nil {
		return classify(fmt.Errorf("open stdin: %w", err))
	}
	return o.stdinPipe()
}

// outputPipe makes the pipe of a stream; a terminal has none.
func (o *IO) outputPipe(stream stdcopy.Stream) error {
	if o.cfg.Terminal {
		return nil
	}
	r, w, err := fifo.Pipe(fifo.Read)
	if err != nil {
		return err
	}
	o.child[stream] = w
	p, err := newPump(r, o.sinks[stream])
	if err != nil {
		return errors.Join(err, r.Close())
	}
	o.pumps = append(o.pumps, p)
	return o.chown(w)
}

func (o *IO) stdinPipe() error {
	if o.cfg.Terminal {
		return nil
	}
	w, r, err := fifo.Pipe(fifo.Write)
	if err != nil {
		return err
	}
	o.child[0] = r
	o.in.attach(w, false)
	return o.chown(r)
}

func (o *IO) chown(fd int) error {
	if o.cfg.UID == 0 && o.cfg.GID == 0 {
		return nil
	}
	return fifo.Chown(fd, o.cfg.UID, o.cfg.GID)
}

// fillWithNull opens /dev/null for the streams that have nothing else.
func (o *IO) fillWithNull() error {
	for i, fd := range o.child {
		if fd >= 0 {
			continue
		}
		null, err := openNull()
		if err != nil {
			return err
		}
		o.child[i] = null
	}
	return nil
}

// Streams returns the descriptors for the runtime. They are valid until Started.
func (o *IO) Streams() [3]uintptr {
	return [3]uintptr{uintptr(o.child[0]), uintptr(o.child[1]), uintptr(o.child[2])}
}

// ConsoleSocket returns the value of --console-socket, or "" without a terminal.
func (o *IO) ConsoleSocket() string {
	if o.socket == nil {
		return ""
	}
	return o.socket.Path()
}

// Started is called when the runtime has made the process: it closes the container's
// ends, receives the terminal and lets bytes flow.
func (o *IO) Started() error {
	if o.cfg.Terminal {
		if err := o.receiveConsole(); err != nil {
			return err
		}
	}
	o.closeChildEnds()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.started = true
	for _, p := range o.pumps {
		o.wg.Go(p.run)
	}
	if o.stdin != nil {
		o.wg.Go(func() { o.stdin.run(o.in) })
	}
	return nil
}

func (o *IO) receiveConsole() error {
	master, err := o.socket.Receive(consoleTimeout)
	if err != nil {
		return err
	}
	err = o.socket.Close()
	o.socket = nil
	s := o.sinks[stdcopy.Stdout]
	if s.write == nil { // no output wanted: it is read all the same, or the process would block
		s = sink{write: func([]byte) error { return nil }, idle: func() {}, close: func() {}}
	}
	p, pumpErr := newPump(master, s)
	if err = errors.Join(err, pumpErr); err != nil {
		return errors.Join(err, master.Close())
	}
	o.mu.Lock()
	o.master, o.pumps = master, append(o.pumps, p)
	o.mu.Unlock()
	o.in.attach(master, true)
	return nil
}

func (o *IO) closeChildEnds() {
	for i, fd := range o.child {
		if fd >= 0 {
			_ = fifo.CloseFD(fd)
			o.child[i] = -1
		}
	}
}

// Resize sets the window size. Without a terminal it is of class ErrFailedPrecondition.
func (o *IO) Resize(s console.Size) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.master == nil {
		return fmt.Errorf("resize: process has no terminal: %w", errdefs.ErrFailedPrecondition)
	}
	if err := console.Resize(o.master, s); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// CloseStdin ends stdin when its last client has closed it; without clients, now.
func (o *IO) CloseStdin() {
	switch {
	case o.stdin != nil:
		o.stdin.closeStdin()
	case o.hub != nil && !o.cfg.Terminal:
		o.in.Close()
	}
}

// Ended is called when the process has ended. With a hub it returns when every byte that
// the process wrote is in the log and queued for the clients; the other kinds are read by
// somebody else, whom it does not wait for.
func (o *IO) Ended() {
	o.in.Close()
	if o.stdin != nil {
		o.stdin.stop()
	}
	if o.hub != nil {
		o.hub.processEnded()
	}
	pumps := o.running()
	for _, p := range pumps {
		p.ended()
	}
	if o.hub == nil {
		return
	}
	for _, p := range pumps {
		<-p.drained
	}
}

// running returns the pumps that run.
func (o *IO) running() []*pump {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.started {
		return nil
	}
	return o.pumps
}

// Drained waits until the streams have ended, or the grace for children that hold them
// is over, or ctx is done.
func (o *IO) Drained(ctx context.Context) {
	for _, p := range o.running() {
		select {
		case <-p.done:
		case <-ctx.Done():
			return
		}
	}
	if o.hub != nil {
		o.hub.outputEnded()
	}
}

// Unlink removes the attach socket's name, so that its path is free.
func (o *IO) Unlink() error {
	if o.hub == nil {
		return nil
	}
	return o.hub.Unlink()
}

// Close ends everything. It waits for attached clients to take what is queued for them;
// a done ctx abandons them.
func (o *IO) Close(ctx context.Context) {
	o.closeChildEnds()
	if o.socket != nil {
		_ = o.socket.Close()
	}
	o.in.Close()
	if o.stdin != nil {
		o.stdin.stop()
	}
	if o.stdin != nil {
		_ = o.stdin.src.f.Close()
	}
	for _, p := range o.pumps {
		_ = p.src.f.Close()
	}
	for _, s := range o.sinks {
		if s.close != nil {
			s.close() // wakes a pump that waits for a client which does not read
		}
	}
	o.wg.Wait()
	if o.hub != nil {
		_ = o.hub.Close(ctx)
	}
	if o.logger != nil {
		o.logger.stop()
	}
}

// Hub returns the hub, or nil if the streams go elsewhere.
func (o *IO) Hub() *Hub { return o.hub }

// Describe returns the files and sockets that the hub holds.
func (h *Hub) Describe() (socket, logPath string) { return h.uri.Socket, h.uri.LogPath }
