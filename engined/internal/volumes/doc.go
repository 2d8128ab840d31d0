// Package volumes keeps named, engine-managed directories: definitions in engine.db, files
// below DATA/volumes/NAME/_data, and which containers refer to them.
//
// A reference is a fact about a container's definition and is stored with the volume, so
// that a volume is never removed under a container; after a crash [Manager.Retain] drops the
// references of containers that were never finished. A volume whose options name a device
// is mounted while a started container uses it.
//
// The package refuses to know what a container is, and what an image puts into a fresh
// volume. Bucket volumes: NAME → record (JSON).
package volumes
