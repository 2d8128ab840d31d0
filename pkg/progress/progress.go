package progress

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	units "github.com/docker/go-units"
)

// Options say where the stream is shown.
type Options struct {
	// Terminal makes lines be redrawn; Width is its number of columns (0 = unknown).
	Terminal bool
	Width    int
	// Aux receives the out-of-band messages; it may be nil.
	Aux func(json.RawMessage)
}

// message is jsonstream.Message and the two strings that daemons before API 1.48 send instead of
// the structures.
type message struct {
	Stream   string           `json:"stream"`
	Status   string           `json:"status"`
	ID       string           `json:"id"`
	Detail   *detail          `json:"progressDetail"`
	Aux      *json.RawMessage `json:"aux"`
	ErrorObj *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"errorDetail"`
	ErrorText string `json:"error"`
}

type detail struct {
	Current    int64  `json:"current"`
	Total      int64  `json:"total"`
	Start      int64  `json:"start"`
	HideCounts bool   `json:"hidecounts"`
	Units      string `json:"units"`
}

func (m *message) err() error {
	if m.ErrorObj != nil && m.ErrorObj.Message != "" {
		return errors.New(m.ErrorObj.Message)
	}
	if m.ErrorText != "" {
		return errors.New(m.ErrorText)
	}
	return nil
}

// Show reads the stream to its end and prints it. An error inside the stream is returned.
func Show(in io.Reader, out io.Writer, opts Options) error {
	s := screen{w: bufio.NewWriter(out), opts: opts, lines: map[string]int{}}
	dec := json.NewDecoder(in)
	for {
		var m message
		if err := dec.Decode(&m); err != nil {
			flushErr := s.w.Flush()
			if errors.Is(err, io.EOF) {
				return flushErr
			}
			return fmt.Errorf("read progress: %w", err)
		}
		if m.Aux != nil {
			if opts.Aux != nil {
				opts.Aux(*m.Aux)
			}
			continue
		}
		if err := m.err(); err != nil {
			return errors.Join(err, s.w.Flush())
		}
		s.show(&m)
		// One write per message keeps a redrawn line whole, and a slow stream live.
		if err := s.w.Flush(); err != nil {
			return err
		}
	}
}

// screen remembers on which line each id is drawn. The cursor rests below the last line.
type screen struct {
	w     *bufio.Writer
	opts  Options
	lines map[string]int
}

func (s *screen) show(m *message) {
	if m.Stream != "" {
		s.below()
		fmt.Fprint(s.w, m.Stream)
		return
	}
	if !s.opts.Terminal {
		s.plain(m)
		return
	}
	if m.ID == "" || m.Detail == nil {
		s.once(m)
		return
	}
	line, known := s.lines[m.ID]
	if !known {
		line = len(s.lines)
		s.lines[m.ID] = line
		fmt.Fprintln(s.w)
	}
	up := len(s.lines) - line
	fmt.Fprintf(s.w, "\x1b[%dA\x1b[2K\r%s\r\x1b[%dB", up, fit(text(m, s.opts.Width), s.opts.Width), up)
}

// plain leaves out the numbers: a log wants the changes only.
func (s *screen) plain(m *message) {
	if m.Detail != nil && (m.Detail.Current != 0 || m.Detail.Total != 0) {
		return
	}
	fmt.Fprintln(s.w, prefix(m)+m.Status)
}

// once prints a message that will not be redrawn, below the lines that are.
func (s *screen) once(m *message) {
	s.below()
	fmt.Fprintln(s.w, prefix(m)+m.Status)
}

// below forgets the lines drawn so far: what comes next stands below them.
func (s *screen) below() { clear(s.lines) }

func prefix(m *message) string {
	if m.ID == "" {
		return ""
	}
	return m.ID + ": "
}

func text(m *message, width int) string {
	s := prefix(m) + m.Status
	room := wide
	if width > 0 {
		room = width - len(s) - 1
	}
	if bar := bar(m.Detail, room); bar != "" {
		s += " " + bar
	}
	return s
}

const (
	barWidth = 50
	wide     = 200 // what a terminal of unknown width is taken for
)

// bar draws "[====>     ]  1.2MB/3.4MB", as much of it as fits into room.
func bar(d *detail, room int) string {
	if d.Current <= 0 && d.Total <= 0 {
		return ""
	}
	amount := units.HumanSize
	if d.Units != "" {
		amount = func(n float64) string { return fmt.Sprintf("%.0f %s", n, d.Units) }
	}
	if d.Total <= 0 {
		return fmt.Sprintf("%8v", amount(float64(d.Current)))
	}
	var b strings.Builder
	if room >= barWidth+20 {
		filled := int(min(max(d.Current, 0), d.Total) * barWidth / d.Total)
		head := ">"
		if filled == barWidth {
			head = ""
		}
		fmt.Fprintf(&b, "[%s%s%s]  ", strings.Repeat("=", filled), head, strings.Repeat(" ", max(barWidth-filled-len(head), 0)))
	}
	if !d.HideCounts {
		fmt.Fprintf(&b, "%s/%s", amount(float64(min(d.Current, d.Total))), amount(float64(d.Total)))
	}
	if left := timeLeft(d); left != "" && room >= barWidth+30 {
		b.WriteString(" " + left)
	}
	return b.String()
}

func timeLeft(d *detail) string {
	if d.Start <= 0 || d.Current <= 0 || d.Current >= d.Total {
		return ""
	}
	elapsed := time.Since(time.Unix(d.Start, 0))
	perUnit := elapsed / time.Duration(d.Current)
	return (time.Duration(d.Total-d.Current) * perUnit).Round(time.Second).String()
}

// fit cuts a line, because one that wraps cannot be redrawn.
func fit(s string, width int) string {
	if width > 0 && len(s) > width {
		return s[:width]
	}
	return s
}
