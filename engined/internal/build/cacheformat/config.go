package cacheformat

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/records"
)

// MediaType is that of a cache's configuration.
const MediaType = "application/vnd.buildkit.cacheconfig.v0"

// InlineField is where an image's configuration holds that of its cache, in base64.
const InlineField = "moby.buildkit.cache.v0"

type config struct {
	Layers  []layer  `json:"layers"`
	Records []record `json:"records,omitempty"`
}

// layer is a layer above the one at index Parent; -1 for none.
type layer struct {
	Blob        digest.Digest `json:"blob,omitempty"`
	Parent      int           `json:"parent,omitempty"`
	Annotations *layerNotes   `json:"annotations,omitempty"`
}

type layerNotes struct {
	MediaType string        `json:"mediaType,omitempty"`
	DiffID    digest.Digest `json:"diffID,omitempty"`
	Size      int64         `json:"size,omitempty"`
}

// record is what is known under a key. For a content key, Inputs link to the record
// below; for a plain key, to the record of the content key that it stands for.
type record struct {
	Results []result      `json:"layers,omitempty"`
	Digest  digest.Digest `json:"digest,omitempty"`
	Inputs  [][]input     `json:"inputs,omitempty"`
}

type result struct {
	Layer     int       `json:"layer"`
	CreatedAt time.Time `json:"createdAt,omitzero"`
}

type input struct {
	Selector string `json:"selector,omitempty"`
	Link     int    `json:"link"`
}

// selectorPlain marks the link from a plain key to its content key.
const selectorPlain = "strata.plain"

// Writer makes a configuration.
type Writer struct {
	config  config
	layers  map[place]int
	records map[string]int // by key
	blobs   []ocispec.Descriptor
}

// place is where a layer is: above the one at index parent.
type place struct {
	parent int
	blob   digest.Digest
}

// NewWriter returns a writer of an empty configuration.
func NewWriter() *Writer {
	return &Writer{layers: map[place]int{}, records: map[string]int{}}
}

// Blobs are the layers, each once.
func (w *Writer) Blobs() []ocispec.Descriptor { return w.blobs }

// JSON is the configuration.
func (w *Writer) JSON() ([]byte, error) { return json.Marshal(w.config) }

// chain adds layers, lowest first, and returns the index of the uppermost.
func (w *Writer) chain(layers []records.Layer) int {
	at := -1
	for _, l := range layers {
		k := place{at, l.Descriptor.Digest}
		i, ok := w.layers[k]
		if !ok {
			i = len(w.config.Layers)
			w.layers[k] = i
			w.config.Layers = append(w.config.Layers, layer{
				Blob: l.Descriptor.Digest, Parent: at,
				Annotations: &layerNotes{MediaType: l.Descriptor.MediaType, DiffID: l.DiffID, Size: l.Descriptor.Size},
			})
			if !slices.ContainsFunc(w.blobs, func(d ocispec.Descriptor) bool { return d.Digest == l.Descriptor.Digest }) {
				w.blobs = append(w.blobs, ocispec.Descriptor{MediaType: l.Descriptor.MediaType, Digest: l.Descriptor.Digest, Size: l.Descriptor.Size})
			}
		}
		at = i
	}
	return at
}

// Add adds the record of a content key, and the plain key that leads to it ("" for none).
func (w *Writer) Add(rec *records.Record, plain string, layers []records.Layer) {
	top := w.chain(layers)
	if top < 0 {
		return
	}
	i, ok := w.records[rec.Key]
	if !ok {
		i = len(w.config.Records)
		w.records[rec.Key] = i
		w.config.Records = append(w.config.Records, record{Digest: digest.Digest(rec.Key), Results: []result{{top, rec.Created}}})
	}
	if _, ok := w.records[plain]; ok || plain == "" {
		return
	}
	w.records[plain] = len(w.config.Records)
	w.config.Records = append(w.config.Records, record{
		Digest: digest.Digest(plain), Results: []result{{top, rec.Created}}, Inputs: [][]input{{{selectorPlain, i}}},
	})
}

// Result is what a cache has under a key.
type Result struct {
	Content string // its content key
	Layers  []records.Layer
	Created time.Time
}

// Read returns the results by key of a configuration: of a cache, or, by its media type, of
// an image with a cache inline. What does not hold together is left out. Errors:
// ErrInvalidArgument for what is no JSON, ErrNotFound for an image without a cache.
func Read(mediaType string, raw []byte) (map[string]Result, error) {
	if mediaType != MediaType {
		var img struct {
			Cache []byte `json:"moby.buildkit.cache.v0"`
		}
		if err := json.Unmarshal(raw, &img); err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		if raw = img.Cache; len(raw) == 0 {
			return nil, fmt.Errorf("the image has no inline cache: %w", errdefs.ErrNotFound)
		}
	}
	var c config
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("cache configuration: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return c.results(), nil
}

func (c *config) results() map[string]Result {
	out := map[string]Result{}
	for _, r := range c.Records {
		if len(r.Results) == 0 || r.Digest.Validate() != nil {
			continue
		}
		f := Result{Content: r.Digest.String(), Created: r.Results[0].CreatedAt}
		if len(r.Inputs) > 0 && len(r.Inputs[0]) > 0 && r.Inputs[0][0].Selector == selectorPlain {
			link := r.Inputs[0][0].Link
			if link < 0 || link >= len(c.Records) {
				continue
			}
			f.Content = c.Records[link].Digest.String()
		}
		var ok bool
		if f.Layers, ok = c.chainOf(r.Results[0].Layer); ok {
			out[r.Digest.String()] = f
		}
	}
	return out
}

// chainOf returns the layers up to index i, lowest first.
func (c *config) chainOf(i int) ([]records.Layer, bool) {
	var out []records.Layer
	for i >= 0 {
		if i >= len(c.Layers) || len(out) > len(c.Layers) || c.Layers[i].Annotations == nil {
			return nil, false
		}
		l := c.Layers[i]
		if l.Blob.Validate() != nil || l.Annotations.DiffID.Validate() != nil {
			return nil, false
		}
		out = append([]records.Layer{{
			Descriptor: ocispec.Descriptor{MediaType: l.Annotations.MediaType, Digest: l.Blob, Size: l.Annotations.Size}, DiffID: l.Annotations.DiffID,
		}}, out...)
		i = l.Parent
	}
	return out, len(out) > 0
}
