package build

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/images"
)

// output is an Output whose attributes have been read.
type output struct {
	Output
	names       []string // full references
	push        bool
	store       bool // keep the image in the engine's store
	compression compression
	docker      bool // Docker's media types
	split       bool // a directory for each platform
	annotations []Annotation
	inline      bool // cache goes into the image's configuration
}

// compression says how layers are compressed.
type compression struct {
	kind  string // "gzip", "zstd", "uncompressed"
	level int    // zero for the default
	force bool   // those of the base, too
}

// outputs reads what is to be made, before anything is.
func (r *Request) outputs() ([]output, error) {
	if r.Provenance.SBOM {
		return nil, fmt.Errorf("--sbom: %w", errdefs.ErrNotImplemented)
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

// outputDefaults are what the kinds of output begin with.
func (r *Request) output(o Output) (output, error) {
	x := output{Output: o, compression: compression{kind: "gzip"}, annotations: slices.Clone(r.Annotations)}
	x.inline = slices.ContainsFunc(r.CacheTo, func(c CacheOption) bool { return c.Type == CacheInline })
	switch o.Type {
	case OutputImage, "moby":
		x.Type, x.store, x.names = OutputImage, true, slices.Clone(r.Tags)
	case outputRegistry:
		x.Type, x.store, x.push, x.names = OutputImage, true, true, slices.Clone(r.Tags)
	case OutputDocker:
		x.names, x.store, x.docker = slices.Clone(r.Tags), o.Sink == nil, o.Sink != nil && len(r.Annotations) == 0
	case OutputOCI:
		x.names = slices.Clone(r.Tags)
	case OutputLocal, OutputTar:
		x.split = len(r.Platforms) > 1
	case OutputCacheOnly:
	default:
		return x, fmt.Errorf("unknown: want image, registry, docker, oci, local, tar or cacheonly: %w", errdefs.ErrInvalidArgument)
	}
	if o.Sink == nil && slices.Contains([]string{OutputOCI, OutputLocal, OutputTar}, x.Type) {
		return x, fmt.Errorf("no destination: %w", errdefs.ErrInvalidArgument)
	}
	for _, k := range slices.Sorted(maps.Keys(o.Attrs)) {
		if err := x.attribute(k, o.Attrs[k]); err != nil {
			return x, err
		}
	}
	slices.Sort(x.names)
	x.names = slices.Compact(x.names)
	if x.push && len(x.names) == 0 {
		return x, fmt.Errorf("push needs a name: %w", errdefs.ErrInvalidArgument)
	}
	return x, nil
}

// outputRegistry is OutputImage that is pushed.
const outputRegistry = "registry"

// attribute reads one attribute. Those that only steer BuildKit's own store say nothing here.
func (x *output) attribute(k, v string) (err error) {
	flag := func(to *bool) {
		*to = true
		if v != "" {
			if *to, err = strconv.ParseBool(v); err != nil {
				err = fmt.Errorf("%s=%s: want true or false: %w", k, v, errdefs.ErrInvalidArgument)
			}
		}
	}
	switch k {
	case "name":
		for name := range strings.SplitSeq(v, ",") {
			if name = strings.TrimSpace(name); name == "" || name == "*" {
				continue
			}
			named, perr := images.ParseName(name, "")
			if perr != nil {
				return perr
			}
			x.names = append(x.names, named.String())
		}
	case "push":
		flag(&x.push)
	case "store":
		flag(&x.store)
	case "oci-mediatypes":
		var oci bool
		flag(&oci)
		x.docker = !oci
	case "force-compression":
		flag(&x.compression.force)
	case "platform-split":
		flag(&x.split)
	case "compression":
		if !slices.Contains([]string{"gzip", "zstd", "uncompressed"}, v) {
			return fmt.Errorf("compression %s: %w", v, errdefs.ErrNotImplemented)
		}
		x.compression.kind = v
	case "compression-level":
		if x.compression.level, err = strconv.Atoi(v); err != nil {
			err = fmt.Errorf("compression-level %q: want a number: %w", v, errdefs.ErrInvalidArgument)
		}
	case "push-by-digest", "prefer-nondist-layers", "name-canonical":
		var wish bool
		if flag(&wish); err == nil && wish {
			err = fmt.Errorf("%s: %w", k, errdefs.ErrNotImplemented)
		}
	default:
		if strings.HasPrefix(k, "annotation") {
			err = x.annotate(k, v)
		}
	}
	return err
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
	x.annotations = append(x.annotations, a)
	return nil
}

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
