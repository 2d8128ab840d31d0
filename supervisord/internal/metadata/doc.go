// Package metadata is the supervisor's database: one bbolt file, meta.db, which the
// stores of content, images, containers and leases share. It owns the tree of buckets,
// the rules of namespaces and labels, and the way changes are committed; it refuses to
// know what a record means.
//
//	v1
//	└─ NAMESPACE
//	   ├─ labels                    KEY → value
//	   ├─ content                   DIGEST → content.record
//	   ├─ images                    NAME → images.Image
//	   ├─ containers                ID → containers.record
//	   └─ leases                    ID → leases.record
//
// Records are JSON. Snapshots are not here: their truth lies beside their files (package
// snapshots), so that a container start waits for no fsync. A namespace comes into being
// with its first record.
//
// Changes that arrive while another one is being written share the next commit: N
// writers in parallel cost one or two commits, not N. Readers see the last commit and
// wait for nobody. Start reading at [DB.Update].
package metadata
