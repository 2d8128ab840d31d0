package httpapi

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// Media types of hijacked streams.
const (
	mediaRaw         = "application/vnd.docker.raw-stream"
	mediaMultiplexed = "application/vnd.docker.multiplexed-stream"
)

// hijacked is a client's connection after the HTTP exchange: raw in both directions.
type hijacked struct {
	net.Conn
	r *bufio.Reader // holds what the client sent early
}

// Read implements io.Reader.
func (h *hijacked) Read(p []byte) (int, error) { return h.r.Read(p) }

// WriteTo lets io.Copy take the shortest way once nothing is buffered.
func (h *hijacked) WriteTo(w io.Writer) (int64, error) {
	var n int64
	if b := h.r.Buffered(); b > 0 {
		early, err := h.r.Peek(b)
		if err != nil {
			return 0, err
		}
		m, err := w.Write(early)
		if err != nil {
			return int64(m), err
		}
		n = int64(m)
	}
	m, err := io.Copy(w, h.Conn)
	return n + m, err
}

// CloseWrite ends the output, so that the client reads to the end.
func (h *hijacked) CloseWrite() error {
	if half, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// upgrade takes the connection over for another protocol, which the client must have asked
// for. The caller closes it.
func upgrade(w http.ResponseWriter, r *request, protocol string) (*hijacked, error) {
	if got := r.Header.Get("Upgrade"); got != protocol {
		return nil, fmt.Errorf("upgrade to %q: want %q: %w", got, protocol, errdefs.ErrInvalidArgument)
	}
	if tw, ok := w.(*trackingWriter); ok {
		tw.began = true
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the connection: %w", err)
	}
	_ = conn.SetDeadline(time.Time{}) // never fails on an open connection
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n"); err != nil {
		_ = conn.Close() // the first error says more
		return nil, fmt.Errorf("answer before the stream: %w", err)
	}
	return &hijacked{conn, buf.Reader}, nil
}

// hijack takes the connection over and answers with 101, or with 200 for clients that do
// not ask for an upgrade. The caller closes it.
func hijack(w http.ResponseWriter, r *request, tty bool) (*hijacked, error) {
	if tw, ok := w.(*trackingWriter); ok {
		tw.began = true
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the connection: %w", err)
	}
	_ = conn.SetDeadline(time.Time{}) // never fails on an open connection
	media := mediaRaw
	if !tty && r.AtLeast("1.42") {
		media = mediaMultiplexed
	}
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + media + "\r\n\r\n"
	if r.Header.Get("Upgrade") != "" {
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + media + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	}
	if _, err := io.WriteString(conn, head); err != nil {
		_ = conn.Close() // the first error says more
		return nil, fmt.Errorf("answer before the stream: %w", err)
	}
	return &hijacked{conn, buf.Reader}, nil
}

// defaultDetachKeys are ctrl-p, ctrl-q.
var defaultDetachKeys = []byte{16, 17}

// detachKeys reads "ctrl-p,ctrl-q", "ctrl-a,d", "x"; "" is the default.
func detachKeys(s string) ([]byte, error) {
	if s == "" {
		return defaultDetachKeys, nil
	}
	var out []byte
	for key := range strings.SplitSeq(s, ",") {
		if letter, ok := strings.CutPrefix(key, "ctrl-"); ok && len(letter) == 1 {
			switch c := letter[0]; {
			case c >= 'a' && c <= 'z':
				out = append(out, c-'a'+1)
				continue
			case c == '@':
				out = append(out, 0)
				continue
			case c >= '[' && c <= '_':
				out = append(out, c-'['+27)
				continue
			}
		}
		if utf8.RuneCountInString(key) != 1 {
			return nil, fmt.Errorf("invalid detach keys (%s): unknown character: '%s': %w", s, key, errdefs.ErrInvalidArgument)
		}
		out = append(out, key...)
	}
	return out, nil
}
