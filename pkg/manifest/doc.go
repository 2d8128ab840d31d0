// Package manifest reads image manifests and indexes, of OCI and of docker, and knows
// what containerd's clients derive from them: the kinds of media types, the labels that
// the garbage collector follows, the names of ingests, the chain of layers.
//
// It owns no bytes and fetches nothing. Whatever it parses may come from a hostile
// registry: sizes are bounded, and a document that could be read in two ways is refused.
// Start reading at [Parse].
//
// Source: OCI image-spec v1.1 (manifest.md, image-index.md, config.md), docker
// distribution "Image Manifest V 2, Schema 2", containerd docs/garbage-collection.md.
package manifest
