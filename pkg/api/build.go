package api

import "time"

// SecretsHeader carries the secrets of POST /build: a JSON object of ids to bytes (both as
// encoding/json has them), in base64. The engine neither stores nor logs it.
const SecretsHeader = "X-Strata-Build-Secrets"

// BuildEventsHeader, with any value, asks POST /build for BuildEvents instead of the
// classic builder's text. They come as "aux" of messages whose id is BuildEventID.
const (
	BuildEventsHeader = "X-Strata-Build-Events"
	BuildEventID      = "strata.build"
)

// BuildUsageRoute answers GET with the build cache, as GET /system/df?type=build-cache has it.
const BuildUsageRoute = "/build/usage"

// The kinds of BuildEvent.
const (
	BuildPlanned = "planned" // Steps
	BuildStarted = "started" // ID
	BuildOutput  = "output"  // ID, Text, Stderr
	BuildEnded   = "ended"   // ID, Cached, Took, Error
	BuildWarning = "warning" // Rule, Text, URL, Line
	BuildPulling = "pulling" // Text, Current, Total
	BuildFailed  = "failed"  // Error, Line, EndLine, Text: the step
)

// BuildEvent is one thing that happened in a build.
type BuildEvent struct {
	Kind    string
	ID      int           `json:",omitempty"` // of the step
	Steps   []BuildStep   `json:",omitempty"`
	Text    string        `json:",omitempty"`
	Stderr  bool          `json:",omitempty"`
	Cached  bool          `json:",omitempty"`
	Took    time.Duration `json:",omitempty"` // nanoseconds
	Error   string        `json:",omitempty"`
	Rule    string        `json:",omitempty"`
	URL     string        `json:",omitempty"`
	Line    int           `json:",omitempty"`
	EndLine int           `json:",omitempty"`
	Current int64         `json:",omitempty"` // bytes
	Total   int64         `json:",omitempty"`
}

// BuildStep is a vertex of the graph.
type BuildStep struct {
	ID    int
	Name  string
	Stage string
	Line  int `json:",omitempty"`
}
