package build

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/files"
	"strata/engined/internal/images"
)

// Request is one build. Its zero value, with a Definition, builds for the host's platform
// and makes an image without a name.
type Request struct {
	Dockerfile Definition
	Context    Source           // the main context; nil for none
	Named      map[string]Named // further contexts, by the name that FROM and --from use

	Args, Labels  map[string]string
	Annotations   []Annotation
	Target        string             // stage; "" for the last
	Platforms     []ocispec.Platform // none: the host's; several make an index
	Tags          []string           // full references, for the output that makes an image
	Outputs       []Output           // none: an image in the engine's store
	CacheFrom     []CacheOption
	CacheTo       []CacheOption
	NoCache       bool
	NoCacheFilter []string // stages that do not use the cache
	Pull          bool
	Provenance    Provenance

	Auth    func(ctx context.Context, q AuthQuestion) (images.Auth, error) // nil: nobody's
	Secrets Secrets                                                        // nil: none
	SSH     Agents                                                         // nil: none

	// Failed, if not nil, is called when a RUN has failed, before what it saw is taken away:
	// for a look at it. Other steps run on meanwhile.
	Failed func(ctx context.Context, f *Failure)

	Entitlements []string // EntitlementInsecure, EntitlementHostNetwork
	Network      string   // of RUN: "" or "default", "bridge", "host", "none", or a network
	ExtraHosts   []string
	Hostname     string // of RUN; "" for one that says nothing of this machine
	Resources    container.Resources
	ShmSize      int64 // bytes; zero is the engine's
}

// AuthQuestion is a registry's, who is there.
type AuthQuestion struct {
	Host       string   // as references say it: "docker.io"
	Challenges []string // values of WWW-Authenticate
	Scopes     []string // what is going to be done, of a token: "repository:NAME:pull,push"
}

// Definition is a Dockerfile.
type Definition struct {
	Text   []byte
	Name   string // for messages; "" for "Dockerfile"
	Ignore []byte // the .dockerignore that goes with it; nil for none
}

// Source gives files of a context.
type Source interface {
	// Files returns a tree that has all that paths mean, and may have more. A path is one of
	// COPY's sources, relative to the context's root, with patterns of path.Match; what
	// symlinks on its way point to belongs to it. nil means everything. exclude are patterns
	// of .dockerignore: nothing that they match may be in the tree. A Node of it with a
	// Digest is not read until it is copied. It is called once for a build, and the tree
	// is used until Build returns.
	Files(ctx context.Context, paths, exclude []string) (files.Tree, error)
}

// Named is what --build-context gives a name: Source, Linked, or Ref.
type Named struct {
	Source Source
	Linked *Linked
	// Ref is docker-image://REFERENCE, oci-layout://NAME@DIGEST (or NAME:TAG), https://… of a
	// tar, or a git repository.
	Ref   string
	Blobs Blobs // of oci-layout
}

// Blobs is a store of content at the client: an OCI layout.
type Blobs interface {
	// Resolve returns the descriptor that a tag means; ErrNotFound if none.
	Resolve(ctx context.Context, tag string) (ocispec.Descriptor, error)
	// Open reads a blob; ErrNotFound if there is none.
	Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
	// Write stores a blob, unless it is there.
	Write(ctx context.Context, d ocispec.Descriptor, r io.Reader) error
	// Tag gives a descriptor a name in the index.
	Tag(ctx context.Context, tag string, d ocispec.Descriptor) error
}

// Annotation is one key of --annotation.
type Annotation struct {
	Level    string            // "manifest", "index", "manifest-descriptor", "index-descriptor"
	Platform *ocispec.Platform // nil for every
	Key      string
	Value    string
}

// Kinds of Output.
const (
	OutputImage     = "image" // attributes as of BuildKit's image exporter: name, push, compression, …
	OutputDocker    = "docker"
	OutputOCI       = "oci"
	OutputLocal     = "local"
	OutputTar       = "tar"
	OutputCacheOnly = "cacheonly"
)

// Output is one thing to be made of the result.
type Output struct {
	Type  string
	Attrs map[string]string
	Sink  Sink // of all but OutputImage and OutputCacheOnly; nil for docker: load it into the store
	// Blobs, if not nil, takes OutputOCI and OutputDocker as content instead of an archive
	// (tar=false): all but the index of the layout, which the client makes of the Response.
	Blobs Blobs
}

// Sink takes what an output makes. One of its methods is called, once.
type Sink interface {
	// Tree takes files: OutputLocal.
	Tree(ctx context.Context, t files.Tree) error
	// Stream takes an archive: OutputTar, OutputOCI, OutputDocker. Close ends it well;
	// what was written before an error is of no use.
	Stream(ctx context.Context, meta map[string]string) (io.WriteCloser, error)
}

// Kinds of CacheOption.
const (
	CacheRegistry = "registry" // attributes ref, mode, compression, …
	CacheInline   = "inline"
	CacheLocal    = "local" // Blobs
)

// CacheOption says where cache comes from or goes to.
type CacheOption struct {
	Type  string
	Attrs map[string]string
	Blobs Blobs
}

// Provenance says how much a provenance attestation tells; the zero value makes none.
type Provenance struct {
	Mode    string // "", "min", "max"
	Version string // of SLSA: "v1" (which "" is, too) or "v0.2"
	// InlineOnly leaves out of archives and files what nobody asked for in so many words.
	InlineOnly bool
	BuilderID  string
	SBOM       bool // not implemented
	// Attrs are further attributes that the client has given the frontend: vcs:source,
	// vcs:revision, context:NAME.
	Attrs map[string]string
	// Context is what the main context was fetched from; nil for the client's own.
	// ContextURI has the directory in it, too.
	Context    *Material
	ContextURI string
}

// Entitlements that a client may grant.
const (
	EntitlementInsecure    = "security.insecure"
	EntitlementHostNetwork = "network.host"
)

// Secrets are what RUN --mount=type=secret shows.
type Secrets interface {
	// Secret returns one; ErrNotFound if there is none of that id.
	Secret(ctx context.Context, id string) ([]byte, error)
}

// Agents are what RUN --mount=type=ssh forwards to.
type Agents interface {
	// Dial connects to an agent; ErrNotFound if there is none of that id ("default").
	Dial(ctx context.Context, id string) (net.Conn, error)
}

// SecretMap is Secrets that are known beforehand.
type SecretMap map[string][]byte

// Secret implements Secrets.
func (m SecretMap) Secret(_ context.Context, id string) ([]byte, error) {
	data, ok := m[id]
	if !ok {
		return nil, fmt.Errorf("secret %s: %w", id, errdefs.ErrNotFound)
	}
	return data, nil
}

// Result is what a build made.
type Result struct {
	Target    ocispec.Descriptor // image or index; zero if the outputs made none
	Image     images.Image       // of one platform; zero for several
	Platforms []ocispec.Platform
	// Response says what BuildKit's exporters do: containerimage.digest,
	// containerimage.config.digest, containerimage.descriptor, image.name, …
	Response map[string]string
}
