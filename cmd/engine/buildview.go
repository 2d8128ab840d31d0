package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"strata/pkg/api"
	"strata/pkg/term"
)

// buildMessage is a line of the answer to POST /build.
type buildMessage struct {
	Stream string          `json:"stream"`
	Status string          `json:"status"`
	ID     string          `json:"id"`
	Error  string          `json:"error"`
	Aux    json.RawMessage `json:"aux"`
	Detail struct {
		Code int `json:"code"`
	} `json:"errorDetail"`
}

// buildView shows a build: plain lines, a live graph, or nothing.
type buildView struct {
	out     io.Writer
	result  io.Writer // where a build's own text goes
	mode    string    // plain, tty, quiet, rawjson
	started time.Time
	width   func() (height, width int)

	mu    sync.Mutex
	steps []buildLine
	drawn int // lines on the screen
	notes []string
	fail  *api.BuildEvent
	id    string
}

// buildLine is one step of the graph.
type buildLine struct {
	api.BuildStep
	began   time.Time
	took    time.Duration
	state   string // "", running, done, cached, error
	partial string
	tail    []string // last lines of output
	touched bool
}

// tailLines is how many lines of a failed step's output are shown again.
const tailLines = 20

func (s *session) newBuildView(c *cli.Context, quiet bool, start time.Time) *buildView {
	v := &buildView{out: s.stderr, result: s.stdout, mode: c.String("progress"), started: start}
	f := s.stdoutFile()
	tty := f != nil && isTerminal(s.stdout)
	switch {
	case quiet:
		v.mode = "quiet"
	case v.mode == "auto" && tty, v.mode == "tty" && tty:
		v.mode, v.out = "tty", s.stdout
		v.width = func() (int, int) { h, w := term.Size(f); return int(h), int(w) }
	case v.mode != "rawjson":
		v.mode = "plain"
	}
	return v
}

// follow shows the answer until it ends, and returns the image's id.
func (v *buildView) follow(body io.Reader, dockerfile []byte) (string, error) {
	stop := v.animate()
	err := v.read(body)
	stop()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mode == "tty" {
		v.draw(true)
	}
	if v.mode != "quiet" && v.mode != "rawjson" {
		if err != nil {
			v.failure(dockerfile)
		}
		for _, n := range v.notes {
			fmt.Fprintln(v.out, n)
		}
		if err == nil && v.id != "" && len(v.steps) > 0 {
			fmt.Fprintf(v.out, "built %s in %.1fs\n", v.id, time.Since(v.started).Seconds())
		}
	}
	if err == nil && v.id == "" {
		return "", errors.New("the build ended without an image")
	}
	return v.id, err
}

func (v *buildView) read(body io.Reader) error {
	dec := json.NewDecoder(body)
	for {
		var raw json.RawMessage
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var m buildMessage
		if err := json.Unmarshal(raw, &m); err != nil {
			return err
		}
		if v.mode == "rawjson" {
			fmt.Fprintf(v.out, "%s\n", raw)
		}
		if m.Error != "" {
			return errors.New(m.Error)
		}
		if err := v.message(m); err != nil {
			return err
		}
	}
}

func (v *buildView) message(m buildMessage) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case m.ID == api.BuildEventID:
		var e api.BuildEvent
		if err := json.Unmarshal(m.Aux, &e); err != nil {
			return err
		}
		v.event(&e)
	case len(m.Aux) > 0:
		var id struct{ ID string }
		if json.Unmarshal(m.Aux, &id) == nil && id.ID != "" {
			v.id = id.ID
		}
	case v.mode == "quiet", v.mode == "rawjson":
		if strings.HasPrefix(m.Stream, "sha256:") {
			v.id = strings.TrimSpace(m.Stream)
		}
	case m.Stream != "": // a daemon without events
		fmt.Fprint(v.result, m.Stream)
	case m.Status != "" && v.mode == "plain":
		fmt.Fprintln(v.out, strings.TrimSpace(m.ID+" "+m.Status))
	}
	return nil
}

// event keeps the graph. Preconditions: mu is held.
func (v *buildView) event(e *api.BuildEvent) {
	var l *buildLine
	if e.ID < len(v.steps) {
		l = &v.steps[e.ID]
	}
	switch e.Kind {
	case api.BuildPlanned:
		for _, st := range e.Steps {
			v.steps = append(v.steps, buildLine{BuildStep: st})
		}
		return
	case api.BuildWarning:
		v.notes = append(v.notes, fmt.Sprintf("warning: %s: %s (line %d)", e.Rule, e.Text, e.Line))
		return
	case api.BuildFailed:
		v.fail = e
		return
	case api.BuildPulling:
		v.plain("%s", e.Text)
		return
	}
	if l == nil {
		return
	}
	switch e.Kind {
	case api.BuildStarted:
		l.state, l.began, l.touched = "running", time.Now(), true
		v.plain("#%d [%s] %s", l.ID, l.Stage, l.Name)
	case api.BuildOutput:
		v.output(l, e.Text)
	case api.BuildEnded:
		v.ended(l, e)
	}
}

func (v *buildView) plain(format string, args ...any) {
	if v.mode == "plain" {
		fmt.Fprintf(v.out, format+"\n", args...)
	}
}

func (v *buildView) output(l *buildLine, text string) {
	lines := strings.Split(l.partial+text, "\n")
	l.partial = lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		line = strings.TrimRight(line, "\r")
		v.plain("#%d %.3f %s", l.ID, time.Since(l.began).Seconds(), line)
		if l.tail = append(l.tail, line); len(l.tail) > tailLines {
			l.tail = l.tail[1:]
		}
	}
}

func (v *buildView) ended(l *buildLine, e *api.BuildEvent) {
	if l.partial != "" {
		v.output(l, "\n")
	}
	if !l.touched && e.Error == "" {
		v.plain("#%d [%s] %s", l.ID, l.Stage, l.Name)
	}
	l.took, l.touched = e.Took, true
	switch {
	case e.Error != "":
		l.state = "error"
		v.plain("#%d ERROR: %s", l.ID, e.Error)
	case e.Cached:
		l.state = "cached"
		v.plain("#%d CACHED", l.ID)
	default:
		l.state = "done"
		v.plain("#%d DONE %.1fs", l.ID, e.Took.Seconds())
	}
}

// failure shows the last output of the step that failed, and its lines.
func (v *buildView) failure(dockerfile []byte) {
	for i := range v.steps {
		l := &v.steps[i]
		if v.fail == nil || l.state != "error" || l.Name != v.fail.Text || len(l.tail) == 0 {
			continue
		}
		fmt.Fprintf(v.out, "------\n > [%s] %s:\n%s\n------\n", l.Stage, l.Name, strings.Join(l.tail, "\n"))
	}
	readBuildError(v.out, v.fail, dockerfile)
}

// frame is the time between two pictures.
const frame = 100 * time.Millisecond

// animate draws the graph until stop is called.
func (v *buildView) animate() (stop func()) {
	if v.mode != "tty" {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(frame)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				v.mu.Lock()
				v.draw(false)
				v.mu.Unlock()
			}
		}
	}()
	return func() { close(end); <-ended }
}

// draw replaces the picture on the terminal. Preconditions: mu is held.
func (v *buildView) draw(last bool) {
	height, width := v.width()
	var lines []string
	done := 0
	for i := range v.steps {
		l := &v.steps[i]
		if l.state != "" && l.state != "running" {
			done++
		}
		if l.touched {
			lines = append(lines, l.text(width)...)
		}
	}
	head := fmt.Sprintf("[+] building %.1fs (%d/%d)", time.Since(v.started).Seconds(), done, len(v.steps))
	if !last && height > 4 && len(lines) > height-3 {
		lines = lines[len(lines)-(height-3):]
	}
	var b strings.Builder
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.drawn)
	}
	for _, line := range append([]string{head}, lines...) {
		b.WriteString("\x1b[2K" + line + "\n")
	}
	b.WriteString("\x1b[J")
	v.drawn = len(lines) + 1
	fmt.Fprint(v.out, b.String())
}

// text is a step as lines of the graph: itself, and its last output while it runs.
func (l *buildLine) text(width int) []string {
	if width < 40 {
		width = 80
	}
	took := l.took
	mark := "=>"
	switch l.state {
	case "running":
		took = time.Since(l.began)
	case "cached":
		mark = "=> CACHED"
	case "error":
		mark = "=> ERROR"
	}
	left := fmt.Sprintf(" %s [%s] %s", mark, l.Stage, strings.ReplaceAll(l.Name, "\n", " "))
	right := fmt.Sprintf("%.1fs", took.Seconds())
	if room := width - len(right) - 2; len(left) > room {
		left = left[:room]
	}
	out := []string{left + strings.Repeat(" ", max(1, width-1-len(left)-len(right))) + right}
	if l.state == "running" {
		for _, t := range l.tail[max(0, len(l.tail)-3):] {
			t = " => => # " + strings.Map(printable, t)
			out = append(out, t[:min(len(t), width-1)])
		}
	}
	return out
}

// printable keeps what moves no cursor.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return -1
	}
	return r
}
