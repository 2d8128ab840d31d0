//go:build amd64 || arm64

package child

// tailStart returns the address of the tail's code in this binary.
func tailStart() uintptr
