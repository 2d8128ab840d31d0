// Package storage puts the stores together: database, content, snapshots, images,
// containers, leases, namespaces, diff and the garbage collector, above one directory.
//
//	ROOT/meta.db        package metadata
//	ROOT/content/       package content
//	ROOT/overlayfs/     package snapshots, driver overlay
//	ROOT/native/        package snapshots, driver native
//
// It decides nothing. Start reading at [Open].
package storage
