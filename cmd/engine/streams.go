package main

import (
	"context"
	"errors"
	"io"
	"sync"

	"strata/pkg/client"
	"strata/pkg/stdcopy"
	"strata/pkg/term"
)

// streams connects our standard streams with those of a container or an exec. A nil *streams is
// connected to nothing.
type streams struct {
	s      *session
	conn   *client.Stream
	tty    bool
	stdin  bool
	keys   []byte // detach sequence; used with a terminal only
	output chan error
	input  chan error

	closeOnce sync.Once
	restore   func() error // puts our terminal back
}

// attachStreams connects to a container.
func (s *session) attachStreams(ctx context.Context, api *client.Client, id string, tty bool, opts client.AttachContainer) (*streams, error) {
	conn, err := api.ContainerAttach(ctx, id, opts)
	if err != nil {
		return nil, err
	}
	return s.newStreams(conn, tty, opts.Stdin, opts.DetachKeys)
}

func (s *session) newStreams(conn *client.Stream, tty, stdin bool, keys string) (*streams, error) {
	if keys == "" {
		keys = term.DefaultDetachKeys
	}
	seq, err := term.ParseKeys(keys)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &streams{
		s: s, conn: conn, tty: tty, stdin: stdin, keys: seq,
		output:  make(chan error, 1), // one result, whoever is still there to read it
		input:   make(chan error, 1),
		restore: func() error { return nil },
	}, nil
}

// begin starts the copying. The goroutine that reads stdin cannot be interrupted and ends
// with the process; that of the output ends with the connection.
func (st *streams) begin(ctx context.Context) {
	if st == nil {
		return
	}
	if st.tty && st.stdin && term.IsTerminal(st.s.stdin) {
		restore, err := term.MakeRaw(st.s.stdin)
		if err != nil {
			st.s.debugf("make terminal raw: %v", err)
		} else {
			st.restore = restore
		}
	}
	go func() { st.output <- st.copyOutput() }()
	if st.stdin {
		go func() { st.input <- st.copyInput() }()
	}
	context.AfterFunc(ctx, st.close)
}

func (st *streams) copyOutput() error {
	var err error
	if st.conn.Multiplexed(st.tty) {
		_, err = stdcopy.Demux(st.s.stdout, st.s.stderr, st.conn)
	} else {
		_, err = io.Copy(st.s.stdout, st.conn)
	}
	return err
}

func (st *streams) copyInput() error {
	var in io.Reader = st.s.stdin
	if st.tty {
		in = term.NewDetachReader(in, st.keys)
	}
	_, err := io.Copy(st.conn, in)
	if errors.Is(err, term.ErrDetached) {
		return err
	}
	return errors.Join(err, st.conn.CloseWrite())
}

// wait returns at the end of the output, or with term.ErrDetached when the user leaves.
func (st *streams) wait(ctx context.Context) error {
	if st == nil {
		return nil
	}
	defer st.close()
	input := st.input
	for {
		select {
		case err := <-st.output:
			return err
		case err := <-input:
			if errors.Is(err, term.ErrDetached) {
				return err
			}
			input = nil // the end of our input is not the end of its output
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// close puts the terminal back and drops the connection.
func (st *streams) close() {
	if st == nil {
		return
	}
	st.closeOnce.Do(func() {
		if err := st.restore(); err != nil {
			st.s.debugf("restore terminal: %v", err)
		}
		_ = st.conn.Close()
	})
}

func (s *session) terminalSize() (height, width uint) {
	f := s.stdoutFile()
	if f == nil {
		return 0, 0
	}
	return term.Size(f)
}

// followSize gives the far terminal our size now and after each change, until the returned function
// is called, which waits for the last call to end.
func (s *session) followSize(ctx context.Context, resize func(ctx context.Context, height, width uint) error) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	set := func() {
		h, w := s.terminalSize()
		if h == 0 && w == 0 {
			return
		}
		if err := resize(ctx, h, w); err != nil {
			s.debugf("resize terminal: %v", err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		set()
		term.OnResize(ctx, set)
	}()
	return func() {
		cancel()
		<-done
	}
}
