// Package archive copies files between a container's root filesystem and tar streams: the
// mechanism of "cp", "export" and "diff".
//
// It works on the path of a mounted root and on nothing else: containers, images and HTTP
// are not known here. The root belongs to the container, which may be running and hostile,
// so every path goes through pkg/linux/inroot, entries are made relative to directory
// descriptors without following symlinks, and nothing is executed.
//
// Start reading at [Stat], [Read] and [Write].
package archive
