package buildkit

import (
	"context"
	"encoding/json"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build"
	"strata/engined/internal/buildkit/session"
	"strata/pkg/buildkit"
)

// blobs is a store of content at the client; nil without a session.
func (j *job) blobs(store string) build.Blobs {
	if j.session == nil {
		return nil
	}
	return &blobs{j.session.Blobs(store), j}
}

// blobs is a client's store, whose index the client writes by what Solve answers.
type blobs struct {
	*session.Blobs
	j *job
}

// Tag implements build.Blobs.
func (b *blobs) Tag(_ context.Context, _ string, d ocispec.Descriptor) error {
	b.j.mu.Lock()
	defer b.j.mu.Unlock()
	b.j.cache = &d
	return nil
}

// tellCache adds what Tag was told to an answer.
func (j *job) tellCache(resp map[string]string) (map[string]string, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.cache == nil {
		return resp, nil
	}
	raw, err := json.Marshal(j.cache)
	if resp == nil {
		resp = map[string]string{}
	}
	resp[buildkit.KeyCacheManifest] = string(raw)
	return resp, err
}
