package buildkit

import (
	"net/url"
	"slices"

	"google.golang.org/grpc/metadata"
)

// Headers of POST /session, and metadata of Control.Session.
const (
	HeaderSessionID        = "X-Docker-Expose-Session-Uuid"
	HeaderSessionName      = "X-Docker-Expose-Session-Name"
	HeaderSessionSharedKey = "X-Docker-Expose-Session-Sharedkey"
	HeaderSessionMethod    = "X-Docker-Expose-Session-Grpc-Method"
)

// Metadata of the methods of a session.
const (
	KeyDirName       = "dir-name"
	KeyInclude       = "include-patterns"
	KeyExclude       = "exclude-patterns"
	KeyFollow        = "followpaths"
	KeyExporterID    = "buildkit-attachable-exporter-id"
	KeyExporterMulti = "buildkit-exporter-multi-platform"
	// PrefixExporterMeta precedes what a tar, docker or OCI exporter says about its archive.
	PrefixExporterMeta = "exporter-md-"
	KeySSHID           = "buildkit.ssh.id"
	KeyUploadPath      = "urlpath"
	KeyUploadHost      = "urlhost"
	KeyStoreID         = "buildkit-attachable-store-id"
)

// KeyBuildID is metadata of the bridge: the Ref of the Solve that a call belongs to.
const KeyBuildID = "buildkit-controlapi-buildid"

// KeyTimestamp is a header of ListenBuildHistory: the daemon's time, RFC 3339.
const KeyTimestamp = "buildkit-current-timestamp"

// A client that wants a shell in the place of a step that fails says so in Solve, by the
// attribute, and asks the bridge for a process in the container of this name. It is not
// BuildKit's: there a client makes its containers itself, of definitions of its own.
const (
	AttrOnFailure      = "on-failure"
	OnFailureShell     = "shell"         // with the files as the step found them
	OnFailureAsLeft    = "shell,as-left" // with the files as the step has left them
	ContainerOnFailure = "on-failure"
)

// Headers of the answer to it, once a step has failed: which, and with what error.
const (
	KeyFailedStep = "strata-failed-step-bin"
	KeyFailure    = "strata-failure-bin"
)

// KeyCacheManifest is where Solve answers with the descriptor of a cache that was exported to
// an OCI layout of the client, as JSON: the client keeps the index.
const KeyCacheManifest = "cache.manifest"

// StoreExport is the store of the client's that takes an image as an OCI layout. The client
// writes its index by what Solve answers under KeyImageDescriptor (base64 of a descriptor)
// and KeyImageName (a list with commas).
const (
	StoreExport        = "export"
	KeyImageDescriptor = "containerimage.descriptor"
	KeyImageName       = "image.name"
)

// Names of the local sources of the Dockerfile frontend.
const (
	LocalContext    = "context"
	LocalDockerfile = "dockerfile"
)

// UploadHost is the host in the URL of a context that the session uploads.
const UploadHost = "buildkit-session"

// suffixEncoded marks a key whose values are escaped.
const suffixEncoded = "-encoded"

// EncodeMetadata puts a list into md. Metadata is ASCII: a list with anything else is
// escaped, and marked so.
func EncodeMetadata(md metadata.MD, key string, list []string) {
	if len(list) == 0 {
		return
	}
	list = slices.Clone(list)
	if slices.ContainsFunc(list, func(s string) bool { return slices.ContainsFunc([]byte(s), func(b byte) bool { return b > 127 }) }) {
		for i := range list {
			list[i] = url.QueryEscape(list[i])
		}
		md.Set(key+suffixEncoded, "1")
	}
	md.Set(key, list...)
}

// DecodeMetadata is the reverse of EncodeMetadata. What cannot be unescaped stays as it is.
func DecodeMetadata(md metadata.MD, key string) []string {
	list := md.Get(key)
	if v := md.Get(key + suffixEncoded); len(v) == 0 || v[0] != "1" {
		return list
	}
	list = slices.Clone(list)
	for i, s := range list {
		if plain, err := url.QueryUnescape(s); err == nil {
			list[i] = plain
		}
	}
	return list
}
