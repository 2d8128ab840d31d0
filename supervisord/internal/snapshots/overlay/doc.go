// Package overlay is the snapshot driver "overlayfs": a snapshot's own files are the
// upper directory of an overlay, its parents are the lower ones. Making one costs two
// directories, whatever its parents hold.
//
// Mounts are in the classic form, which clients hand to mount(2) themselves; our own
// pkg/linux/mount gives the layers to the kernel one by one. Start reading at
// [Driver.Mounts].
package overlay
