package shimio

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Scheme is the scheme of a [URI].
const Scheme = "strata"

// StdinMode says what becomes of the process's stdin.
type StdinMode string

// The modes of stdin.
const (
	StdinNone StdinMode = ""     // /dev/null
	StdinOnce StdinMode = "once" // closed when the first client closes it
	StdinKeep StdinMode = "keep" // stays open across clients
)

// URI says where the streams of one process go.
type URI struct {
	Socket  string // attach socket; required, absolute
	Stdin   StdinMode
	LogPath string            // json-file log; empty: no log
	MaxSize int64             // bytes after which the log is rotated; zero: never
	MaxFile int               // files kept, the current one included; zero means one
	Gzip    bool              // compress rotated files
	Buffer  int64             // bytes of log that wait for a slow disk; zero: the process waits
	Attrs   map[string]string // written into each log line as "attrs"
	// StdinFIFO is set only under a foreign shim: where the logger writes stdin.
	StdinFIFO string
	// Terminal is set only under a foreign shim: output is raw, not framed. Our shim
	// knows it from the task.
	Terminal bool
}

// String returns the strata:// form.
func (u URI) String() string {
	return (&url.URL{Scheme: Scheme, Path: u.Socket, RawQuery: u.query().Encode()}).String()
}

// Binary returns the binary:// form for a foreign shim, which runs shimPath with the
// parameters as arguments: "KEY VALUE" pairs in the order of their keys.
func (u URI) Binary(shimPath string) string {
	q := u.query()
	q.Set("attach", u.Socket)
	q.Set("-logger", "1") // sorts first: argv[1] tells the shim what it is
	return (&url.URL{Scheme: "binary", Path: shimPath, RawQuery: q.Encode()}).String()
}

func (u URI) query() url.Values {
	q := url.Values{}
	set := func(k, v string) {
		if v != "" {
			q.Set(k, v)
		}
	}
	set("stdin", string(u.Stdin))
	set("log", u.LogPath)
	set("stdin-fifo", u.StdinFIFO)
	if u.MaxSize > 0 {
		q.Set("max-size", strconv.FormatInt(u.MaxSize, 10))
	}
	if u.MaxFile > 0 {
		q.Set("max-file", strconv.Itoa(u.MaxFile))
	}
	if u.Buffer > 0 {
		q.Set("buffer", strconv.FormatInt(u.Buffer, 10))
	}
	if u.Gzip {
		q.Set("gzip", "1")
	}
	if u.Terminal {
		q.Set("terminal", "1")
	}
	for k, v := range u.Attrs {
		q.Set("attr."+k, v)
	}
	return q
}

// Parse reads the strata:// form. The error is of class ErrInvalidArgument.
func Parse(s string) (URI, error) {
	p, err := url.Parse(s)
	if err != nil || p.Scheme != Scheme {
		return URI{}, fmt.Errorf("stdio URI %q: want %s:///SOCKET?…: %w", s, Scheme, errdefs.ErrInvalidArgument)
	}
	return fromQuery(p.Path, p.Query())
}

// ParseArgs reads the arguments that a foreign shim gives to the logger (see
// [URI.Binary]), without the program's name. The error is of class ErrInvalidArgument.
func ParseArgs(args []string) (URI, error) {
	if len(args)%2 != 0 {
		return URI{}, fmt.Errorf("logger arguments %q: want KEY VALUE pairs: %w", args, errdefs.ErrInvalidArgument)
	}
	q := url.Values{}
	for i := 0; i < len(args); i += 2 {
		q.Set(args[i], args[i+1])
	}
	return fromQuery(q.Get("attach"), q)
}

func fromQuery(socket string, q url.Values) (URI, error) {
	u := URI{
		Socket: socket, Stdin: StdinMode(q.Get("stdin")), LogPath: q.Get("log"),
		StdinFIFO: q.Get("stdin-fifo"), Gzip: q.Get("gzip") != "", Terminal: q.Get("terminal") != "",
	}
	bad := func(what string) (URI, error) {
		return URI{}, fmt.Errorf("stdio URI: %s: %w", what, errdefs.ErrInvalidArgument)
	}
	if !strings.HasPrefix(u.Socket, "/") {
		return bad(fmt.Sprintf("socket path %q must be absolute", u.Socket))
	}
	switch u.Stdin {
	case StdinNone, StdinOnce, StdinKeep:
	default:
		return bad(fmt.Sprintf("stdin mode %q must be once or keep", u.Stdin))
	}
	var err error
	if v := q.Get("max-size"); v != "" {
		if u.MaxSize, err = strconv.ParseInt(v, 10, 64); err != nil || u.MaxSize < 0 {
			return bad(fmt.Sprintf("max-size %q must be a number of bytes", v))
		}
	}
	if v := q.Get("buffer"); v != "" {
		if u.Buffer, err = strconv.ParseInt(v, 10, 64); err != nil || u.Buffer < 0 {
			return bad(fmt.Sprintf("buffer %q must be a number of bytes", v))
		}
	}
	if v := q.Get("max-file"); v != "" {
		if u.MaxFile, err = strconv.Atoi(v); err != nil || u.MaxFile < 0 {
			return bad(fmt.Sprintf("max-file %q must be a number of files", v))
		}
	}
	for k := range q {
		if name, ok := strings.CutPrefix(k, "attr."); ok {
			if u.Attrs == nil {
				u.Attrs = map[string]string{}
			}
			u.Attrs[name] = q.Get(k)
		}
	}
	return u, nil
}

// Hello is what a client of the attach socket wants.
type Hello struct {
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
	// DetachKeys are the bytes that end the attachment when typed in sequence; only
	// looked for on a terminal. Empty: none.
	DetachKeys []byte `json:"detachKeys,omitempty"`
}

// Reply is the holder's answer. With an Error the connection ends.
type Reply struct {
	Terminal bool   `json:"terminal,omitempty"`
	Error    string `json:"error,omitempty"`
}

// maxFrame bounds a handshake frame, in bytes.
const maxFrame = 64 << 10

// WriteFrame writes v as a handshake frame.
func WriteFrame(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode handshake: %w", err)
	}
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
	if _, err := w.Write(append(frame, data...)); err != nil {
		return fmt.Errorf("write handshake: %w", err)
	}
	return nil
}

// ReadFrame reads one handshake frame into v and not a byte more. The error is of class
// ErrInvalidArgument for a frame that is too long or not JSON.
func ReadFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read handshake: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("handshake of %d bytes is longer than %d: %w", n, maxFrame, errdefs.ErrInvalidArgument)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return fmt.Errorf("read handshake: %w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode handshake: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}
