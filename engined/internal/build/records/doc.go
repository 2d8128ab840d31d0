// Package records keeps what builds have made, to be found again.
//
// It owns build.db: records of results by content key, the plain keys that lead to them, and
// the images that came of them. It refuses to know what a key is made of (package build), and
// whether the snapshot or the layer that a record names is still there.
//
// Buckets of build.db:
//
//	records  content key → Record (JSON)
//	aliases  plain key   → content key
//	images   key of a finished image → Finished (JSON)
//
// When a record was last of use is written with the next change, not by itself: a build in
// which nothing changed writes nothing.
//
// Start reading at [Store.Put].
package records
