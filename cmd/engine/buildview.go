package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	units "github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"strata/pkg/buildclient"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/term"
)

// buildView shows a build: plain lines, a live graph, or nothing.
type buildView struct {
	out     io.Writer
	mode    string // plain, tty, quiet, rawjson
	started time.Time
	width   func() (height, width int)

	mu    sync.Mutex
	steps map[string]*buildStep // by digest
	shown []*buildStep          // in the order in which they began
	last  *buildStep            // that the last plain line was of
	drawn int                   // lines on the screen
	notes []string
}

// buildStep is one step of the graph.
type buildStep struct {
	number   int // from 1; zero if it has not begun
	name     string
	began    time.Time
	ended    time.Time
	cached   bool
	err      string
	partial  string
	tail     []string // last lines of output
	statuses []*controlpb.VertexStatus
}

// tailLines is how many lines of a failed step's output are shown again.
const tailLines = 20

func (s *session) newBuildView(c *cli.Context, quiet bool) *buildView {
	v := newBuildView(s.stderr, c.String("progress"))
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

func newBuildView(out io.Writer, mode string) *buildView {
	return &buildView{out: out, mode: mode, started: time.Now(), steps: map[string]*buildStep{}}
}

// tell takes what the daemon says.
func (v *buildView) tell(e *controlpb.StatusResponse) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mode == "rawjson" {
		writeRawStatus(v.out, e)
	}
	for _, x := range e.Vertexes {
		v.vertex(x)
	}
	for _, x := range e.Statuses {
		v.status(x)
	}
	for _, x := range e.Logs {
		if st := v.step(x.Vertex); st.number > 0 {
			v.output(st, x.Timestamp.AsTime(), string(x.Msg))
		}
	}
	for _, x := range e.Warnings {
		v.notes = append(v.notes, "warning: "+string(x.Short))
	}
}

func (v *buildView) step(digest string) *buildStep {
	st := v.steps[digest]
	if st == nil {
		st = &buildStep{}
		v.steps[digest] = st
	}
	return st
}

func (v *buildView) vertex(x *controlpb.Vertex) {
	st := v.step(x.Digest)
	st.name, st.cached = strings.ReplaceAll(x.Name, "\n", " "), x.Cached
	if x.Started == nil {
		return
	}
	if st.number == 0 {
		v.shown = append(v.shown, st)
		st.number = len(v.shown)
		v.line(st, "%s", st.name)
	}
	st.began = x.Started.AsTime()
	if x.Completed == nil || !st.ended.IsZero() {
		return
	}
	st.ended, st.err = x.Completed.AsTime(), x.Error
	if st.partial != "" {
		v.output(st, st.ended, "\n")
	}
	switch {
	case st.err != "" && strings.Contains(st.err, "context canceled"):
		v.line(st, "CANCELED")
	case st.err != "":
		v.line(st, "ERROR: %s", st.err)
	case st.cached:
		v.line(st, "CACHED")
	default:
		v.line(st, "DONE %.1fs", st.took())
	}
}

// line writes a plain line about a step; lines of another step come after an empty one.
func (v *buildView) line(st *buildStep, format string, args ...any) {
	if v.mode != "plain" {
		return
	}
	if v.last != nil && v.last != st {
		fmt.Fprintln(v.out)
	}
	v.last = st
	fmt.Fprintf(v.out, "#%d "+format+"\n", append([]any{st.number}, args...)...)
}

// status keeps a measure of a step; at its end it is worth a plain line.
func (v *buildView) status(x *controlpb.VertexStatus) {
	st := v.step(x.Vertex)
	found := false
	for i, old := range st.statuses {
		if old.ID == x.ID {
			found = true
			if old.Completed != nil {
				return
			}
			st.statuses[i] = x
		}
	}
	if !found {
		st.statuses = append(st.statuses, x)
	}
	if x.Completed != nil && st.number > 0 {
		v.line(st, "%s done", measure(x))
	}
}

func measure(x *controlpb.VertexStatus) string {
	switch {
	case x.Total > 0:
		return fmt.Sprintf("%s %s / %s", x.ID, units.HumanSize(float64(x.Current)), units.HumanSize(float64(x.Total)))
	case x.Current > 0:
		return fmt.Sprintf("%s %s", x.ID, units.HumanSize(float64(x.Current)))
	}
	return x.ID
}

func (v *buildView) output(st *buildStep, at time.Time, text string) {
	lines := strings.Split(st.partial+text, "\n")
	st.partial = lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		line = strings.TrimRight(line, "\r")
		v.line(st, "%.3f %s", max(0, at.Sub(st.began).Seconds()), line)
		if st.tail = append(st.tail, line); len(st.tail) > tailLines {
			st.tail = st.tail[1:]
		}
	}
}

func (st *buildStep) took() float64 {
	end := st.ended
	if end.IsZero() {
		end = time.Now()
	}
	return max(0, end.Sub(st.began).Seconds())
}

// end shows what is left to be shown when the build has ended.
func (v *buildView) end(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mode == "tty" {
		v.draw(true)
	}
	if v.mode == "rawjson" {
		return
	}
	if err != nil {
		v.failure()
	}
	if v.mode == "quiet" {
		return
	}
	if v.mode == "plain" && len(v.notes) > 0 {
		fmt.Fprintln(v.out)
	}
	for _, n := range v.notes {
		fmt.Fprintln(v.out, n)
	}
}

// failure shows the last output of the step that failed.
func (v *buildView) failure() {
	for _, st := range v.shown {
		if st.err != "" && !strings.Contains(st.err, "context canceled") && len(st.tail) > 0 {
			fmt.Fprintf(v.out, "------\n > %s:\n%s\n------\n", st.name, strings.Join(st.tail, "\n"))
		}
	}
}

// built says what came of it.
func (v *buildView) built(id string) {
	if v.mode == "rawjson" {
		return
	}
	what := "built"
	if id != "" {
		what += " " + id
	}
	fmt.Fprintf(v.out, "%s in %.1fs\n", what, time.Since(v.started).Seconds())
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

// suspend leaves the terminal to somebody else until resume is called. What happens
// meanwhile is shown after that.
func (v *buildView) suspend() (resume func()) {
	v.mu.Lock()
	if v.mode == "tty" {
		v.draw(false)
		v.drawn = 0
	}
	return v.mu.Unlock
}

// draw replaces the picture on the terminal. Preconditions: mu is held.
func (v *buildView) draw(last bool) {
	height, width := v.width()
	var lines []string
	done := 0
	for _, st := range v.shown {
		if !st.ended.IsZero() {
			done++
		}
		lines = append(lines, st.text(width)...)
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

// text is a step as lines of the graph: itself, and while it runs its measures and its last
// output.
func (st *buildStep) text(width int) []string {
	if width < 40 {
		width = 80
	}
	mark := "=>"
	switch {
	case st.err != "" && strings.Contains(st.err, "context canceled"):
		mark = "=> CANCELED"
	case st.err != "":
		mark = "=> ERROR"
	case st.cached:
		mark = "=> CACHED"
	}
	left := []rune(fmt.Sprintf(" %s %s", mark, strings.Map(printable, st.name)))
	right := fmt.Sprintf("%.1fs", st.took())
	if room := width - len(right) - 2; len(left) > room {
		left = left[:room]
	}
	out := []string{string(left) + strings.Repeat(" ", max(1, width-1-len(left)-len(right))) + right}
	if !st.ended.IsZero() {
		return out
	}
	var below []string
	for _, x := range st.statuses {
		if x.Completed == nil {
			below = append(below, measure(x))
		}
	}
	for _, t := range st.tail[max(0, len(st.tail)-3):] {
		below = append(below, "# "+t)
	}
	for _, t := range below {
		line := []rune(" => => " + strings.Map(printable, t))
		out = append(out, string(line[:min(len(line), width-1)]))
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

// buildError is an error of a build as people see it, with the lines of the Dockerfile.
func buildError(err error) error {
	text, sources := buildclient.Explain(err)
	return errors.New(sources + text)
}
