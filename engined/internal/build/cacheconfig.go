package build

import (
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The format in which BuildKit gives its cache away: a manifest of layers whose
// configuration is a cacheConfig. The keys in it are ours: tools that list, copy or prune
// such caches work, but neither builder finds its steps in a cache of the other.
//
// Source: moby/buildkit cache/remotecache/v1/spec.go.
const mediaTypeCacheConfig = "application/vnd.buildkit.cacheconfig.v0"

// inlineCacheField is where an image's configuration holds a cacheConfig.
const inlineCacheField = "moby.buildkit.cache.v0"

type cacheConfig struct {
	Layers  []cacheLayer  `json:"layers"`
	Records []cacheRecord `json:"records,omitempty"`
}

// cacheLayer is a layer above the one at index Parent; -1 for none.
type cacheLayer struct {
	Blob        digest.Digest    `json:"blob,omitempty"`
	Parent      int              `json:"parent,omitempty"`
	Annotations *cacheLayerNotes `json:"annotations,omitempty"`
}

type cacheLayerNotes struct {
	MediaType string        `json:"mediaType,omitempty"`
	DiffID    digest.Digest `json:"diffID,omitempty"`
	Size      int64         `json:"size,omitempty"`
}

// cacheRecord is what is known under a key. For a content key, Inputs link to the record
// below; for a plain key, to the record of the content key that it stands for.
type cacheRecord struct {
	Results []cacheResult  `json:"layers,omitempty"`
	Digest  digest.Digest  `json:"digest,omitempty"`
	Inputs  [][]cacheInput `json:"inputs,omitempty"`
}

type cacheResult struct {
	Layer     int       `json:"layer"`
	CreatedAt time.Time `json:"createdAt,omitzero"`
}

type cacheInput struct {
	Selector string `json:"selector,omitempty"`
	Link     int    `json:"link"`
}

// selectorPlain marks the link from a plain key to its content key.
const selectorPlain = "strata.plain"

// cacheWriter makes a cacheConfig.
type cacheWriter struct {
	config  cacheConfig
	layers  map[string]int // by parent and digest
	records map[string]int // by key
	blobs   []ocispec.Descriptor
}

func newCacheWriter() *cacheWriter {
	return &cacheWriter{layers: map[string]int{}, records: map[string]int{}}
}

// chain adds layers, lowest first, and returns the index of the uppermost.
func (w *cacheWriter) chain(layers []Layer) int {
	at := -1
	for _, l := range layers {
		k := key(strconv.Itoa(at), l.Descriptor.Digest.String())
		i, ok := w.layers[k]
		if !ok {
			i = len(w.config.Layers)
			w.layers[k] = i
			w.config.Layers = append(w.config.Layers, cacheLayer{
				Blob: l.Descriptor.Digest, Parent: at,
				Annotations: &cacheLayerNotes{MediaType: l.Descriptor.MediaType, DiffID: l.DiffID, Size: l.Descriptor.Size},
			})
			if !slices.ContainsFunc(w.blobs, func(d ocispec.Descriptor) bool { return d.Digest == l.Descriptor.Digest }) {
				w.blobs = append(w.blobs, ocispec.Descriptor{MediaType: l.Descriptor.MediaType, Digest: l.Descriptor.Digest, Size: l.Descriptor.Size})
			}
		}
		at = i
	}
	return at
}

// add adds the record of a content key, and the plain key that leads to it ("" for none).
func (w *cacheWriter) add(rec *Record, plain string, layers []Layer) {
	top := w.chain(layers)
	if top < 0 {
		return
	}
	i, ok := w.records[rec.Key]
	if !ok {
		i = len(w.config.Records)
		w.records[rec.Key] = i
		w.config.Records = append(w.config.Records, cacheRecord{Digest: digest.Digest(rec.Key), Results: []cacheResult{{top, rec.Created}}})
	}
	if _, ok := w.records[plain]; ok || plain == "" {
		return
	}
	w.records[plain] = len(w.config.Records)
	w.config.Records = append(w.config.Records, cacheRecord{
		Digest: digest.Digest(plain), Results: []cacheResult{{top, rec.Created}}, Inputs: [][]cacheInput{{{selectorPlain, i}}},
	})
}

// foreign is a result that a cache elsewhere has.
type foreign struct {
	content string // content key
	layers  []Layer
	created time.Time
	blobs   Blobs
}

// read returns the results of a cacheConfig by key. What does not hold together is left
// out.
func (c *cacheConfig) read(blobs Blobs) map[string]foreign {
	out := map[string]foreign{}
	for _, r := range c.Records {
		if len(r.Results) == 0 || r.Digest.Validate() != nil {
			continue
		}
		f := foreign{content: r.Digest.String(), created: r.Results[0].CreatedAt, blobs: blobs}
		if len(r.Inputs) > 0 && len(r.Inputs[0]) > 0 && r.Inputs[0][0].Selector == selectorPlain {
			link := r.Inputs[0][0].Link
			if link < 0 || link >= len(c.Records) {
				continue
			}
			f.content = c.Records[link].Digest.String()
		}
		var ok bool
		if f.layers, ok = c.chainOf(r.Results[0].Layer); ok {
			out[r.Digest.String()] = f
		}
	}
	return out
}

// chainOf returns the layers up to index i, lowest first.
func (c *cacheConfig) chainOf(i int) ([]Layer, bool) {
	var out []Layer
	for i >= 0 {
		if i >= len(c.Layers) || len(out) > len(c.Layers) || c.Layers[i].Annotations == nil {
			return nil, false
		}
		l := c.Layers[i]
		if l.Blob.Validate() != nil || l.Annotations.DiffID.Validate() != nil {
			return nil, false
		}
		out = append([]Layer{{
			Descriptor: ocispec.Descriptor{MediaType: l.Annotations.MediaType, Digest: l.Blob, Size: l.Annotations.Size}, DiffID: l.Annotations.DiffID,
		}}, out...)
		i = l.Parent
	}
	return out, len(out) > 0
}
