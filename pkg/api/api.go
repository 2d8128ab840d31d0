// Package api holds the messages of engined's REST routes that dockerd lacks. Everything
// else on that API is a type of github.com/moby/moby/api.
package api

import "time"

// Routes of ours, below the API version prefix.
const (
	// ExplainRoute answers GET with an Explanation of container {id}.
	ExplainRoute = "/containers/{id}/explain"
	// DoctorRoute answers GET with Findings; POST repairs what is safe to repair.
	DoctorRoute = "/system/doctor"
)

// UpdatePublish is the member of the body of POST /containers/{id}/update in which
// PublishChange goes, beside those of container.UpdateConfig. dockerd ignores it.
const UpdatePublish = "StrataPublish"

// PublishChange withdraws published ports and publishes others: all of it or, after an
// error, nothing.
type PublishChange struct {
	Add    []PublishedPort `json:",omitempty"`
	Remove []string        `json:",omitempty"` // [IP:]HOSTPORT[-HOSTPORT][:CONTAINERPORT][/PROTOCOL]
}

// PublishedPort is one port to publish.
type PublishedPort struct {
	Proto         string // tcp, udp, sctp
	ContainerPort uint16
	HostIP        string // "" is every address
	HostPort      string // a port, a range to choose from, or "" for a random one
}

// TraceHeader carries the trace id of a request through every process of the chain.
const TraceHeader = "X-Strata-Trace"

// Explanation is everything that a container consists of, and where the time of its last
// start went.
type Explanation struct {
	ID      string
	Name    string
	Steps   []Step
	Objects []Object
}

// Step is one piece of work of one layer (engined, supervisord, shim, ocirun).
type Step struct {
	Layer    string
	Name     string
	Start    time.Time
	Duration time.Duration // nanoseconds
}

// Object is one thing in the kernel or on disk, and the layer that made it.
type Object struct {
	Kind   string
	ID     string
	Detail string
	Layer  string
}

// Finding is one thing that is not as the records say.
type Finding struct {
	Layer    string
	Code     string
	Subject  string
	Detail   string
	Remedy   string
	Repaired bool
}
