package buildkit

import (
	"encoding/json"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/status"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// Type URLs of details, whose values are JSON.
const (
	urlSource = "github.com/moby/buildkit/errdefs.Source+json"
	urlVertex = "github.com/moby/buildkit/errdefs.Vertex+json"
	urlExit   = "github.com/moby/buildkit/gatewayapi.ExitMessage+json"
)

// Source says where in a Dockerfile something went wrong.
type Source struct {
	Info   *SourceInfo `json:"info,omitempty"`
	Ranges []Range     `json:"ranges,omitempty"`
}

// SourceInfo is a Dockerfile.
type SourceInfo struct {
	Filename string `json:"filename,omitempty"`
	Data     []byte `json:"data,omitempty"`
	Language string `json:"language,omitempty"`
}

// Range is a part of a Dockerfile.
type Range struct {
	Start Position `json:"start"`
	End   Position `json:"end"`
}

// Position is a place in a Dockerfile; lines are counted from 1.
type Position struct {
	Line      int `json:"line,omitempty"`
	Character int `json:"character,omitempty"`
}

// Details are what an error of a build says beside its text.
type Details struct {
	Sources []Source
	Vertex  string // digest; "" if unknown
	Exit    int    // code of the command that failed; zero if none did
}

// Attach returns st with the details.
func (d Details) Attach(st *status.Status) *status.Status {
	out := &status.Status{Code: st.GetCode(), Message: st.GetMessage(), Details: slices.Clone(st.GetDetails())}
	add := func(url string, v any) {
		if raw, err := json.Marshal(v); err == nil { // of these types it cannot fail
			out.Details = append(out.Details, &anypb.Any{TypeUrl: url, Value: raw})
		}
	}
	if d.Exit != 0 {
		add(urlExit, map[string]any{"Code": d.Exit})
	}
	if d.Vertex != "" {
		add(urlVertex, map[string]string{"digest": d.Vertex})
	}
	for _, s := range d.Sources {
		add(urlSource, s)
	}
	return out
}

// DetailsOf reads the details of an error that came by gRPC. What cannot be read is left
// out.
func DetailsOf(err error) Details {
	var d Details
	st, ok := grpcstatus.FromError(err)
	if !ok {
		return d
	}
	for _, a := range st.Proto().GetDetails() {
		switch a.GetTypeUrl() {
		case urlSource:
			var s Source
			if json.Unmarshal(a.GetValue(), &s) == nil && s.Info != nil && !slices.ContainsFunc(d.Sources, s.equal) {
				d.Sources = append(d.Sources, s)
			}
		case urlVertex:
			var v struct{ Digest string }
			if json.Unmarshal(a.GetValue(), &v) == nil {
				d.Vertex = v.Digest
			}
		case urlExit:
			var e struct{ Code int }
			if json.Unmarshal(a.GetValue(), &e) == nil {
				d.Exit = e.Code
			}
		}
	}
	return d
}

func (s Source) equal(o Source) bool {
	return s.Info.Filename == o.Info.Filename && slices.Equal(s.Ranges, o.Ranges)
}

// Excerpt shows the lines of a Source with those around them, as docker does.
func (s Source) Excerpt() string {
	if s.Info == nil || len(s.Ranges) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(s.Info.Data), "\n"), "\n")
	first, last := s.Ranges[0].Start.Line, 0
	for _, r := range s.Ranges {
		first, last = min(first, r.Start.Line), max(last, r.Start.Line, r.End.Line)
	}
	if first < 1 || first > len(lines) {
		return ""
	}
	var b strings.Builder
	writeExcerpt(&b, s.Info.Filename, lines, first, min(last, len(lines)))
	return b.String()
}
