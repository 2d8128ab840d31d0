package build

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/records"
	"strata/engined/internal/networks"
	"strata/pkg/identifiers"
)

// What BuildKit's attestations are called, which registries and scanners look for.
const (
	mediaTypeInToto      = "application/vnd.in-toto+json"
	statementType        = "https://in-toto.io/Statement/v1"
	annotationPredicate  = "in-toto.io/predicate-type"
	annotationRefType    = "vnd.docker.reference.type"
	annotationRefDigest  = "vnd.docker.reference.digest"
	attestationReference = "attestation-manifest"
)

// attestation is a manifest that says how an image came to be.
type attestation struct {
	manifest ocispec.Descriptor
	blobs    []ocispec.Descriptor // the manifest and what it holds
	times    *records.Times       // an equal build tells of the same ones
}

// descriptor is the attestation's place in the index, beside the image it is about.
func (a *attestation) descriptor(image digest.Digest) ocispec.Descriptor {
	d := a.manifest
	d.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	d.Annotations = map[string]string{annotationRefType: attestationReference, annotationRefDigest: image.String()}
	return d
}

// attest writes the provenance of an image. Of one that was made before it says when.
func (b *builder) attest(ctx context.Context, o *output, img *madeImage, before *records.Times, finished bool) (*attestation, error) {
	a := &attestation{times: before}
	if before == nil || !finished {
		a.times = &records.Times{Started: b.started, Finished: time.Now().UTC()}
	}
	statement, err := json.Marshal(b.statement(img.plan, imageSubjects(o, img), a.times))
	if err != nil {
		return nil, err
	}
	layer, err := b.writeBlob(ctx, mediaTypeInToto, statement)
	if err != nil {
		return nil, err
	}
	layer.Annotations = map[string]string{annotationPredicate: b.r.Provenance.predicateType()}
	config, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{OS: "unknown", Architecture: "unknown"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
	})
	if err != nil {
		return nil, err
	}
	cd, err := b.writeBlob(ctx, ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return nil, err
	}
	doc, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: cd, Layers: []ocispec.Descriptor{layer},
	})
	if err != nil {
		return nil, err
	}
	a.manifest, err = b.s.images.WriteDocument(ctx, ocispec.MediaTypeImageManifest, doc, []ocispec.Descriptor{cd, layer})
	a.blobs = []ocispec.Descriptor{cd, layer, a.manifest}
	return a, err
}

func (b *builder) writeBlob(ctx context.Context, mediaType string, data []byte) (ocispec.Descriptor, error) {
	want := digest.FromBytes(data)
	d, err := b.s.sup.WriteContent(ctx, "build-"+identifiers.Short(identifiers.New()), bytes.NewReader(data), want, nil)
	d.MediaType = mediaType
	return d, err
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Material is something that a build was made of.
type Material struct {
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

// imageSubjects is an image under its names, as an attestation says them.
func imageSubjects(o *output, img *madeImage) []subject {
	sum := map[string]string{img.manifest.Digest.Algorithm().String(): img.manifest.Digest.Encoded()}
	var out []subject
	for _, name := range o.names {
		out = append(out, subject{packageURL(name, "", &img.plan.Platform), sum})
	}
	if len(out) == 0 {
		out = []subject{{"_", sum}}
	}
	return out
}

// Versions of the SLSA predicate.
const (
	slsa1  = "v1"
	slsa02 = "v0.2"
)

// predicateType is what the wanted version is called.
func (p *Provenance) predicateType() string {
	if p.Version == slsa02 {
		return "https://slsa.dev/provenance/v0.2"
	}
	return "https://slsa.dev/provenance/v1"
}

// statement is an in-toto statement with a SLSA predicate, as BuildKit fills it in.
//
// Source: in-toto attestation spec v1 "Statement"; SLSA provenance v1 and v0.2;
// moby/buildkit docs/attestations/slsa-definitions.md.
func (b *builder) statement(plan *dockerfile.Plan, subjects []subject, at *records.Times) any {
	f := b.facts(plan, at)
	predicate := f.v1(b.r.Provenance.BuilderID)
	if b.r.Provenance.Version == slsa02 {
		predicate = f.v02(b.r.Provenance.BuilderID)
	}
	return map[string]any{"_type": statementType, "predicateType": b.r.Provenance.predicateType(), "subject": subjects, "predicate": predicate}
}

// facts are what a predicate tells, whatever its version.
type facts struct {
	at         *records.Times
	invocation string
	source     Material // of the context, if the engine has fetched it
	file       string   // the Dockerfile in it
	request    map[string]any
	platform   string // of the builder
	materials  []Material
	steps      map[string]any // nil unless all is told
	metadata   map[string]any // BuildKit's own
	all        bool           // the request is told in full
	complete   bool           // so are the materials
	hermetic   bool
}

// facts collects what is told of a plan.
func (b *builder) facts(plan *dockerfile.Plan, at *records.Times) *facts {
	name := b.r.Dockerfile.Name
	if name == "" {
		name = defaultDockerfile
	}
	args, vcs := b.requestArgs()
	f := &facts{
		at: at, invocation: key(at.Started.String(), at.Finished.String())[len("sha256:"):][:25], file: name, platform: platforms.Format(b.s.host),
		materials: b.materials(plan), metadata: map[string]any{}, all: b.r.Provenance.Mode == "max", complete: b.r.Provenance.Context != nil,
		request: map[string]any{"frontend": "dockerfile.v0", "args": args, "secrets": mountsOf(plan, dockerfile.MountSecret), "ssh": mountsOf(plan, dockerfile.MountSSH)},
	}
	if c := b.r.Provenance.Context; c != nil {
		f.source = Material{b.r.Provenance.ContextURI, c.Digest}
	} else {
		f.request["locals"] = []map[string]string{{"name": "context"}, {"name": "dockerfile"}}
	}
	f.hermetic = f.complete && !slices.ContainsFunc(plan.Vertices, func(v *dockerfile.Vertex) bool { return v.Run != nil && v.Run.Network != networks.NetworkNone })
	if len(vcs) > 0 {
		f.metadata["vcs"] = vcs
	}
	if f.all {
		f.steps = map[string]any{"steps": stepsOf(plan)}
		f.metadata["source"] = map[string]any{"infos": []map[string]any{{"filename": name, "language": "Dockerfile", "data": b.r.Dockerfile.Text}}}
	}
	return f
}

// requestArgs are the attributes of the request that are told, and what they say of version
// control. Arguments and labels may hold secrets: only mode=max tells them.
func (b *builder) requestArgs() (args, vcs map[string]string) {
	args, vcs = map[string]string{}, map[string]string{}
	for k, v := range b.r.Provenance.Attrs {
		switch name, isVCS := strings.CutPrefix(k, "vcs:"); {
		case isVCS && v != "":
			vcs[name] = redacted(v)
		case isVCS:
		case strings.HasPrefix(k, "context:"):
			args[k] = redacted(v)
		default:
			args[k] = v
		}
	}
	if b.r.Target != "" {
		args["target"] = b.r.Target
	}
	if b.r.NoCache {
		args["no-cache"] = ""
	}
	if b.r.Provenance.Mode == "max" {
		for k, v := range b.r.Args {
			args["build-arg:"+k] = v
		}
		for k, v := range b.r.Labels {
			args["label:"+k] = v
		}
	}
	return args, vcs
}

// redacted is a URL without its user and password.
func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return s
	}
	const hidden = "xxxxx"
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(hidden, hidden)
	} else {
		u.User = url.User(hidden)
	}
	return u.String()
}

// v1 is the predicate of SLSA provenance v1.
func (f *facts) v1(builder string) any {
	config := map[string]any{"path": f.file}
	if f.source.URI != "" {
		config["uri"], config["digest"] = f.source.URI, f.source.Digest
	}
	internal := map[string]any{"builderPlatform": f.platform, "dockerfileVersion": dockerfile.Version}
	if f.steps != nil {
		internal["buildConfig"] = f.steps
	}
	return map[string]any{
		"buildDefinition": map[string]any{
			"buildType":            "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
			"externalParameters":   map[string]any{"configSource": config, "request": f.request},
			"internalParameters":   internal,
			"resolvedDependencies": f.materials,
		},
		"runDetails": map[string]any{
			"builder": map[string]string{"id": builder},
			"metadata": map[string]any{
				"invocationId": f.invocation, "startedOn": f.at.Started, "finishedOn": f.at.Finished,
				"buildkit_metadata": f.metadata, "buildkit_hermetic": f.hermetic,
				"buildkit_completeness": map[string]bool{"request": f.all, "resolvedDependencies": f.complete},
			},
		},
	}
}

// v02 is the predicate of SLSA provenance v0.2.
func (f *facts) v02(builder string) any {
	config := map[string]any{"entryPoint": f.file}
	if f.source.URI != "" {
		config["uri"], config["digest"] = f.source.URI, f.source.Digest
	}
	predicate := map[string]any{
		"builder": map[string]string{"id": builder}, "buildType": "https://mobyproject.org/buildkit@v1", "materials": f.materials,
		"invocation": map[string]any{"configSource": config, "parameters": f.request, "environment": map[string]string{"platform": f.platform, "dockerfileVersion": dockerfile.Version}},
		"metadata": map[string]any{
			"buildInvocationID": f.invocation, "buildStartedOn": f.at.Started, "buildFinishedOn": f.at.Finished, "reproducible": false,
			"completeness": map[string]bool{"parameters": f.all, "environment": true, "materials": f.complete},
			"https://mobyproject.org/buildkit@v1#metadata": f.metadata,
			"https://mobyproject.org/buildkit@v1#hermetic": f.hermetic,
		},
	}
	if f.steps != nil {
		predicate["buildConfig"] = f.steps
	}
	return predicate
}

// materials are the images that the plan is built upon, and behind them what was fetched
// for it.
func (b *builder) materials(plan *dockerfile.Plan) []Material {
	out := []Material{}
	for _, v := range plan.Vertices {
		if v.Image != nil && !v.Image.Unnamed && v.Image.Digest != "" {
			out = append(out, Material{
				packageURL(v.Image.Name, "", &v.Image.Platform), map[string]string{v.Image.Digest.Algorithm().String(): v.Image.Digest.Encoded()},
			})
		}
	}
	for _, n := range b.r.Named {
		if n.Linked != nil {
			out = append(out, n.Linked.materials(plan.Platform)...)
		}
	}
	if c := b.r.Provenance.Context; c != nil {
		out = append(out, *c)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	out = append(out, b.fetched...)
	fetched := func(m Material) int {
		if strings.HasPrefix(m.URI, packageScheme) {
			return 0
		}
		return 1
	}
	slices.SortFunc(out, func(a, b Material) int {
		return cmp.Or(cmp.Compare(fetched(a), fetched(b)), strings.Compare(a.URI, b.URI))
	})
	return slices.CompactFunc(out, func(a, b Material) bool { return a.URI == b.URI })
}

// packageScheme is what the name of an image begins with.
const packageScheme = "pkg:docker/"

// packageURL names an image as a package URL does: pkg:docker/busybox@test?platform=….
func packageURL(name, version string, p *ocispec.Platform) string {
	out := name
	if n, err := reference.ParseNormalizedNamed(name); err == nil {
		out = reference.FamiliarName(n)
		if t, ok := reference.TagNameOnly(n).(reference.Tagged); ok && version == "" {
			version = t.Tag()
		}
	}
	if version != "" {
		out += "@" + version
	}
	return fmt.Sprintf(packageScheme+"%s?platform=%s", out, url.QueryEscape(platforms.Format(*p)))
}

// mountsOf are the names of the secrets or agents that commands may see; never their values.
func mountsOf(plan *dockerfile.Plan, kind dockerfile.MountType) []map[string]any {
	out := []map[string]any{}
	for _, v := range plan.Vertices {
		if v.Run == nil {
			continue
		}
		for _, m := range v.Run.Mounts {
			if m.Type == kind {
				out = append(out, map[string]any{"id": m.ID, "optional": !m.Required})
			}
		}
	}
	return out
}

// stepsOf is the graph in words.
func stepsOf(plan *dockerfile.Plan) []map[string]any {
	ids := map[*dockerfile.Vertex]string{}
	for i, v := range plan.Vertices {
		ids[v] = fmt.Sprintf("step%d", i)
	}
	var out []map[string]any
	for _, v := range plan.Vertices {
		inputs := []string{}
		if v.Parent != nil {
			inputs = append(inputs, ids[v.Parent])
		}
		for _, in := range v.Inputs() {
			inputs = append(inputs, ids[in])
		}
		out = append(out, map[string]any{"id": ids[v], "op": v.Name, "stage": v.Stage, "inputs": inputs})
	}
	return out
}
