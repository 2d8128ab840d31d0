package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/cacheformat"
	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/records"
	"strata/engined/internal/supervisor"
	"strata/pkg/cleanup"
	"strata/pkg/identifiers"
	"strata/pkg/manifest"
)

// checkCaches refuses caches that cannot be.
func (r *Request) checkCaches() error {
	for _, c := range r.CacheFrom {
		if err := c.check(CacheRegistry, CacheLocal); err != nil {
			return fmt.Errorf("--cache-from type=%s: %w", c.Type, err)
		}
	}
	for _, c := range r.CacheTo {
		if err := c.check(CacheRegistry, CacheLocal, CacheInline); err != nil {
			return fmt.Errorf("--cache-to type=%s: %w", c.Type, err)
		}
		if m := c.Attrs["mode"]; m != "" && m != "min" && m != cacheMax {
			return fmt.Errorf("--cache-to mode=%s: want min or max: %w", m, errdefs.ErrInvalidArgument)
		}
		if _, err := c.mayFail(); err != nil {
			return err
		}
	}
	return nil
}

// cacheMax is the mode of a cache of all stages.
const cacheMax = "max"

// foreignCaches are BuildKit's kinds that are not here.
var foreignCaches = []string{"azblob", "gha", "s3"}

func (c *CacheOption) check(kinds ...string) error {
	there := strings.Join(kinds, ", ")
	switch {
	case slices.Contains(foreignCaches, c.Type):
		return fmt.Errorf("there is %s: %w", there, errdefs.ErrNotImplemented)
	case !slices.Contains(kinds, c.Type):
		return fmt.Errorf("unknown: there is %s: %w", there, errdefs.ErrInvalidArgument)
	case c.Type == CacheRegistry && c.Attrs["ref"] == "":
		return fmt.Errorf("it needs ref: %w", errdefs.ErrInvalidArgument)
	case c.Type == CacheLocal && c.Blobs == nil:
		return fmt.Errorf("it needs a directory: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// mayFail reports whether a build is good without the cache.
func (c *CacheOption) mayFail() (bool, error) {
	v := c.Attrs["ignore-error"]
	if v == "" {
		return false, nil
	}
	ok, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("--cache-to ignore-error=%s: want true or false: %w", v, errdefs.ErrInvalidArgument)
	}
	return ok, nil
}

// exportCaches writes the caches that --cache-to asks for. Those in directories of the client
// get the same, the most that is asked for: of Solve's answer clients take one manifest for
// all of them.
func (b *builder) exportCaches(ctx context.Context) error {
	local := slices.ContainsFunc(b.r.CacheTo, func(c CacheOption) bool { return c.Type == CacheLocal && c.Attrs["mode"] == cacheMax })
	for _, c := range b.r.CacheTo {
		if c.Type == CacheInline {
			continue // it is in the image
		}
		all := c.Attrs["mode"] == cacheMax || c.Type == CacheLocal && local
		err := b.task("exporting cache to "+where(c), func(*dockerfile.Vertex) error { return b.exportCache(ctx, c, all) })
		if mayFail, _ := c.mayFail(); err != nil && (!mayFail || ctx.Err() != nil) { // it has been checked
			return fmt.Errorf("export cache: %w", err)
		}
	}
	return nil
}

func where(c CacheOption) string {
	if c.Type == CacheRegistry {
		return "registry " + c.Attrs["ref"]
	}
	return "client directory"
}

// exportCache writes one cache, of all stages or of what the image consists of: its layers,
// the configuration and a manifest.
func (b *builder) exportCache(ctx context.Context, c CacheOption, all bool) error {
	ctx, err := b.leased(ctx)
	if err != nil {
		return err
	}
	w := cacheformat.NewWriter()
	for _, p := range b.products {
		if err := b.collectCache(ctx, w, p, all); err != nil {
			return err
		}
	}
	blobs := c.Blobs
	if c.Type == CacheRegistry {
		if blobs, err = b.repository(c.Attrs["ref"], "pull", "push"); err != nil {
			return err
		}
	}
	for _, d := range w.Blobs() {
		if err := blobs.Write(ctx, d, b.s.sup.OpenContent(ctx, d)); err != nil {
			return err
		}
	}
	raw, err := w.JSON()
	if err != nil {
		return err
	}
	config := ocispec.Descriptor{MediaType: cacheformat.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := blobs.Write(ctx, config, bytes.NewReader(raw)); err != nil {
		return err
	}
	doc, err := json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: w.Blobs()})
	if err != nil {
		return err
	}
	target := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(doc), Size: int64(len(doc))}
	if err := blobs.Write(ctx, target, bytes.NewReader(doc)); err != nil {
		return err
	}
	tag := c.Attrs["tag"]
	if tag == "" {
		tag = "latest"
	}
	return blobs.Tag(ctx, tag, target)
}

// collectCache adds the records of a product: those that its image consists of, or (all)
// those of every stage.
func (b *builder) collectCache(ctx context.Context, w *cacheformat.Writer, p *product, all bool) error {
	add := func(v *dockerfile.Vertex, rec *records.Record) error {
		if rec.Link != "" {
			return b.collectLink(ctx, w, v, rec)
		}
		layers, err := b.layersOf(ctx, v, rec)
		if err != nil {
			return err
		}
		plain, err := b.plainKey(ctx, v)
		if err != nil {
			return err
		}
		w.Add(rec, plain, layers)
		return nil
	}
	var err error
	for v, rec := p.plan.Target, p.top; v.Parent != nil; v = v.Parent {
		if err := add(v, rec); err != nil {
			return err
		}
		if rec, err = b.below(v, rec); err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	for _, v := range p.plan.Vertices {
		rec, ok := b.known(ctx, v)
		if !ok || v.Exported {
			continue
		}
		if err := add(v, rec); err != nil {
			return err
		}
	}
	return nil
}

// collectLink adds the layer that v has placed: it is of use upon any parent.
func (b *builder) collectLink(ctx context.Context, w *cacheformat.Writer, v *dockerfile.Vertex, rec *records.Record) error {
	link, ok := b.s.cache.Get(rec.Link)
	layer := b.links.layerOf(v)
	if !ok || link.Layer == nil || layer == nil || !b.hasLayer(ctx, link) {
		return nil // it has no files, or was pruned by id
	}
	link, err := b.ensureLayer(ctx, link, "")
	if err != nil {
		return err
	}
	plain, err := b.plainKey(ctx, layer)
	if err != nil {
		return err
	}
	w.Add(link, plain, []records.Layer{*link.Layer})
	return nil
}

// known returns the record of a vertex, whether this build made it or looked no further
// than what is above it.
func (b *builder) known(ctx context.Context, v *dockerfile.Vertex) (*records.Record, bool) {
	if v.Parent == nil {
		return nil, false
	}
	b.mu.Lock()
	p := b.solving[v]
	b.mu.Unlock()
	if p != nil {
		<-p.done
		return p.rec, p.err == nil
	}
	plain, err := b.plainKey(ctx, v)
	if err != nil || plain == "" {
		return nil, false
	}
	rec, ok := b.s.cache.Alias(plain)
	return rec, ok && b.usable(ctx, rec)
}

// inlineCache is the cache of an image as a field of its configuration.
func (b *builder) inlineCache(ctx context.Context, p *product) (map[string]json.RawMessage, error) {
	w := cacheformat.NewWriter()
	if err := b.collectCache(ctx, w, p, false); err != nil {
		return nil, err
	}
	raw, err := w.JSON()
	if err != nil {
		return nil, err
	}
	field, err := json.Marshal(raw) // base64, as BuildKit has it
	return map[string]json.RawMessage{cacheformat.InlineField: field}, err
}

// imports is what --cache-from knows, by key. It is read when the cache here has missed.
type imports struct {
	once  sync.Once
	known map[string]foreign
}

// foreign is a result that a cache elsewhere has.
type foreign struct {
	cacheformat.Result
	blobs Blobs
}

// imported returns what a cache elsewhere has under a key.
func (b *builder) imported(ctx context.Context, k string) (foreign, bool) {
	if len(b.r.CacheFrom) == 0 || k == "" {
		return foreign{}, false
	}
	b.imports.once.Do(func() {
		b.imports.known = map[string]foreign{}
		for _, c := range b.r.CacheFrom {
			_ = b.task("importing cache manifest from "+where(c), func(*dockerfile.Vertex) error { // a cache that is not there is no reason to fail
				found, err := b.readCache(ctx, c)
				for k, f := range found {
					if _, ok := b.imports.known[k]; !ok {
						b.imports.known[k] = f
					}
				}
				return err
			})
		}
	})
	f, ok := b.imports.known[k]
	return f, ok
}

// maxCacheConfig bounds a cacheConfig, in bytes.
const maxCacheConfig = 64 << 20

// readCache reads a cache's configuration: that of a cache manifest, or what an image has
// inline.
func (b *builder) readCache(ctx context.Context, c CacheOption) (map[string]foreign, error) {
	blobs := c.Blobs
	var err error
	if c.Type == CacheRegistry {
		if blobs, err = b.repository(c.Attrs["ref"]); err != nil {
			return nil, err
		}
	}
	target, err := cacheTarget(ctx, c, blobs)
	if err != nil {
		return nil, err
	}
	configs, err := cacheConfigsOf(ctx, blobs, target, 0)
	if err != nil {
		return nil, err
	}
	known := map[string]foreign{}
	for _, c := range configs {
		found, cerr := readCacheConfig(ctx, blobs, c)
		if cerr != nil {
			err = errors.Join(err, cerr)
			continue
		}
		for k, f := range found {
			if _, ok := known[k]; !ok {
				known[k] = f
			}
		}
	}
	if len(known) > 0 {
		err = nil // of one platform, say
	}
	return known, err
}

// readCacheConfig reads one configuration: a cache's, or that of an image with a cache
// inline.
func readCacheConfig(ctx context.Context, blobs Blobs, config ocispec.Descriptor) (map[string]foreign, error) {
	raw, err := readBlob(ctx, blobs, config, maxCacheConfig)
	if err != nil {
		return nil, err
	}
	found, err := cacheformat.Read(config.MediaType, raw)
	if err != nil {
		return nil, err
	}
	out := make(map[string]foreign, len(found))
	for k, r := range found {
		out[k] = foreign{r, blobs}
	}
	return out, nil
}

func cacheTarget(ctx context.Context, c CacheOption, blobs Blobs) (ocispec.Descriptor, error) {
	if sum := c.Attrs["digest"]; sum != "" {
		d, err := digest.Parse(sum)
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("digest %q: %w: %w", sum, err, errdefs.ErrInvalidArgument)
		}
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d}, nil
	}
	tag := c.Attrs["tag"]
	if tag == "" {
		tag = "latest"
	}
	return blobs.Resolve(ctx, tag)
}

// maxCaches bounds the images of an index that are asked for their caches.
const maxCaches = 64

// cacheConfigsOf finds the configurations below a manifest or an index: those of all
// platforms, or that of BuildKit's older form, which lists layers and configuration itself.
func cacheConfigsOf(ctx context.Context, blobs Blobs, d ocispec.Descriptor, depth int) ([]ocispec.Descriptor, error) {
	raw, err := readBlob(ctx, blobs, d, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	doc, err := manifest.Parse(d.MediaType, raw)
	if err != nil {
		return nil, err
	}
	if !doc.IsIndex() {
		return []ocispec.Descriptor{doc.Config}, nil
	}
	for _, c := range doc.Manifests {
		if c.MediaType == cacheformat.MediaType {
			return []ocispec.Descriptor{c}, nil
		}
	}
	var out []ocispec.Descriptor
	for _, c := range doc.Manifests {
		if manifest.IsAttestation(c) || depth >= maxDepth || len(out) >= maxCaches {
			continue
		}
		more, err := cacheConfigsOf(ctx, blobs, c, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("index %s has no cache: %w", d.Digest, errdefs.ErrNotFound)
	}
	return out, nil
}

// fromElsewhere makes the record of v, and of what is below it, of a cache elsewhere; nil
// if that has not got it all.
func (b *builder) fromElsewhere(ctx context.Context, v *dockerfile.Vertex, k string) (*records.Record, error) {
	f, ok := b.imported(ctx, k)
	if !ok {
		return nil, nil
	}
	parent, err := b.belowElsewhere(ctx, v)
	if err != nil || parent == nil {
		return nil, err
	}
	return b.adopt(ctx, v, parent, f, k)
}

// belowElsewhere returns the record of what v is built upon, without making anything.
func (b *builder) belowElsewhere(ctx context.Context, v *dockerfile.Vertex) (*records.Record, error) {
	below := v.Parent
	if below.Parent == nil {
		return b.solve(ctx, below)
	}
	plain, err := b.plainKey(ctx, below)
	if err != nil || plain == "" {
		return nil, err
	}
	if rec, ok := b.s.cache.Alias(plain); ok && b.usable(ctx, rec) {
		return rec, nil
	}
	if layer := b.links.layerOf(below); layer != nil {
		return b.linkElsewhere(ctx, below, layer)
	}
	return b.fromElsewhere(ctx, below, plain)
}

// linkElsewhere returns the record of a step that places a layer if that, and all below,
// need not be made.
func (b *builder) linkElsewhere(ctx context.Context, v, layer *dockerfile.Vertex) (*records.Record, error) {
	parent, err := b.belowElsewhere(ctx, v)
	if err != nil || parent == nil {
		return nil, err
	}
	plain, err := b.plainKey(ctx, layer)
	if err != nil || plain == "" {
		return nil, err
	}
	_, there := b.imported(ctx, plain)
	if rec, ok := b.s.cache.Alias(plain); ok && b.usable(ctx, rec) {
		there = true
	}
	if !there {
		return nil, nil
	}
	return b.solve(ctx, v)
}

// adopt fetches the layer that v adds to its parent and keeps it as a record.
func (b *builder) adopt(ctx context.Context, v *dockerfile.Vertex, parent *records.Record, f foreign, k string) (*records.Record, error) {
	below, err := b.layersOf(ctx, v.Parent, parent)
	if err != nil {
		return nil, err
	}
	n := len(f.Layers) - len(below)
	if n != 0 && n != 1 || !slices.EqualFunc(below, f.Layers[:len(below)], func(a, b records.Layer) bool { return a.DiffID == b.DiffID }) {
		return nil, nil // of another base
	}
	b.later(b.s.hold(f.Content))
	rec := &records.Record{Key: f.Content, Parent: parent.Key, Snapshot: parent.Snapshot, Unchanged: true, Name: v.Name, Created: f.Created, LastUsed: b.started, Uses: 1}
	if n == 1 {
		alone := b.links.stepOf(v) != nil
		if err := b.task("importing layer of "+v.Name, func(*dockerfile.Vertex) error { return b.adoptLayer(ctx, rec, f, alone) }); err != nil {
			return nil, err
		}
	}
	var aliases []string
	if k != f.Content {
		aliases = append(aliases, k)
	}
	return rec, b.s.cache.Put(rec, aliases...)
}

// adoptLayer fetches the uppermost layer of f and extracts it above rec's parent, unless it
// stays alone.
func (b *builder) adoptLayer(ctx context.Context, rec *records.Record, f foreign, alone bool) error {
	ctx, err := b.leased(ctx)
	if err != nil {
		return err
	}
	l := f.Layers[len(f.Layers)-1]
	if err := b.takeBlob(ctx, f.blobs, l.Descriptor); err != nil {
		return fmt.Errorf("import cache: %w", err)
	}
	if err := b.s.sup.LabelContent(ctx, l.Descriptor.Digest, rootLabels()); err != nil {
		return err
	}
	if alone {
		rec.Layer, rec.Unchanged = &l, false
		return nil
	}
	snapshotter := b.s.images.Snapshotter()
	active := "build-" + identifiers.Short(identifiers.New())
	defer b.s.hold(active)()
	mounts, err := b.s.sup.PrepareSnapshot(ctx, snapshotter, active, rec.Snapshot, rootLabels())
	if err != nil {
		return fmt.Errorf("prepare snapshot: %w", err)
	}
	var undo cleanup.Stack
	defer undo.Clean()
	undo.Add(func() { b.s.dropSnapshot(ctx, active) })
	if err := b.extract(ctx, l, mounts); err != nil {
		return fmt.Errorf("import cache: %w", err)
	}
	var ids []digest.Digest
	for _, x := range f.Layers {
		ids = append(ids, x.DiffID)
	}
	if err := b.settle(ctx, rec, manifest.ChainIDs(ids)[len(ids)-1].String(), supervisor.Commit{Key: active}); err != nil {
		return err
	}
	rec.Layer = &l
	undo.Release() // the active snapshot is the committed one now
	return nil
}
