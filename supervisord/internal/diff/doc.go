// Package diff turns layers into files and files into layers: Apply extracts a layer
// blob into mounts, Diff writes the difference of two mounts as a layer blob.
package diff
