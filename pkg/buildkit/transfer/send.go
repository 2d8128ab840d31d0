package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"golang.org/x/sync/errgroup"

	"strata/pkg/buildkit/sessionpb"
)

// Stream carries packets. Recv and Send may be called side by side.
type Stream interface {
	Send(p *sessionpb.Packet) error
	Recv() (*sessionpb.Packet, error)
}

// Files is what is sent.
type Files interface {
	// Walk calls say with each file, in the order of a walk through sorted directories: a
	// directory before its files, and those before what sorts after the directory.
	Walk(ctx context.Context, say func(*sessionpb.Stat) error) error
	// Open opens a regular file that was said.
	Open(name string) (io.ReadCloser, error)
}

// readers is how many files are read at once.
const readers = 4

// pieceSize is how much of a file one packet has, in bytes.
const pieceSize = 64 << 10

// Send sends files until the receiver has what it wants. sent is told how many bytes of
// content went; nil for nobody.
func Send(ctx context.Context, stream Stream, files Files, sent func(n int)) error {
	s := &sender{stream: stream, files: files, sent: sent, names: map[uint32]string{}, asked: make(chan uint32)}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := s.walk(ctx)
		if err != nil {
			_ = s.send(&sessionpb.Packet{Type: sessionpb.Packet_PACKET_ERR, Data: []byte(err.Error())}) // the other end may have gone
		}
		return err
	})
	for range readers {
		g.Go(func() error {
			buf := make([]byte, pieceSize) // of all files that this reader sends
			for id := range s.asked {
				if err := s.file(ctx, id, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error { return s.receive(ctx) })
	return g.Wait()
}

type sender struct {
	stream Stream
	files  Files
	sent   func(n int)
	asked  chan uint32

	mu    sync.Mutex
	names map[uint32]string // of regular files that nobody has asked for

	sendMu sync.Mutex // of the stream
}

func (s *sender) send(p *sessionpb.Packet) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	return s.stream.Send(p)
}

func (s *sender) walk(ctx context.Context) error {
	id := uint32(0)
	err := s.files.Walk(ctx, func(st *sessionpb.Stat) error {
		if fs.FileMode(st.Mode).IsRegular() {
			s.mu.Lock()
			s.names[id] = st.Path
			s.mu.Unlock()
		}
		id++
		return s.send(&sessionpb.Packet{Type: sessionpb.Packet_PACKET_STAT, Stat: st})
	})
	if err != nil {
		return err
	}
	return s.send(&sessionpb.Packet{Type: sessionpb.Packet_PACKET_STAT})
}

// receive reads what the receiver asks for, until it has all.
func (s *sender) receive(ctx context.Context) error {
	defer close(s.asked)
	for {
		p, err := s.stream.Recv()
		if err != nil {
			return fmt.Errorf("send files: %w", err)
		}
		switch p.Type {
		case sessionpb.Packet_PACKET_ERR:
			return fmt.Errorf("send files: the receiver: %s", p.Data)
		case sessionpb.Packet_PACKET_REQ:
			select {
			case s.asked <- p.ID:
			case <-ctx.Done():
				return ctx.Err()
			}
		case sessionpb.Packet_PACKET_FIN:
			if err := s.send(&sessionpb.Packet{Type: sessionpb.Packet_PACKET_FIN}); err != nil && !errors.Is(err, io.EOF) {
				return err // EOF: the receiver does not wait for an answer
			}
			return nil
		default:
			return fmt.Errorf("send files: the receiver sent a packet of type %d", p.Type)
		}
	}
}

// file sends the content of a file. One that cannot be read any more has none: the receiver
// knows how much to expect.
func (s *sender) file(ctx context.Context, id uint32, buf []byte) error {
	s.mu.Lock()
	name, ok := s.names[id]
	delete(s.names, id)
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("send files: the receiver asked for file %d, which there is not", id)
	}
	f, err := s.files.Open(name)
	if err == nil {
		err = s.content(ctx, id, f, buf)
		_ = f.Close() // only read
		if err != nil {
			return err
		}
	}
	return s.send(&sessionpb.Packet{Type: sessionpb.Packet_PACKET_DATA, ID: id})
}

func (s *sender) content(ctx context.Context, id uint32, f io.Reader, buf []byte) error {
	for ctx.Err() == nil {
		n, err := f.Read(buf)
		if n > 0 {
			if serr := s.send(&sessionpb.Packet{Type: sessionpb.Packet_PACKET_DATA, ID: id, Data: buf[:n]}); serr != nil {
				return serr
			}
			if s.sent != nil {
				s.sent(n)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("send files: %w", err)
		}
	}
	return ctx.Err()
}
