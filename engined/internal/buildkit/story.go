package buildkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/engined/internal/build"
	"strata/engined/internal/build/dockerfile"
	"strata/pkg/buildkit/controlpb"
)

// maxLog bounds what a build's commands may write to its story, in bytes: whoever follows
// late reads all of it.
const maxLog = 64 << 20

// story is what happened in a build, for all who want to know, from its beginning. It
// implements build.Observer.
type story struct {
	ref string

	mu       sync.Mutex
	events   []*controlpb.StatusResponse
	over     bool
	added    chan struct{} // closed when something comes; nil if nobody waits
	logged   int
	vertices map[*dockerfile.Vertex]*controlpb.Vertex
	own      map[string]*controlpb.Vertex // that no Dockerfile has, by name
	pulls    map[string]*controlpb.VertexStatus
	names    names
	def      build.Definition
	warnings int
}

// counts are for the history.
type counts struct{ total, completed, cached, warnings int32 }

func (s *story) counts() counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[*controlpb.Vertex]bool{}
	for _, v := range s.vertices {
		seen[v] = true
	}
	for _, v := range s.own {
		seen[v] = true
	}
	out := counts{warnings: int32(s.warnings)} //nolint:gosec // of a Dockerfile
	for v := range seen {
		out.total++
		if v.Completed != nil {
			out.completed++
		}
		if v.Cached {
			out.cached++
		}
	}
	return out
}

func newStory(ref string) *story {
	return &story{ref: ref, vertices: map[*dockerfile.Vertex]*controlpb.Vertex{}, own: map[string]*controlpb.Vertex{}, pulls: map[string]*controlpb.VertexStatus{}}
}

// begin says of which Dockerfile the story is.
func (s *story) begin(d build.Definition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.def = d
}

// follow calls send with all that has happened and will, until the end or ctx is done.
func (s *story) follow(ctx context.Context, send func(*controlpb.StatusResponse) error) error {
	for next := 0; ; {
		s.mu.Lock()
		events, over := s.events[next:], s.over
		if len(events) == 0 && !over && s.added == nil {
			s.added = make(chan struct{})
		}
		added := s.added
		s.mu.Unlock()
		for _, e := range events {
			if err := send(e); err != nil {
				return err
			}
		}
		next += len(events)
		switch {
		case len(events) > 0:
		case over:
			return nil
		default:
			select {
			case <-added:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// all returns what has happened, in one event.
func (s *story) all() *controlpb.StatusResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &controlpb.StatusResponse{}
	for _, e := range s.events {
		out.Vertexes, out.Statuses = append(out.Vertexes, e.Vertexes...), append(out.Statuses, e.Statuses...)
		out.Logs, out.Warnings = append(out.Logs, e.Logs...), append(out.Warnings, e.Warnings...)
	}
	return out
}

// end ends the story: what was begun is over.
func (s *story) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.wake()
}

// tell adds an event. Preconditions: mu is held.
func (s *story) tell(e *controlpb.StatusResponse) {
	s.events = append(s.events, e)
	s.wake()
}

func (s *story) wake() {
	if s.added != nil {
		close(s.added)
		s.added = nil
	}
}

// tellVertex tells how a vertex is now. Preconditions: mu is held.
func (s *story) tellVertex(list ...*controlpb.Vertex) {
	e := &controlpb.StatusResponse{}
	for _, v := range list {
		e.Vertexes = append(e.Vertexes, &controlpb.Vertex{ // a copy: v changes
			Digest: v.Digest, Inputs: v.Inputs, Name: v.Name, Cached: v.Cached, Started: v.Started, Completed: v.Completed, Error: v.Error,
		})
	}
	s.tell(e)
}

// digest names a thing of this build.
func (s *story) digest(parts ...string) string {
	sum := sha256.Sum256([]byte(s.ref + "\x00" + strings.Join(parts, "\x00")))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// internal returns the vertex of work that no Dockerfile has. Preconditions: mu is held.
func (s *story) internal(name string) *controlpb.Vertex {
	v := s.own[name]
	if v == nil {
		v = &controlpb.Vertex{Digest: s.digest("internal", name), Name: name}
		s.own[name] = v
	}
	return v
}

// step runs fn as a vertex of its own; said tells its progress.
func (s *story) step(name string, fn func(said progress) error) error {
	s.mu.Lock()
	v := s.internal(name)
	v.Started, v.Completed, v.Error = timestamppb.Now(), nil, ""
	s.tellVertex(v)
	s.mu.Unlock()
	err := s.within(name, fn)
	s.mu.Lock()
	defer s.mu.Unlock()
	v.Completed = timestamppb.Now()
	if err != nil {
		v.Error = errorText(err)
	}
	s.tellVertex(v)
	return err
}

// within runs fn, which is part of the builder's step of that name.
func (s *story) within(name string, fn func(said progress) error) error {
	s.mu.Lock()
	v := s.internal(name)
	s.mu.Unlock()
	began := map[string]*timestamppb.Timestamp{}
	last := map[string][2]int64{}
	err := fn(func(what string, current, total int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if began[what] == nil {
			began[what] = timestamppb.Now()
		}
		last[what] = [2]int64{current, total}
		s.tellStatus(v, measure{what, current, total, began[what], nil})
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for what, at := range began {
		s.tellStatus(v, measure{what, last[what][0], last[what][1], at, timestamppb.Now()})
	}
	return err
}

// measure says how far a part of a step has come.
type measure struct {
	id             string
	current, total int64
	began, ended   *timestamppb.Timestamp // ended is nil before the end
}

// tellStatus tells a measure of a vertex. Preconditions: mu is held.
func (s *story) tellStatus(v *controlpb.Vertex, m measure) {
	name, _, _ := strings.Cut(m.id, " ") // what is done, without what it is done to
	s.tell(&controlpb.StatusResponse{Statuses: []*controlpb.VertexStatus{{
		ID: m.id, Vertex: v.Digest, Name: name, Current: m.current, Total: m.total, Timestamp: timestamppb.Now(), Started: m.began, Completed: m.ended,
	}}})
}

// Planned implements build.Observer.
func (s *story) Planned(plans []*dockerfile.Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endMetadata(plans)
	s.names = namesOf(plans)
	var list []*controlpb.Vertex
	for _, p := range plans {
		for _, v := range slices.SortedStableFunc(slices.Values(p.Vertices), byLine) {
			if s.vertices[v] != nil || isScratch(v) {
				continue // of another platform, too
			}
			list = append(list, s.vertex(v))
		}
	}
	if len(list) > 0 {
		s.tellVertex(list...)
	}
	if len(plans) > 0 {
		s.warn(plans[0].Warnings)
	}
}

func byLine(a, b *dockerfile.Vertex) int { return a.Lines[0] - b.Lines[0] }

// isScratch reports whether v is the empty filesystem, of which nobody is told.
func isScratch(v *dockerfile.Vertex) bool {
	return v.Parent == nil && v.Image == nil && v.Run == nil && v.Copy == nil && v.Mkdir == nil
}

// vertex returns what is told of v. Preconditions: mu is held.
func (s *story) vertex(v *dockerfile.Vertex) *controlpb.Vertex {
	if out := s.vertices[v]; out != nil {
		return out
	}
	name := s.names.of(v)
	if v.Image != nil { // one image is one vertex, whoever builds upon it
		for other, out := range s.vertices {
			if other.Image != nil && other.Image.ID == v.Image.ID {
				s.vertices[v] = out
				return out
			}
		}
	}
	out := &controlpb.Vertex{Digest: s.digest("vertex", fmt.Sprint(len(s.vertices)), name), Name: name}
	s.vertices[v] = out
	for _, in := range append([]*dockerfile.Vertex{v.Parent}, v.Inputs()...) {
		if in != nil && !isScratch(in) {
			out.Inputs = append(out.Inputs, s.vertex(in).Digest)
		}
	}
	return out
}

// Added implements build.Observer.
func (s *story) Added(v *dockerfile.Vertex) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vertices[v] = s.internal(v.Name)
}

// Started implements build.Observer.
func (s *story) Started(v *dockerfile.Vertex, _ string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if isScratch(v) && s.vertices[v] == nil {
		return
	}
	pv := s.vertex(v)
	if pv.Started == nil {
		pv.Started = timestamppb.Now()
		s.tellVertex(pv)
	}
}

// Output implements build.Observer.
func (s *story) Output(v *dockerfile.Vertex, data []byte, stderr bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pv := s.vertex(v)
	stream := int64(1)
	if stderr {
		stream = 2
	}
	if s.logged > maxLog {
		return
	}
	if s.logged += len(data); s.logged > maxLog {
		data = fmt.Appendf(nil, "\n[output clipped, log limit %dMiB reached]\n", maxLog>>20)
	}
	s.tell(&controlpb.StatusResponse{Logs: []*controlpb.VertexLog{{Vertex: pv.Digest, Timestamp: timestamppb.Now(), Stream: stream, Msg: data}}})
}

// Ended implements build.Observer.
func (s *story) Ended(v *dockerfile.Vertex, how build.Ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if isScratch(v) && s.vertices[v] == nil {
		return
	}
	pv := s.vertex(v)
	if pv.Completed != nil {
		return // as part of something above it
	}
	if how.Cached {
		s.cachedBelow(v)
	}
	now := time.Now()
	if pv.Started == nil || how.Cached {
		pv.Started = timestamppb.New(now.Add(-how.Took))
	}
	pv.Completed, pv.Cached = timestamppb.New(now), how.Cached
	if how.Err != nil {
		pv.Error = errorText(how.Err)
	}
	s.tellVertex(pv)
}

// cachedBelow tells that what v is made of is cached, too, before the builder does: people
// read from below. Preconditions: mu is held.
func (s *story) cachedBelow(v *dockerfile.Vertex) {
	for _, in := range append([]*dockerfile.Vertex{v.Parent}, v.Inputs()...) {
		if in == nil || isScratch(in) {
			continue
		}
		pv := s.vertex(in)
		if pv.Started != nil {
			continue
		}
		pv.Started = timestamppb.Now() // nobody comes here again
		s.cachedBelow(in)
		pv.Started, pv.Completed, pv.Cached = timestamppb.Now(), timestamppb.Now(), true
		s.tellVertex(pv)
	}
}

// metadataName is the vertex during which an image is looked up or pulled.
func metadataName(image string) string {
	return "[internal] load metadata for " + fullName(image)
}

// Pulling implements build.Observer.
func (s *story) Pulling(image, id, status string, current, total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.internal(metadataName(image))
	if v.Started == nil {
		v.Started = timestamppb.Now()
		s.tellVertex(v)
	}
	if id == "" || total == 0 {
		return // a word without a measure; the layers say enough
	}
	name := strings.ToLower(status) + " " + id
	st := s.pulls[name]
	if st == nil {
		st = &controlpb.VertexStatus{ID: name, Vertex: v.Digest, Name: name, Started: timestamppb.Now()}
		s.pulls[name] = st
	}
	var done *timestamppb.Timestamp
	if current >= total {
		done = timestamppb.Now()
	}
	s.tellStatus(v, measure{name, current, total, st.Started, done})
}

// endMetadata tells that images are known, also those that were there. Preconditions: mu is
// held.
func (s *story) endMetadata(plans []*dockerfile.Plan) {
	for _, p := range plans {
		for _, v := range p.Vertices {
			if v.Image == nil || v.Image.Unnamed {
				continue
			}
			m := s.internal(metadataName(v.Image.Name))
			if m.Completed != nil {
				continue
			}
			m.Completed = timestamppb.Now()
			if m.Started == nil {
				m.Started = m.Completed
			}
			s.tellVertex(m)
		}
	}
}

// warn tells what the linter has to say. Preconditions: mu is held.
func (s *story) warn(list []dockerfile.Warning) {
	if len(list) == 0 {
		return
	}
	e := &controlpb.StatusResponse{}
	vertex := s.internal(definitionName(s.def.Name)).Digest
	for _, w := range list {
		pw := &controlpb.VertexWarning{
			Vertex: vertex, Level: 1, Url: w.URL, Short: fmt.Appendf(nil, "%s: %s (line %d)", w.Rule, w.Text, w.Line),
			Info: &controlpb.SourceInfo{Filename: s.def.Name, Data: s.def.Text, Language: language},
		}
		if w.Detail != "" {
			pw.Detail = [][]byte{[]byte(w.Detail)}
		}
		if w.Line > 0 {
			at := &controlpb.Position{Line: int32(w.Line)} //nolint:gosec // bounded by dockerfile.MaxSize
			pw.Ranges = []*controlpb.Range{{Start: at, End: at}}
		}
		e.Warnings = append(e.Warnings, pw)
	}
	s.warnings += len(list)
	s.tell(e)
}

// language of every source.
const language = "Dockerfile"

// failed returns the digest of the vertex that failed first; "" if none did.
func (s *story) failed() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first *controlpb.Vertex
	for _, v := range s.vertices {
		if v.Error != "" && (first == nil || v.Completed.AsTime().Before(first.Completed.AsTime())) {
			first = v
		}
	}
	return first.GetDigest()
}

// errorText is an error as the client shows it.
func errorText(err error) string {
	if ce, ok := errors.AsType[*build.CommandError](err); ok {
		return processText(ce)
	}
	s := err.Error()
	if mistake, ok := errors.AsType[*dockerfile.Error](err); ok {
		s = mistake.Err.Error() // the client shows the lines
	}
	for _, class := range []error{errdefs.ErrInvalidArgument, errdefs.ErrUnknown} {
		if errors.Is(err, class) {
			s = strings.TrimSuffix(s, ": "+class.Error())
		}
	}
	return s
}

// processText is BuildKit's sentence for a command that failed.
func processText(e *build.CommandError) string {
	return fmt.Sprintf("process %q did not complete successfully: exit code: %d", e.Command, e.Code)
}
