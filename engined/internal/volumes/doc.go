// Package volumes keeps named, engine-managed directories: definitions in engine.db, files
// below DATA/volumes/NAME/_data, and which containers use them.
package volumes
