// Package images is the engine's view of images: what a reference, an id or an id prefix
// means, configuration and history, pull, push, load, save, tag, remove, prune. Bytes and
// names live in the supervisor.
//
// An image's ID is the digest of its configuration for the chosen platform, so that it is
// the same after push and pull; the digests of manifest and index are accepted as well.
package images
