// Package containers keeps container records: spec, image, snapshot key, runtime,
// labels. A record survives the stop of its task and knows nothing of it. Start reading
// at [Store].
package containers
