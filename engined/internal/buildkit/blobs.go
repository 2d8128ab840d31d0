package buildkit

import (
	"strata/engined/internal/build"
)

// blobs is a store of content at the client; nil without a session.
func (j *job) blobs(store string) build.Blobs {
	if j.session == nil {
		return nil
	}
	return j.session.Blobs(store)
}
