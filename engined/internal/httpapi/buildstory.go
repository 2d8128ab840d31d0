package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"strata/engined/internal/build"
	"strata/engined/internal/build/dockerfile"
	"strata/pkg/identifiers"
)

// maxWaiting bounds the output that waits for its step's turn, in bytes.
const maxWaiting = 2 << 20

// buildStory tells of a build as the classic builder did: one step after the other, in the
// order of the Dockerfile. It implements build.Observer.
type buildStory struct {
	out   *progressStream
	quiet bool

	mu    sync.Mutex
	plan  *dockerfile.Plan
	tales map[*dockerfile.Vertex]*tale
	at    int  // the step being told
	begun bool // its header was written
	muted bytes.Buffer
}

// tale is what is known of a vertex.
type tale struct {
	container string
	waiting   []byte // output until its turn
	clipped   bool
	end       *build.Ending
}

func newBuildStory(out *progressStream, r *request) *buildStory {
	return &buildStory{out: out, quiet: r.Bool("q"), tales: map[*dockerfile.Vertex]*tale{}}
}

// say writes to the classic stream.
func (s *buildStory) say(text string) {
	if !s.quiet {
		s.out.write(progressMessage{Stream: text})
	} else if s.muted.Len() < maxWaiting {
		s.muted.WriteString(text)
	}
}

// Planned implements build.Observer.
func (s *buildStory) Planned(plans []*dockerfile.Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan = &dockerfile.Plan{Warnings: plans[0].Warnings}
	for _, p := range plans {
		s.plan.Steps = append(s.plan.Steps, p.Steps...)
		for _, v := range p.Vertices {
			if s.tales[v] != nil {
				continue // of another platform, too
			}
			s.tales[v] = &tale{}
		}
	}
	s.advance()
}

// Added implements build.Observer.
func (s *buildStory) Added(v *dockerfile.Vertex) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tales[v] = &tale{} // the classic builder had no word for it
}

// Started implements build.Observer.
func (s *buildStory) Started(v *dockerfile.Vertex, container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tales[v]
	t.container = container
	if container != "" && s.current() == v {
		s.say(" ---> Running in " + identifiers.Short(container) + "\n")
	}
}

// Output implements build.Observer.
func (s *buildStory) Output(v *dockerfile.Vertex, data []byte, _ bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tales[v]
	if s.current() == v {
		s.sayOutput(data)
		return
	}
	if room := maxWaiting - len(t.waiting); len(data) > room {
		data, t.clipped = data[:room], true
	}
	t.waiting = append(t.waiting, data...)
}

func (s *buildStory) sayOutput(data []byte) {
	if len(data) > 0 {
		s.say(string(data))
	}
}

// Ended implements build.Observer.
func (s *buildStory) Ended(v *dockerfile.Vertex, how build.Ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tales[v].end = &how
	s.advance()
}

// Pulling implements build.Observer.
func (s *buildStory) Pulling(_, id, status string, current, total int64) {
	if !s.quiet {
		m := progressMessage{Status: status, ID: id}
		if id != "" {
			m.Detail = &progressDetail{current, total}
		}
		s.out.write(m)
	}
}

// current is the vertex whose step is being told.
func (s *buildStory) current() *dockerfile.Vertex {
	if s.plan == nil || s.at >= len(s.plan.Steps) || !s.begun {
		return nil
	}
	return s.plan.Steps[s.at].Vertex
}

// advance tells the steps that have ended, and begins the next. Preconditions: mu is held.
func (s *buildStory) advance() {
	for s.at < len(s.plan.Steps) {
		step := s.plan.Steps[s.at]
		s.begin()
		if step.Vertex == nil {
			s.say(" ---> " + configID(s.plan.Steps[:s.at+1]) + "\n")
		} else {
			t := s.tales[step.Vertex]
			if t.end == nil || t.end.Err != nil {
				return
			}
			s.footer(step.Vertex, t)
		}
		s.at, s.begun = s.at+1, false
	}
}

// begin writes the header of the current step, and what has waited for it.
func (s *buildStory) begin() {
	if s.begun {
		return
	}
	s.begun = true
	step := s.plan.Steps[s.at]
	s.say(fmt.Sprintf("Step %d/%d : %s\n", s.at+1, len(s.plan.Steps), step.Text))
	if step.Vertex == nil {
		return
	}
	t := s.tales[step.Vertex]
	if t.container != "" {
		s.say(" ---> Running in " + identifiers.Short(t.container) + "\n")
	}
	s.sayOutput(t.waiting)
	if t.clipped {
		s.say("[output clipped]\n")
	}
	t.waiting = nil
}

func (s *buildStory) footer(v *dockerfile.Vertex, t *tale) {
	id := strings.TrimPrefix(strings.TrimPrefix(t.end.Key, "image:"), "sha256:")
	if v.Image != nil {
		id = v.Image.ID.Encoded()
	}
	if t.end.Cached && v.Parent != nil {
		s.say(" ---> Using cache\n")
	}
	if t.container != "" {
		s.say(" ---> Removed intermediate container " + identifiers.Short(t.container) + "\n")
	}
	if id != "" && id != "scratch" {
		s.say(" ---> " + identifiers.Short(id) + "\n")
	}
}

// configID names the state after a step that changes no file.
func configID(steps []dockerfile.Step) string {
	var b strings.Builder
	for _, st := range steps {
		b.WriteString(st.Text + "\n")
	}
	return build.ShortHash(b.String())
}

// finish tells the step that failed if its turn has not come.
func (s *buildStory) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plan == nil {
		return
	}
	if err != nil {
		i := slices.IndexFunc(s.plan.Steps, func(st dockerfile.Step) bool {
			t := s.tales[st.Vertex]
			return t != nil && t.end != nil && t.end.Err != nil && !errors.Is(t.end.Err, context.Canceled)
		})
		if i > s.at {
			s.at, s.begun = i, false
			s.begin()
		}
		if s.quiet {
			s.out.write(progressMessage{Stream: s.muted.String()})
		}
	}
	if len(s.plan.Warnings) > 0 && err == nil {
		for _, w := range s.plan.Warnings {
			s.say(fmt.Sprintf("[Warning] %s (line %d): %s\n", w.Rule, w.Line, w.Text))
		}
	}
}

// built tells the result.
func (s *buildStory) built(id string) {
	s.out.write(progressMessage{Aux: json.RawMessage(`{"ID":"` + id + `"}`)})
	s.say("Successfully built " + identifiers.Short(strings.TrimPrefix(id, "sha256:")) + "\n")
}
