// Package snapshots keeps filesystem states: active (writable), view (read-only) and
// committed (immutable, may be a parent). Drivers live below it (overlay, native); the
// conformance suite is snapshottest.
//
// It refuses to know images: a key is a string, a parent is a key. Start reading at
// [Snapshotter].
package snapshots
