// Package volumes keeps named, engine-managed directories: definitions and references in
// engine.db, files below DATA/volumes/NAME/_data.
//
// It owns names, the local driver's mounts (options type, o, device), and who uses a volume:
// a container refers to it from its creation to its removal (durable; keeps the volume from
// being removed) and acquires it while it runs (in memory; keeps it mounted). It refuses to
// know what containers are, and what is inside a volume.
//
// Invariant: a directory DATA/volumes/NAME has a record. A record is written before its
// directory is made, and a directory is renamed to .removing-… before its record is deleted;
// New finishes or undoes what a crash left in between.
//
// manager.go defines and removes, use.go is refer, acquire and back, options.go the local
// driver's mounts.
package volumes
