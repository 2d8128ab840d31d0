// Package snapshots keeps filesystem states: active (writable), view (read-only) and
// committed (immutable, may be a parent). A [Driver] below it (overlay, native) knows
// how a state is made of directories; the conformance suite is snapshottest.
//
// It refuses to know images: a key is a string, a parent is a key. On disk:
//
//	ROOT/ID/record.json   what the snapshot is; the truth
//	ROOT/ID/fs            its files
//	ROOT/ID/work          the driver's (overlay)
//	ROOT/rm-ID            removed, its files go in the background
//
// The records are held in memory, so that reads touch no disk and wait for no writer,
// and written beside the files, so that a snapshot and its record cannot be parted.
//
// Promises. A change survives the death of the process when the call returns. It
// survives the loss of power within flushDelay (a container start waits for no fsync):
// until then the record of a committed snapshot carries the boot id, and a record that
// carries another boot's id is not believed: its files may be torn. Such a snapshot is
// dropped at [Open] and unpacked again by whoever misses it, from blobs that are durable.
//
// Start reading at [Snapshotter], then [Store.Commit].
package snapshots
