// Package content is the store of blobs: bytes addressed by digest, and the ingests
// that become blobs.
//
// Blobs are shared by all namespaces on disk and visible in a namespace only where
// that namespace's metadata names them. An ingest is found by its ref and survives a
// disconnect and a restart of the daemon, so that a pull resumes where it broke off.
//
//	ROOT/blobs/sha256/HEX                 committed, immutable, 0444
//	ROOT/ingest/HEX(NAMESPACE, REF)/
//	    ingest.json                       namespace, ref, total, expected, started
//	    data                              what was written; its mtime is the update time
//	    hash                              state of the hash at some offset, so that a
//	                                      resumed writer need not read everything again
//	ROOT/new/                             ingests that are being made
//	ROOT/trash/                           removed, goes in the background
//
// Invariants. A blob's bytes and name are durable before its record is. A record names a
// blob that exists. A blob disappears only under the garbage collector's exclusive
// barrier, when no namespace names it. The package refuses to know what a manifest is.
// Start reading at [Store]; its conformance suite is contenttest.
package content
