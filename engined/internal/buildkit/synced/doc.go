// Package synced keeps the build contexts of clients, so that a client sends only what has
// changed since the last build.
//
// It owns the receiving half of fsutil's protocol and a [Store] of what was received. Each
// directory of each client has a key (the session's shared key and the directory's name),
// and a key has an index: what each file looked like to the client (size, time, mode, link),
// the digest of its content, and where that content is. A file that looks as it did is not
// asked for again, and not hashed again.
//
// Content is kept in segments, files that are written once, from the front to the end: one
// for each build that received anything. No name that a client sends becomes a name on disk.
// An index is replaced as a whole, so that builds of one key can run side by side: each
// reads the index that is there, has a tree of its own, and the last one leaves its index,
// with what the others found beside it. Segments that no index names are removed; a tree
// holds the descriptors of those it reads.
//
// The package refuses to know gRPC, Dockerfiles, and what is done with a tree. Its files
// belong to root:root, whoever sent them, and keep capabilities and user attributes.
//
// On disk, below the engine's build/contexts: KEY/index (see index.go), KEY/RANDOM.seg.
// An index names the boot during which it was written, and is of no use after it: nothing
// is synced to the disk on the way, and a segment could lack what an index promises.
//
// Start reading at [Store.Receive].
package synced
