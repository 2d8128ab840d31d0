package build

import (
	"time"

	"strata/engined/internal/build/dockerfile"
)

// Observer is told what a build does. Its methods are called from several goroutines, and
// must not block for long.
type Observer interface {
	// Planned comes first, when the graphs are known: one for each platform. Several may
	// have a vertex in common.
	Planned(plans []*dockerfile.Plan)
	// Added is a vertex that no Dockerfile has: work of the builder's own, such as loading
	// the context and writing the image.
	Added(v *dockerfile.Vertex)
	// Started says that v is being made; container is the id of a RUN's container.
	Started(v *dockerfile.Vertex, container string)
	// Output is what v's command wrote, or a word about v's progress.
	Output(v *dockerfile.Vertex, data []byte, stderr bool)
	// Ended says how it ended.
	Ended(v *dockerfile.Vertex, how Ending)
	// Pulling is a line about an image that is being pulled.
	Pulling(image, id, status string, current, total int64)
}

// Ending is how a vertex ended.
type Ending struct {
	Key    string // names the result; "" after an error
	Cached bool
	Took   time.Duration
	Err    error
}
