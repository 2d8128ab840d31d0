// Package images is the engine's view of images: what a reference, an id or an id prefix
// means, configuration and history, pull, push, load, save, tag, remove, prune, commit.
// Bytes and names live in the supervisor, which may change them behind us (ctr, a second
// engine): nothing here is believed longer than one question, except what is immutable
// because its digest names it.
//
// An image's ID is the digest of its configuration for the chosen platform, so that it is
// the same after push and pull; the digests of manifest and index are accepted as well.
// An image that has lost its last name keeps one of the form moby-dangling@DIGEST, which
// is dockerd's own, and shows none.
//
//	resolve.go   reference → Image
//	list.go      all images with sizes; filters; history
//	names.go     tag, remove, prune
//	pull.go      pull and push, as docker tells of them
//	hosts.go     mirrors and insecure registries for the supervisor
//	archives.go  load, save, import
//	commit.go    a container's changes → image; changes.go reads the changes
//
// Start reading at [Service.Resolve].
package images
