// Package files selects files from trees that may be hostile, says what is in them, and
// puts them into a root filesystem: the mechanism of COPY, ADD and of their cache keys.
//
// A [Tree] is a build context ([Context], a tar that is kept as one file with an index, so
// that a context of many files costs one file) or a mounted root filesystem ([Root]). No
// path is followed out of either. What is written goes through pkg/linux/archive, which
// resolves every name inside the destination's root.
//
// The package knows no Dockerfile, no snapshot and no cache. Start reading at [Select].
package files
