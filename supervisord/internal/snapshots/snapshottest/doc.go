// Package snapshottest is the conformance suite of snapshots.Snapshotter. Every
// implementation passes it; it mounts what it is given and needs root.
package snapshottest
