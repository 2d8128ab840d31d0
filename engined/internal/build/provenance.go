package build

import (
	"bytes"
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
	"strata/pkg/identifiers"
)

// What BuildKit's attestations are called, which registries and scanners look for.
const (
	mediaTypeInToto      = "application/vnd.in-toto+json"
	predicateSLSA        = "https://slsa.dev/provenance/v0.2"
	statementType        = "https://in-toto.io/Statement/v0.1"
	buildType            = "https://mobyproject.org/buildkit@v1"
	annotationPredicate  = "in-toto.io/predicate-type"
	annotationRefType    = "vnd.docker.reference.type"
	annotationRefDigest  = "vnd.docker.reference.digest"
	attestationReference = "attestation-manifest"
)

// attestation is a manifest that says how an image came to be.
type attestation struct {
	manifest ocispec.Descriptor
	blobs    []ocispec.Descriptor // the manifest and what it holds
	times    *Times
}

// Times are when an image was made: an equal build tells of the same ones.
type Times struct{ Started, Finished time.Time }

// descriptor is the attestation's place in the index, beside the image it is about.
func (a *attestation) descriptor(image digest.Digest) ocispec.Descriptor {
	d := a.manifest
	d.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	d.Annotations = map[string]string{annotationRefType: attestationReference, annotationRefDigest: image.String()}
	return d
}

// attest writes the provenance of an image. Of one that was made before it says when.
func (b *builder) attest(ctx context.Context, o *output, img *madeImage, before *Times, finished bool) (*attestation, error) {
	a := &attestation{times: before}
	if before == nil || !finished {
		a.times = &Times{b.started, time.Now().UTC()}
	}
	statement, err := json.Marshal(b.statement(img.plan, imageSubjects(o, img), a.times))
	if err != nil {
		return nil, err
	}
	layer, err := b.writeBlob(ctx, mediaTypeInToto, statement)
	if err != nil {
		return nil, err
	}
	layer.Annotations = map[string]string{annotationPredicate: predicateSLSA}
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

type material struct {
	URI    string            `json:"uri"`
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

// statement is an in-toto statement with a SLSA predicate, as BuildKit fills it in.
//
// Source: in-toto attestation spec v0.1 "Statement"; SLSA provenance v0.2;
// moby/buildkit docs/attestations/slsa-definitions.md.
func (b *builder) statement(plan *dockerfile.Plan, subjects []subject, at *Times) any {
	name := b.r.Dockerfile.Name
	if name == "" {
		name = defaultDockerfile
	}
	args := map[string]string{}
	if b.r.Target != "" {
		args["target"] = b.r.Target
	}
	if b.r.NoCache {
		args["no-cache"] = ""
	}
	metadata := map[string]any{
		"buildStartedOn": at.Started, "buildFinishedOn": at.Finished,
		"completeness": map[string]bool{"parameters": b.r.Provenance.Mode == "max", "environment": true, "materials": false},
		"reproducible": false,
	}
	metadata["buildInvocationID"] = key(at.Started.String(), at.Finished.String())[len("sha256:"):][:25]
	predicate := map[string]any{
		"builder": map[string]string{"id": b.r.Provenance.BuilderID}, "buildType": buildType, "materials": b.materials(plan),
		"invocation": map[string]any{
			"configSource": map[string]string{"entryPoint": name},
			"parameters":   map[string]any{"frontend": "dockerfile.v0", "args": args, "locals": []map[string]string{{"name": "context"}, {"name": "dockerfile"}}, "secrets": secretsOf(plan)},
			"environment":  map[string]string{"platform": platforms.Format(b.s.host)},
		},
		"metadata": metadata,
	}
	if b.r.Provenance.Mode == "max" {
		for k, v := range b.r.Args {
			args["build-arg:"+k] = v
		}
		for k, v := range b.r.Labels {
			args["label:"+k] = v
		}
		predicate["buildConfig"] = map[string]any{"steps": stepsOf(plan)}
		metadata["https://mobyproject.org/buildkit@v1#metadata"] = map[string]any{
			"source": map[string]any{"infos": []map[string]any{{"filename": name, "language": "Dockerfile", "data": b.r.Dockerfile.Text}}},
		}
	}
	return map[string]any{"_type": statementType, "predicateType": predicateSLSA, "subject": subjects, "predicate": predicate}
}

// materials are the images that the plan is built upon, and what was fetched for it.
func (b *builder) materials(plan *dockerfile.Plan) []material {
	out := []material{}
	for _, v := range plan.Vertices {
		if v.Image != nil && !v.Image.Unnamed && v.Image.Digest != "" {
			out = append(out, material{
				packageURL(v.Image.Name, "", &v.Image.Platform), map[string]string{v.Image.Digest.Algorithm().String(): v.Image.Digest.Encoded()},
			})
		}
	}
	for _, n := range b.r.Named {
		if n.Linked != nil {
			out = append(out, n.Linked.materials(plan.Platform)...)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	out = append(out, b.fetched...)
	slices.SortFunc(out, func(a, b material) int { return strings.Compare(a.URI, b.URI) })
	return slices.CompactFunc(out, func(a, b material) bool { return a.URI == b.URI })
}

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
	return fmt.Sprintf("pkg:docker/%s?platform=%s", out, url.QueryEscape(platforms.Format(*p)))
}

// secretsOf are the names of the secrets that commands may see; never their values.
func secretsOf(plan *dockerfile.Plan) []map[string]any {
	out := []map[string]any{}
	for _, v := range plan.Vertices {
		if v.Run == nil {
			continue
		}
		for _, m := range v.Run.Mounts {
			if m.Type == dockerfile.MountSecret {
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
