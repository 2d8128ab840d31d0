// Package content is the store of blobs: bytes addressed by digest, and the ingests
// that become blobs.
//
// Blobs are shared by all namespaces on disk and visible in a namespace only where
// that namespace's metadata names them. An ingest is found by its ref and survives a
// disconnect and a restart of the daemon, so that a pull resumes where it broke off.
//
//	ROOT/blobs/sha256/HEX              committed, immutable, 0444
//	ROOT/ingest/HASH(NAMESPACE/REF)/   data, ref, startedat, updatedat, total
//
// The package refuses to know what a manifest is. Start reading at [Store]; its
// conformance suite is contenttest.
package content
