package build

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/images"
)

// output is an Output whose attributes have been read.
type output struct {
	Output
	names       []string // full references; with byDigest, repositories
	push        bool
	byDigest    bool // push without a tag
	store       bool // keep the image in the engine's store
	naming      naming
	compression compression
	docker      bool // Docker's media types
	split       bool // a directory for each platform
	annotations []Annotation
	inline      bool // cache goes into the image's configuration
	attest      attesting
	unknown     []string // attributes of which the user is to be told
}

// naming is what else an image of the store is called.
type naming struct {
	canonical bool   // NAME@DIGEST, too
	dangling  string // if not "", PREFIX@DIGEST
	onlyEmpty bool   // that only if there is no name
}

// attesting says how attestations go with an output.
type attesting struct {
	wanted bool   // they do
	always bool   // those, too, that are for images of the store only
	prefix string // of the names of files
}

// compression says how layers are compressed.
type compression struct {
	kind  string // "gzip", "zstd", "uncompressed"
	level *int   // nil for the default
	force bool   // those of the base, too
}

// outputs reads what is to be made, before anything is.
func (r *Request) outputs() ([]output, error) {
	if r.Provenance.SBOM {
		return nil, fmt.Errorf("--sbom: attestations of what is in an image: %w", errdefs.ErrNotImplemented)
	}
	if m := r.Provenance.Mode; m != "" && m != "min" && m != "max" {
		return nil, fmt.Errorf("provenance mode %q: want min or max: %w", m, errdefs.ErrInvalidArgument)
	}
	if v := r.Provenance.Version; v != "" && v != slsa1 && v != slsa02 {
		return nil, fmt.Errorf("provenance version %q: want %s or %s: %w", v, slsa1, slsa02, errdefs.ErrInvalidArgument)
	}
	if err := r.checkCaches(); err != nil {
		return nil, err
	}
	list := r.Outputs
	if len(list) == 0 {
		list = []Output{{Type: OutputImage}}
	}
	var out []output
	for _, o := range list {
		x, err := r.output(o)
		if err != nil {
			return nil, fmt.Errorf("output type=%s: %w", o.Type, err)
		}
		out = append(out, x)
	}
	return out, nil
}

// output reads one output: what its kind begins with, and then its attributes.
func (r *Request) output(o Output) (output, error) {
	x := output{Output: o, compression: compression{kind: "gzip"}, annotations: slices.Clone(r.Annotations)}
	x.inline = slices.ContainsFunc(r.CacheTo, func(c CacheOption) bool { return c.Type == CacheInline })
	archive := x.outside()
	switch o.Type {
	case OutputImage, "moby":
		x.Type, x.store, x.names, x.attest.always = OutputImage, true, slices.Clone(r.Tags), true
	case outputRegistry:
		x.Type, x.store, x.push, x.names, x.attest.always = OutputImage, true, true, slices.Clone(r.Tags), true
	case OutputDocker:
		x.names, x.store, x.docker, x.attest.always = slices.Clone(r.Tags), !archive, archive && len(r.Annotations) == 0, !archive
	case OutputOCI:
		x.names = slices.Clone(r.Tags)
	case OutputLocal, OutputTar:
		x.split = len(r.Platforms) > 1
	case OutputCacheOnly:
	default:
		kinds := []string{OutputImage, outputRegistry, OutputDocker, OutputOCI, OutputLocal, OutputTar, OutputCacheOnly}
		return x, fmt.Errorf("unknown: want one of %s%s: %w", strings.Join(kinds, ", "), dockerfile.Nearest(o.Type, kinds), errdefs.ErrInvalidArgument)
	}
	if !archive && slices.Contains([]string{OutputOCI, OutputLocal, OutputTar}, x.Type) {
		return x, fmt.Errorf("no destination: %w", errdefs.ErrInvalidArgument)
	}
	if v, ok := o.Attrs["push-by-digest"]; ok { // what a name may be depends on it
		if err := readFlag("push-by-digest", v, &x.byDigest); err != nil {
			return x, err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(o.Attrs)) {
		if err := x.attribute(k, o.Attrs[k]); err != nil {
			return x, err
		}
	}
	x.attest.wanted = r.Provenance.Mode != "" && (x.attest.always || !r.Provenance.InlineOnly) && !(x.Type == OutputDocker && archive)
	return x, x.check()
}

// check refuses what does not go together.
func (x *output) check() error {
	slices.Sort(x.names)
	x.names = slices.Compact(x.names)
	if x.push && len(x.names) == 0 {
		return fmt.Errorf("push needs a name: %w", errdefs.ErrInvalidArgument)
	}
	for _, name := range x.names {
		if named, err := reference.ParseNormalizedNamed(name); x.byDigest && (err != nil || !reference.IsNameOnly(named)) {
			return fmt.Errorf("can't push tagged ref %s by digest: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	if v, ok := x.Attrs["oci-mediatypes"]; ok && v != "" && x.docker && x.compression.kind == "zstd" {
		return fmt.Errorf("compression=zstd conflicts with oci-mediatypes=%s: %w", v, errdefs.ErrInvalidArgument)
	}
	if l := x.compression.level; l != nil {
		most := map[string]int{"gzip": 9, "zstd": 22}[x.compression.kind]
		if *l < 0 || *l > most && most > 0 {
			return fmt.Errorf("compression-level=%d: want 0 to %d for %s: %w", *l, most, x.compression.kind, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// outputRegistry is OutputImage that is pushed.
const outputRegistry = "registry"

// attributes are those that BuildKit's exporters have; one that is for another kind of
// output says nothing there, as with BuildKit.
//
// Source: moby/buildkit v0.32.2 exporter/containerimage/exptypes/keys.go,
// exporter/{local/fs.go,oci/export.go}, exporter/exptypes/keys.go.
var attributes = []string{
	"annotation", "attestation-inline", "attestation-prefix", "compression", "compression-level", "danging-name-empty-only", "dangling-name-prefix",
	"force-compression", "mode", "name", "name-canonical", "oci-artifact", "oci-mediatypes", "platform-split", "prefer-nondist-layers", "push",
	"push-by-digest", "registry.insecure", "rewrite-timestamp", "source-date-epoch", "store", "tar", "unpack",
}

// clientAttributes are those that clients pass along and look at themselves.
var clientAttributes = []string{"buildinfo", "buildinfo-attrs", "prefer-image-digest"}

// attribute reads one attribute.
func (x *output) attribute(k, v string) error {
	if to := x.flag(k); to != nil {
		return readFlag(k, v, to)
	}
	switch k {
	case "name":
		return x.name(v)
	case "oci-mediatypes":
		var oci bool
		err := readFlag(k, v, &oci)
		x.docker = !oci
		return err
	case "compression":
		if !slices.Contains([]string{"gzip", "zstd", "uncompressed"}, v) {
			return fmt.Errorf("compression=%s: %w", v, errdefs.ErrNotImplemented)
		}
		x.compression.kind = v
	case "compression-level":
		level, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("compression-level=%s: want a number: %w", v, errdefs.ErrInvalidArgument)
		}
		x.compression.level = &level
	case "dangling-name-prefix":
		x.naming.dangling = v
	case "attestation-prefix":
		x.attest.prefix = v
	case "mode":
		if v != "copy" && v != "delete" {
			return fmt.Errorf("mode=%s: want copy or delete: %w", v, errdefs.ErrInvalidArgument)
		}
	case "source-date-epoch":
		if v == "" { // no time of the output's own
			return nil
		}
		return fmt.Errorf("%s: %w; the build argument SOURCE_DATE_EPOCH is", k, errdefs.ErrNotImplemented)
	case "registry.insecure":
		return x.insecure(k, v)
	case "oci-artifact", "prefer-nondist-layers":
		var wish bool
		if err := readFlag(k, v, &wish); err != nil || !wish {
			return err
		}
		return fmt.Errorf("%s: %w", k, errdefs.ErrNotImplemented)
	case "unpack", "rewrite-timestamp": // an image is unpacked, and times are those of the epoch, in any case
		return readFlag(k, v, new(bool))
	case "tar": // the client knows what it asked for: [Output.Blobs]
		return readFlag(k, v, new(bool))
	default:
		return x.other(k, v)
	}
	return nil
}

// flag returns what a boolean attribute sets; nil if k is none.
func (x *output) flag(k string) *bool {
	switch k {
	case "push":
		return &x.push
	case "push-by-digest":
		return &x.byDigest
	case "name-canonical":
		return &x.naming.canonical
	case "danging-name-empty-only": // so BuildKit writes it
		return &x.naming.onlyEmpty
	case "store":
		return &x.store
	case "force-compression":
		return &x.compression.force
	case "platform-split":
		return &x.split
	case "attestation-inline":
		return &x.attest.always
	}
	return nil
}

func readFlag(k, v string, to *bool) (err error) {
	if v == "" {
		*to = true
		return nil
	}
	if *to, err = strconv.ParseBool(v); err != nil {
		return fmt.Errorf("%s=%s: want true or false: %w", k, v, errdefs.ErrInvalidArgument)
	}
	return nil
}

// name reads a list of names.
func (x *output) name(list string) error {
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" || name == "*" {
			continue
		}
		if !x.byDigest {
			named, err := images.ParseName(name, "")
			if err != nil {
				return err
			}
			x.names = append(x.names, named.String())
			continue
		}
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return fmt.Errorf("invalid reference format: %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
		x.names = append(x.names, named.String())
	}
	return nil
}

// insecure takes a word about registries that the engine needs none for: what it thinks of
// one its configuration says, and those on loopback it asks.
func (x *output) insecure(k, v string) error {
	var wish bool
	if err := readFlag(k, v, &wish); err != nil || !wish {
		return err
	}
	for name := range strings.SplitSeq(x.Attrs["name"], ",") {
		host, _, _ := strings.Cut(name, "/")
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("%s: %w; name the registry in insecure-registries of the engine's configuration", k, errdefs.ErrNotImplemented)
		}
	}
	return nil
}

// other reads annotations, leaves to clients what is theirs, and refuses what is a mistake
// in writing. Of the rest the user is told: newer clients may pass along what BuildKit, too,
// would not look at.
func (x *output) other(k, v string) error {
	switch {
	case strings.HasPrefix(k, "annotation.") || strings.HasPrefix(k, "annotation-") || strings.HasPrefix(k, "annotation["):
		return x.annotate(k, v)
	case strings.HasPrefix(k, "containerimage.") || slices.Contains(clientAttributes, k):
		return nil
	}
	if hint := dockerfile.Nearest(k, attributes); hint != "" {
		return fmt.Errorf("unknown attribute %q%s: %w", k, hint, errdefs.ErrInvalidArgument)
	}
	x.unknown = append(x.unknown, k)
	return nil
}

// annotate reads annotation[-LEVEL][[PLATFORM]].KEY.
func (x *output) annotate(k, v string) error {
	what, key, ok := strings.Cut(k, ".")
	if i := strings.Index(k, "]."); i >= 0 {
		what, key, ok = k[:i+1], k[i+2:], true
	}
	if !ok || key == "" {
		return fmt.Errorf("annotation %q has no key: %w", k, errdefs.ErrInvalidArgument)
	}
	a := Annotation{Level: "manifest", Key: key, Value: v}
	if name, ok := strings.CutSuffix(what, "]"); ok {
		var p string
		what, p, _ = strings.Cut(name, "[")
		parsed, err := platforms.Parse(p)
		if err != nil {
			return fmt.Errorf("annotation %q: %w: %w", k, err, errdefs.ErrInvalidArgument)
		}
		a.Platform = &parsed
	}
	if level, ok := strings.CutPrefix(what, "annotation-"); ok {
		a.Level = level
	}
	if levels := []string{levelManifest, levelIndex, levelManifestDescriptor, levelIndexDescriptor}; !slices.Contains(levels, a.Level) {
		return fmt.Errorf("annotation %q: unknown level %q: want one of %s%s: %w", k, a.Level, strings.Join(levels, ", "), dockerfile.Nearest(a.Level, levels), errdefs.ErrInvalidArgument)
	}
	x.annotations = append(x.annotations, a)
	return nil
}

// kept are the names that an image gets in the store.
func (x *output) kept(target digest.Digest) []string {
	out := slices.Clone(x.names)
	if x.byDigest {
		for i := range out {
			out[i] += "@" + target.String()
		}
	} else if x.naming.canonical {
		for _, name := range x.names {
			if named, err := reference.ParseNormalizedNamed(name); err == nil {
				out = append(out, named.Name()+"@"+target.String())
			}
		}
	}
	if x.naming.dangling != "" && (!x.naming.onlyEmpty || len(out) == 0) {
		out = append(out, x.naming.dangling+"@"+target.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// String tells one compression from another.
func (c compression) String() string {
	level := "default"
	if c.level != nil {
		level = strconv.Itoa(*c.level)
	}
	return fmt.Sprintf("{%s %s %t}", c.kind, level, c.force)
}

// outside reports whether the client takes the output.
func (x *output) outside() bool { return x.Sink != nil || x.Blobs != nil }

// Levels of annotations.
const (
	levelManifest           = "manifest"
	levelIndex              = "index"
	levelManifestDescriptor = "manifest-descriptor"
	levelIndexDescriptor    = "index-descriptor"
)

// annotated returns the annotations of a level, for a platform (nil: of none).
func (x *output) annotated(level string, p *ocispec.Platform) map[string]string {
	var out map[string]string
	for _, a := range x.annotations {
		if a.Level != level || a.Platform != nil && (p == nil || !platforms.OnlyStrict(*a.Platform).Match(*p)) {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[a.Key] = a.Value
	}
	return out
}
