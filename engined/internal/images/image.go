package images

import (
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one platform's image, ready to be unpacked or run.
type Image struct {
	ID       digest.Digest      // of the configuration
	Target   ocispec.Descriptor // what the name points to: an index or a manifest
	Manifest ocispec.Descriptor
	Names    []string // full references, sorted
	Config   ocispec.Image
	// Healthcheck, OnBuild, Shell and StopTimeout are docker's additions to Config.Config,
	// as raw JSON of the whole "config" object.
	RawConfig []byte
	ChainID   digest.Digest        // the committed snapshot of its layers; "" for no layers
	Layers    []ocispec.Descriptor // of the manifest, lowest first
}
