// Package native is the snapshot driver "native": every snapshot is a full copy of its
// parent (shared blocks where the filesystem can). It works everywhere and is the second
// implementation that the suite snapshottest keeps honest.
package native
