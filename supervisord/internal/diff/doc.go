// Package diff turns layers into files and files into layers: Apply extracts a layer
// blob into mounts, Diff writes the difference of two mounts as a layer blob.
//
// Apply runs as a pipe of three: one goroutine reads and inflates, one hashes, one
// extracts (pkg/linux/layer). Where the mounts are an overlay or a bind mount, nothing is
// mounted: the files go straight to the directory that would receive them. Diff walks the
// upper directory alone where it can tell that lower lies right below it.
//
// Start reading at [Applier.Apply].
package diff
